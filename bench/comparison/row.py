"""The row of `bench compare`: one metric of one candidate at one workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.statistics.unpaired import UnpairedRatio
from bench.summary import Sizes
from bench.summary.metrics import Better

Verdict = Literal["higher", "lower", "same", "ambiguous", "invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """Of a comparison between machines: which, and what else is not the same."""

    baseline_machine: str
    candidate_machine: str
    baseline_card: str
    candidate_card: str
    interleaved: bool
    """Whether their replicates were measured side by side in time."""
    differs: tuple[str, ...]
    """Versions and settings that are not the same on both, named with both values."""
    baseline_usd_per_hour: float | None
    candidate_usd_per_hour: float | None
    price_source: str
    scope: str
    """What the ratio speaks of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowHead:
    """What is compared."""

    sizes: Sizes | None
    """None for quality, which is of a text."""
    baseline: str
    """Names of the arms."""
    candidate: str
    equal_quality: bool | None = None
    """Whether the candidate keeps the gate; None where quality was not measured."""
    across: Across | None = None
    """None where both arms ran on one machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Candidate over baseline, with what may be said of it. A missing figure is None."""

    metric: str
    sizes: Sizes | None
    baseline: str
    candidate: str
    equal_quality: bool | None
    ratio: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n_pairs: int = 0
    """Of quality, tokens."""
    n_left_out: int = 0
    """Pairs that are no evidence."""
    better: Better
    p_value: float | None = None
    t_p_value: float | None = None
    t_agrees: bool | None = None
    reasons: tuple[str, ...] = ()
    p_adjusted: float | None = None
    """Holm's, over the whole table."""
    significant: bool = False
    verdict: Verdict
    across: Across | None = None
    unpaired: UnpairedRatio | None = None
    """Of a comparison between machines: replicates and their scatter."""

    @property
    def n_batch(self) -> int | None:
        return None if self.sizes is None else self.sizes.n_batch
