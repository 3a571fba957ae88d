"""A ratio of two arms that was tested: what paired and unpaired comparisons have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

T_FACTOR: Final = 4
"""How many times the error allowed the cross-check may have; docs/method.md has what it costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRatio:
    """Candidate over baseline, with its interval, a rank test and a t-test beside it."""

    ratio: float
    """Hodges-Lehmann point."""
    ci_low: float | None
    """None where there is too little for an exact interval at this confidence."""
    ci_high: float | None
    confidence: float
    """As asked for."""
    coverage: float | None
    """Of the exact interval, the least that is not below `confidence`."""
    p_value: float
    """Two-sided, exact rank test: the ratio is 1."""
    t_low: float | None
    """t interval; None where there is no spread to make it of."""
    t_high: float | None
    t_p_value: float | None

    @property
    def enough(self) -> bool:
        """Whether there is as much evidence as a verdict needs."""
        raise NotImplementedError

    @property
    def floor(self) -> float:
        """The smallest p-value that the rank test can give for so many figures."""
        raise NotImplementedError

    @property
    def excludes_one(self) -> bool:
        """Whether the interval lies on one side of 1."""
        if self.ci_low is None or self.ci_high is None:
            return False
        return self.ci_low > 1 or self.ci_high < 1

    @property
    def t_agrees(self) -> bool:
        """Whether the t-test sees the same difference, if faintly.

        Asked of an interval that excludes 1: the mean of the logarithms must lie on its side, with
        a p-value of at most `T_FACTOR` times the error allowed. One disturbed figure widens the t
        interval and must not end a verdict; several that pull the other way must.
        """
        if not self.excludes_one or self.t_p_value is None:
            return True
        assert self.t_low is not None
        assert self.t_high is not None
        same_side = (self.ratio > 1) == (self.t_low * self.t_high > 1)
        return same_side and self.t_p_value <= T_FACTOR * (1 - self.confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 6, 1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def adjustable_p(found: JudgedRatio, n_tests: int) -> float | None:
    """The p-value that Holm's adjustment over `n_tests` tests is made of.

    The exact one, unless its floor could not pass the adjustment however clear the difference; then
    the t-test's. The choice hangs on numbers of figures and tests alone, never on the figures:
    taking the smaller of both would call too many differences.
    """
    exact = found.floor * n_tests <= 1 - found.confidence
    return found.p_value if exact else found.t_p_value
