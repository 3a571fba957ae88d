"""Fit the formula of `bench.predict.terms` on measured steps. Needs numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.predict.terms import Point, prior, terms

Floats = NDArray[np.float64]

SIGMA: Final = 0.06
"""Expected log residual of a row by whoever measured for a publication, batch 1."""
SIGMA_POSTED: Final = 0.12
"""The same of a post, whose machine and lengths are stated loosely."""
SIGMA_BATCH: Final = 0.25
"""The same for larger batches, which schedulers decide."""
SIGMA_HOST: Final = 0.3
"""The same where the host computes a part: its memory is not stated."""
OUTLIER: Final = 2.5
"""Residuals, in sigmas, from which a row counts less than its square."""


@dataclass(frozen=True, slots=True)
class Design:
    """Points as arrays: bases [term, point], and parameters [term, point, name]."""

    names: tuple[str, ...]
    base: Floats
    uses: Floats

    @classmethod
    def of(cls, points: Sequence[Point]) -> Design:
        made = [terms(p) for p in points]
        names = tuple(sorted({n for one in made for term in one for n in term.names}))
        at = {name: i for i, name in enumerate(names)}
        most = max(len(one) for one in made)
        base = np.zeros((most, len(points)))
        uses = np.zeros((most, len(points), len(names)))
        for i, one in enumerate(made):
            for k, term in enumerate(one):
                base[k, i] = term.base
                for name in term.names:
                    uses[k, i, at[name]] = 1
        return cls(names, base, uses)

    def parts(self, x: Floats) -> Floats:
        """Seconds [term, point]."""
        found: Floats = self.base * np.exp(self.uses @ x)
        return found


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
    small = Design(design.names, design.base[:, kept], design.uses[:, kept])
    trust, measured = weights[kept] / sigma[kept] ** 2, np.log(seconds[kept])
    limit = OUTLIER * sigma[kept]

    def cost(x: Floats) -> tuple[float, Floats, Floats]:
        parts = small.parts(x)
        total = parts.sum(axis=0)
        off = np.log(total) - measured
        size = np.abs(off)
        huber = np.where(size <= limit, off**2, 2 * limit * size - limit**2)
        value = float((trust * huber).sum() + (tight * (x - mean) ** 2).sum())
        return value, off, parts / total

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
