"""Quality of the weights that were timed: likelihood, divergence, agreement, a text to look at.

Perplexity alone hides damage: errors that make some tokens likelier and others less likely cancel
in it. So each token's whole predicted distribution is compared with the unquantized arm's. Text is
cut into windows that do not overlap; each starts with an empty cache, no token is added, and its
first token is not scored. docs/quality.md has the definitions; `bench.summary.quality` makes
summaries of what is returned here. torch is imported only inside functions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from bench.errors import InputError, UnsupportedError
from bench.quality import store as store
from bench.quality import top
from bench.quality.top import TellsTop, TopPrediction

if TYPE_CHECKING:
    from torch import Tensor

    from bench.engines import Engine

DIGITS: Final = 8
"""Significant digits kept of each token's figures; logits have about 7."""

CONTINUATIONS: Final = 1
"""Slow schemes decode a few tokens a second: one continuation to look at, not a statistic."""
PROMPT_TOKENS: Final = 64
NEW_TOKENS: Final = 64


OWN_ALONE: Final = "the server returns the probability of the text's own tokens only (`echo`)"


@runtime_checkable
class Continues(Protocol):
    """An engine (`bench.engines.Steps`) that can continue a given prompt."""

    def set_prompt(self, tokens: Sequence[int]) -> None:
        """Use these tokens as the prompt of one sequence."""

    def reset(self) -> None: ...
    def prefill(self) -> None: ...
    def step(self) -> None: ...
    def tokens(self) -> list[list[int]]: ...


@dataclass(slots=True)
class Scores:
    """Figures of each scored token, in text order."""

    nll: list[float] = field(default_factory=list)
    """Negative log likelihood, nats."""
    kld: list[float] = field(default_factory=list)
    """KL(baseline || this arm), nats."""
    same_top1: list[int] = field(default_factory=list)
    """1 where the most likely token is the baseline's."""
    rest_mass: list[float] = field(default_factory=list)
    """Baseline's probability outside the kept tokens; empty where all are kept."""


def evaluate(
    runs: Engine,
    text: str,
    *,
    max_tokens: int,
    window: int,
    base: str | Path | None = None,
    keep: str | Path | None = None,
) -> dict[str, Any]:
    """Figures of a loaded engine on the first `max_tokens` tokens of a text.

    `keep`: this is the baseline arm, whose predictions are written there. `base`: where the
    baseline's are. Returns nll, kld and same_top1 (a number for each scored token), method, tokens,
    continuations, and `absent` with the reason for each figure that is missing.

    Raises InputError (text too short, `base` unusable) and UnsupportedError (no logits; code
    NONFINITE for logits that are not numbers).
    """
    tokens = runs.tokenize(text)[:max_tokens]
    parts = windows(tokens, window)
    if not parts:
        raise InputError("the text has fewer than 2 tokens; quality needs a longer one")
    absent: dict[str, str] = {}
    scores = Scores()
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(store.StoreWriter(Path(keep), parts)) if keep else None
        reader = None
        if base is None:
            absent["kld"] = "this is the baseline arm" if keep else "there is no baseline arm"
        elif Path(base).exists():
            reader = stack.enter_context(store.StoreReader(Path(base), parts))
        else:
            absent["kld"] = "the baseline arm's predictions were not made"
        if reader and not reader.meta["windows"]:
            absent["kld"] = f"of the baseline, {OWN_ALONE}"
            reader = None
        how = None
        for number, part in enumerate(parts):
            base_part = reader.window(number) if reader else None
            if isinstance(runs, TellsTop):
                how = score_top(runs.top_log_probs(part), base_part, writer, scores)
                continue
            log_probs = finite(runs.log_probs(part))
            if writer:
                writer.add(log_probs)
            if base_part:
                compare(log_probs, base_part, scores)
            score(log_probs, part, scores)
        continuations = write_on(runs, parts, absent)
        if writer:
            writer.meta["continuations"] = [new for _, new in continuations]
        expected = reader.meta.get("continuations", []) if reader else []
        if isinstance(runs, TellsTop):
            if how is None:
                absent.setdefault("kld", OWN_ALONE)
        elif kept := writer or reader:
            how = method(kept.k)
    return {
        "nll": [rounded(value) for value in scores.nll],
        "kld": [rounded(value) for value in scores.kld],
        "same_top1": scores.same_top1,
        "tokens": len(tokens),
        "scored_tokens": len(scores.nll),
        "window": window,
        "method": how if writer or reader else None,
        "rest_mass": mean(scores.rest_mass),
        "continuations": told(runs, continuations, expected),
        "absent": absent,
    }


def windows(tokens: Sequence[int], length: int) -> list[list[int]]:
    """Consecutive pieces of `length` tokens; a last one of a single token is dropped."""
    pieces = [list(tokens[at : at + length]) for at in range(0, len(tokens), length)]
    return [piece for piece in pieces if len(piece) >= 2]


