"""Fit the formula of `bench.predict.terms` on measured steps. Needs numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.predict.terms import OVERLAP, Point, prior, terms

Floats = NDArray[np.float64]

SIGMA: Final = 0.06
"""Expected log residual of a row by whoever measured for a publication, batch 1."""
SIGMA_POSTED: Final = 0.12
"""The same of a post of 2025 on, whose machine, build and lengths are stated loosely."""
SIGMA_BATCH: Final = 0.25
"""The same for larger batches, which schedulers decide."""
SIGMA_HOST: Final = 0.3
"""The same where the host computes a part, and its memory or what is left on it is not stated."""
SIGMA_HOST_STATED: Final = 0.15
"""The same where both are: processors reach more or less of their memory's rate."""
OUTLIER: Final = 2.5
"""Residuals, in sigmas, from which a row counts less than its square."""


@dataclass(frozen=True, slots=True)
class Design:
    """Points as arrays: bases [term, point], and parameters [term, point, name]."""

    names: tuple[str, ...]
    base: Floats
    uses: Floats
    ahead: NDArray[np.bool_]
    """Launches that overlap with the device's work [term, point]."""

    @classmethod
    def of(cls, points: Sequence[Point]) -> Design:
        made = [terms(p) for p in points]
        names = tuple(sorted({n for one in made for term in one for n in term.names}))
        at = {name: i for i, name in enumerate(names)}
        most = max(len(one) for one in made)
        base = np.zeros((most, len(points)))
        uses = np.zeros((most, len(points), len(names)))
        ahead = np.zeros((most, len(points)), dtype=bool)
        for i, one in enumerate(made):
            for k, term in enumerate(one):
                base[k, i] = term.base
                ahead[k, i] = term.ahead
                for name in term.names:
                    uses[k, i, at[name]] = 1
        return cls(names, base, uses, ahead)

    def of_points(self, kept: NDArray[np.bool_]) -> Design:
        """The same of some points alone."""
        return Design(self.names, self.base[:, kept], self.uses[:, kept], self.ahead[:, kept])

    def parts(self, x: Floats) -> Floats:
        """Seconds [term, point]."""
        found: Floats = self.base * np.exp(self.uses @ x)
        return found

    def seconds(self, x: Floats) -> Floats:
        """Seconds of each point."""
        return self.total(self.parts(x))[0]

    def total(self, parts: Floats) -> tuple[Floats, Floats]:
        """Seconds [point], and how much of a relative change each part passes on [term, point]."""
        ahead = np.where(self.ahead, parts, 0.0).sum(axis=0)
        device = np.where(self.ahead, 0.0, parts).sum(axis=0)
        whole: Floats = (ahead**OVERLAP + device**OVERLAP) ** (1 / OVERLAP)
        sums = np.where(self.ahead, ahead, device)
        share: Floats = parts * sums ** (OVERLAP - 1) / whole**OVERLAP
        return whole, share


def fit(
    design: Design,
    seconds: Floats,
    sigma: Floats,
    weights: Floats,
    start: Floats | None = None,
    max_steps: int = 80,
) -> Floats:
    """The parameters; a point of weight 0 is left out, and what only it uses keeps its prior.

    Gauss-Newton steps with Levenberg's damping on log seconds, robust beyond OUTLIER sigmas.
    """
    mean = np.array([prior(name)[0] for name in design.names])
    tight = np.array([prior(name)[1] for name in design.names]) ** -2.0
    kept = weights > 0
    small = design.of_points(kept)
    trust, measured = weights[kept] / sigma[kept] ** 2, np.log(seconds[kept])
    limit = OUTLIER * sigma[kept]

    def cost(x: Floats) -> tuple[float, Floats, Floats]:
        total, passed = small.total(small.parts(x))
        off = np.log(total) - measured
        size = np.abs(off)
        huber = np.where(size <= limit, off**2, 2 * limit * size - limit**2)
        value = float((trust * huber).sum() + (tight * (x - mean) ** 2).sum())
        return value, off, passed

    x = (mean if start is None else start).copy()
    value, off, share = cost(x)
    damping = 1e-3
    for _ in range(max_steps):
        slopes = np.einsum("kp,kpn->pn", share, small.uses)
        pull = trust * np.minimum(1.0, limit / np.maximum(np.abs(off), 1e-12))
        gradient = slopes.T @ (pull * off) + tight * (x - mean)
        curve = (slopes.T * pull) @ slopes + np.diag(tight)
        step = np.linalg.solve(curve + damping * np.diag(np.diag(curve)), gradient)
        trial, off_there, share_there = cost(x - step)
        if trial <= value:
            gained = value - trial
            x, value, off, share = x - step, trial, off_there, share_there
            damping = max(damping / 5, 1e-9)
            if gained < 1e-5 * (1 + value):
                break
        else:
            damping = min(damping * 8, 1e6)
    return x


def parameters(design: Design, x: Floats) -> Mapping[str, float]:
    """The fit as a table of names."""
    return {name: round(float(value), 5) for name, value in zip(design.names, x, strict=True)}
