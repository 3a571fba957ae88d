"""Predictions of which only the likeliest tokens are told: by servers and serving engines.

An arm's k likeliest tokens need not be its baseline's. What both tell is compared token by token,
and the rest as one group, whose mass is what is left of 1. Grouping loses information, so the
divergence is a lower bound, as in `bench.quality.store`. torch is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from bench.errors import UnsupportedError
from bench.quality.store import ROWS, StoredPrediction, divergence

if TYPE_CHECKING:
    from torch import Tensor

LEAST_REST = 1e-12
"""Mass of the rest where rounding leaves none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopPrediction:
    """The likeliest next tokens at each position of a window but its last."""

    indices: Sequence[Sequence[int]]
    """[position, k]: tokens, the likeliest first; empty if only `given` is told."""
    log_probs: Sequence[Sequence[float]]
    """[position, k]: theirs, natural logarithms over the whole vocabulary."""
    given: Sequence[float]
    """[position]: of the token that the text has there."""


@runtime_checkable
class TellsTop(Protocol):
    """An engine that tells the likeliest tokens alone."""

    def top_log_probs(self, window: Sequence[int]) -> TopPrediction:
        """Of each position of `window` but the last. Raises UnsupportedError."""


def top_prediction(
    positions: Sequence[Mapping[int, float]], window: Sequence[int], k: int
) -> TopPrediction:
    """Of what an engine tells of each position: the k likeliest tokens with their log-probability,
    and the text's own where it is not among them.

    Raises UnsupportedError if a position or token is missing.
    """
    if len(positions) != len(window) - 1 or any(len(told) < k for told in positions):
        raise UnsupportedError(f"the engine did not return {k} tokens for each position")
    pairs = list(zip(positions, window[1:], strict=True))
    if any(token not in told for told, token in pairs):
        raise UnsupportedError("the engine did not return the probability of a token of the text")
    likeliest = [sorted(told, key=told.__getitem__, reverse=True)[:k] for told in positions]
    return TopPrediction(
        indices=likeliest,
        log_probs=[
            [told[token] for token in tokens]
            for told, tokens in zip(positions, likeliest, strict=True)
        ],
        given=[told[token] for told, token in pairs],
    )


def stored(told: TopPrediction) -> StoredPrediction:
    """What is kept of it: the k tokens, and the mass of all others."""
    import torch

    indices, log_probs = torch.tensor(told.indices), torch.tensor(told.log_probs).double()
    return StoredPrediction(torch.cat([log_probs, rest(log_probs)], -1), indices, indices[:, 0])


def rest(log_probs: Tensor) -> Tensor:
    """[position, k] -> [position, 1]: logarithm of what is left of 1."""
    return (1 - log_probs.exp().sum(-1, keepdim=True)).clamp(min=LEAST_REST).log()


def against(told: TopPrediction, base: StoredPrediction) -> tuple[list[float], list[float]]:
    """KL(base || told) at each position, in nats, and the base's mass outside what both tell."""
    import torch

    ours, tokens = torch.tensor(told.log_probs).double(), torch.tensor(told.indices)
    kld: list[float] = []
    left: list[float] = []
    for start in range(0, len(tokens), ROWS):
        part = slice(start, start + ROWS)
        theirs, mine = _in_common(base.rows(start, start + ROWS), tokens[part], ours[part])
        before = torch.cat([theirs, rest(theirs)], -1)
        kld += divergence(before, torch.cat([mine, rest(mine)], -1)).tolist()
        left += before[:, -1].exp().tolist()
    return kld, left


def _in_common(base: StoredPrediction, tokens: Tensor, ours: Tensor) -> tuple[Tensor, Tensor]:
    """Both arms' log-probabilities [position, k] of our tokens; -inf in both where the base does
    not tell a token's."""
    import torch

    if base.indices is None:
        whole = base.groups.double()
        return (whole - whole.logsumexp(-1, keepdim=True)).gather(-1, tokens), ours
    same = tokens[:, :, None] == base.indices[:, None, :]
    known = same.any(-1)
    theirs = base.groups[:, :-1].double().gather(-1, same.int().argmax(-1))
    return theirs.masked_fill(~known, -torch.inf), ours.masked_fill(~known, -torch.inf)