def finite(log_probs: Any) -> Tensor:
    """Log-probabilities as a tensor; UnsupportedError (NONFINITE) if one is not a number."""
    import torch

    tensor = torch.as_tensor(log_probs).detach()
    if bool(torch.isnan(tensor).any()) or bool((tensor == torch.inf).any()):
        raise UnsupportedError("the model's logits are not finite numbers", "NONFINITE")
    return tensor


def score(log_probs: Tensor, part: Sequence[int], scores: Scores) -> None:
    """Add the negative log likelihood of each token of a window but the first."""
    import torch

    target = torch.tensor(part[1:])
    for start in range(0, len(target), store.ROWS):
        rows = store.normalised(log_probs[start : start + store.ROWS])
        chosen = rows.gather(-1, target[start : start + store.ROWS, None])[:, 0]
        if not bool(torch.isfinite(chosen).all()):
            raise UnsupportedError("a token of the text has probability 0", "NONFINITE")
        scores.nll += (-chosen).tolist()


def compare(log_probs: Tensor, base: store.StoredPrediction, scores: Scores) -> None:
    """Add the divergence from the baseline and whether the most likely token is the same."""
    import torch

    count, vocabulary = log_probs.shape
    if base.indices is None and base.groups.shape != log_probs.shape:
        raise UnsupportedError(
            f"the arms' vocabularies differ: {base.groups.shape[-1]} and {vocabulary} tokens"
        )
    for start in range(0, count, store.ROWS):
        stop = min(start + store.ROWS, count)
        rows, kept = store.normalised(log_probs[start:stop]), base.rows(start, stop)
        before = kept.groups if kept.indices is not None else store.normalised(kept.groups)
        kld = store.divergence(before, store.grouped(rows, kept.indices))
        if not bool(torch.isfinite(kld).all()):
            raise UnsupportedError(
                "a token that the baseline thinks possible has probability 0", "NONFINITE"
            )
        scores.kld += kld.tolist()
        if kept.indices is not None:
            scores.rest_mass += before[:, -1].exp().tolist()
    scores.same_top1 += (log_probs.argmax(-1) == base.top1).int().tolist()


def score_top(
    told: TopPrediction,
    base: store.StoredPrediction | None,
    writer: store.StoreWriter | None,
    scores: Scores,
) -> str | None:
    """Add figures of an engine that tells its likeliest tokens alone, and say how they were
    computed; None if it tells the text's own alone, which give no divergence."""
    given = [-value for value in told.given]
    if not all(map(math.isfinite, given)):
        raise UnsupportedError("a token of the text has no finite probability", "NONFINITE")
    scores.nll += given
    if not told.indices:
        return None
    kept = top.stored(told)
    if writer:
        writer.keep(kept)
    if base:
        kld, left = top.against(told, base)
        scores.kld += kld
        scores.rest_mass += left
        scores.same_top1 += (kept.top1 == base.top1).int().tolist()
    return method_of_top(len(told.indices[0]))


def method_of_top(k: int) -> str:
    """How the divergence was computed where an engine tells so many tokens of each position."""
    return f"lower bound: over those of the {k} likeliest tokens that both arms give, and the rest"


def method(k: int | None) -> str:
    """How the divergence was computed."""
    if k is None:
        return "exact: over the whole vocabulary"
    return f"lower bound: over the baseline's {k} most likely tokens and the rest as one"


Continuation = tuple[list[int], list[int]]
"""Prompt and the tokens made after it."""


def write_on(
    runs: Engine, parts: Sequence[Sequence[int]], absent: dict[str, str]
) -> list[Continuation]:
    """Greedy continuations of the beginning of the first windows."""
    if not isinstance(runs, Continues):
        absent["continuations"] = "this engine cannot continue a given prompt"
        return []
    made = []
    for part in parts[:CONTINUATIONS]:
        prompt = list(part[:PROMPT_TOKENS])
        runs.set_prompt(prompt)
        runs.reset()
        runs.prefill()
        for _ in range(NEW_TOKENS - 1):
            runs.step()
        made.append((prompt, runs.tokens()[0]))
    return made


def told(
    runs: Engine, made: Sequence[Continuation], expected: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """Continuations as text for a human, and how far each agrees with the baseline's."""
    result = []
    for number, (prompt, new) in enumerate(made):
        entry: dict[str, Any] = {"prompt": runs.detokenize(prompt), "text": runs.detokenize(new)}
        if number < len(expected):
            entry["baseline"] = runs.detokenize(expected[number])
            entry["agreed_tokens"] = agreed(new, expected[number])
            entry["new_tokens"] = len(new)
        result.append(entry)
    return result


def agreed(made: Sequence[int], expected: Sequence[int]) -> int:
    """How many tokens are the same before the first that differs."""
    same = 0
    for one, other in zip(made, expected, strict=False):
        if one != other:
            break
        same += 1
    return same


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def rounded(value: float) -> float:
    """The number to `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")
