"""Whether a model decodes what it computes: checked at the start of every workload.

A cache that is not used, positions that start anew, a window that is not kept: all of them make
tokens at full speed, of another model. So before anything is measured the logits after the prompt
and after some cached steps are held against one full forward pass over the same tokens, without a
cache, in transformers' own attention. A difference beyond what the numbers' precision explains is
refused as WRONG_MODEL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.errors import UnsupportedError

STEPS: Final = 3
"""Cached steps that are looked at; a workload of fewer new tokens has one at least."""

ROWS: Final = 2
"""Sequences that are looked at: the first and the last of the batch."""

TOLERANCE: Final[Mapping[str, float]] = {"float32": 2e-3, "float16": 0.05, "bfloat16": 0.15}
"""Largest difference by dtype, as a share of the logits' own spread. Kernels of other shapes sum in
another order: with 8 bits of mantissa over some dozens of layers that is a few hundredths, and a
router near a tie may choose another expert."""

NOISE: Final = 3.0
"""In 16 bits the same place is computed in passes of two lengths; this many times as much as they
differ is allowed, where that is more."""

MOST: Final = 0.35
"""And never more than this: logits of another model differ by about 1.4."""

PROMPT: Final = 64
"""Tokens on which a model is checked before a scheme that scales activations is applied."""

LEAST_SCALED: Final = 0.7
"""With such a scheme the logits of one token and of many differ by more: on the embedded model by
0.3 of their spread with a scale for each token. This much is always allowed."""

MOST_SCALED: Final = 1.0
"""And never more than this. With one scale for the tensor passes of two lengths differ by as much
as another model does (1 to 3): there the difference is recorded and says nothing."""

Full = Callable[[Any, int], Any]
"""Logits [batch, n, vocabulary] of the last `n` places of tokens [batch, length], with no cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was found; goes into the record's notes."""

    error: float
    tolerance: float
    """Infinite where the difference says nothing."""

    def record(self) -> dict[str, float | None]:
        allowed = float(f"{self.tolerance:.3g}") if math.isfinite(self.tolerance) else None
        return {"error": float(f"{self.error:.3g}"), "tolerance": allowed}


def rows_of(prompt: Any) -> Any:
    """The sequences of a batch that are looked at."""
    return prompt if prompt.shape[0] <= ROWS else prompt[[0, -1]]


def difference(found: Any, expected: Any) -> Any:
    """Distance of logits [..., vocabulary] as a share of the expected ones' spread, for each row.

    Logits that are all but constant have no spread: then the distance counts as it is.
    """
    found, expected = found.float(), expected.float()
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    distance = (found - expected).norm(dim=-1)
    return distance / spread.clamp_min(1e-6 * max(1.0, float(expected.abs().max())))


def shortfall(tokens: Any, expected: Any) -> Any:
    """How far each token's logit lies below the best, as a share of the spread of its row."""
    expected = expected.float()
    chosen = expected.gather(-1, tokens[..., None])[..., 0]
    return (expected.amax(-1) - chosen) / expected.std(-1).clamp_min(1e-6)


def finite(logits: Any) -> Any:
    """The logits; UnsupportedError (NONFINITE) if one of them is no number."""
    import torch

    if not bool(torch.isfinite(logits).all()):
        raise UnsupportedError("the model's logits are not finite", "NONFINITE")
    return logits


def tolerance_for(dtype: str, full: Full, prompt: Any) -> float:
    """What may differ in this dtype, where activations are computed as they are."""
    least = TOLERANCE.get(dtype, TOLERANCE["bfloat16"])
    if dtype == "float32" or prompt.shape[1] < 2:
        return least
    return min(max(least, NOISE * _noise(full, prompt)), MOST)


def scaled_tolerance(full: Full, prompt: Any) -> float:
    """What may differ where each token or tensor of activations is scaled; infinite where the
    scheme alone explains as much as another model would."""
    if prompt.shape[1] < 2:
        return MOST_SCALED
    allowed = max(LEAST_SCALED, NOISE * _noise(full, prompt))
    return allowed if allowed <= MOST_SCALED else math.inf


def _noise(full: Full, prompt: Any) -> float:
    """Difference of the same place's logits in passes of two lengths."""
    alone = full(prompt[:, :-1], 1)
    return float(difference(alone, full(prompt, 2)[:, :1]).max())


def judge(found: Any, expected: Any, tolerance: float, what: str) -> Judged:
    """Refuse logits [batch, places, vocabulary] that are not those of the same model.

    In few bits one place may be off (a router that chose otherwise), so there half of them count;
    in float32 each does.
    """
    each = difference(found, expected).amax(0)
    worst = float(each.max() if tolerance < 0.01 else each.median())
    if not worst <= tolerance:
        raise UnsupportedError(
            f"{what} gives other logits than one pass over the same tokens (they differ by "
            f"{worst:.2g} of their spread; {tolerance:.2g} is allowed): it would be measured wrong",
            "WRONG_MODEL",
        )
    return Judged(error=worst, tolerance=tolerance)
