"""How close to the bound an engine comes: the model that predictions are made with.

Decode, seconds a step of a batch of B:

    t = L tau_e m_k c0/c                 fixed time: kernels and launches, by layer and clock
      + bytes / (f_e BW)                 weights, at the engine's share of the bandwidth
      + B N i_k / (S c)                  unpacking of a scheme's weights, on S processors at clock c
      + KV (1/BW + a_e / (S c))          the cache, at bandwidth and at what attention costs
      + (B - 1) L s_e c0/c               what each further sequence adds

with `e` the engine (f_e differs between GDDR and HBM cards), `k` the kernel family of the scheme.
Experts multiply the fixed time. Each engine's parameters are pulled towards those
of all engines, so that an engine with few rows stays near the others. Prefill is a straight line
in logarithms: achieved FLOP/s over peak, processors, bandwidth and prompt length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench import schemes
from bench.roofline.gpus import Gpu

Floats = NDArray[np.float64]
CLOCK: Final = 2e9
"""The clock, in Hz, that fixed times are stated at."""


def kernel(quant: str) -> str:
    """The kernel family of a scheme: those that unpack alike; any other is its own family."""
    row = schemes.find(quant)
    return row.family or row.name if row is not None else quant.lower()


Experts = Literal["none", "plain", "latent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One workload on one card, as the decode model sees it."""

    engine: str
    kernel: str
    gpu: Gpu
    layers: int
    n_batch: int
    step_bytes: float
    """Weights read by a step."""
    kv_bytes: float
    """Cached keys and values read by a step, over the whole batch."""
    n_weights: float
    """Parameters that one token is multiplied with."""
    experts: Experts = "none"
    """Routed experts: none, with plain attention, or with latent attention as DeepSeek has it."""


LOCAL: Final = ("tau", "share", "stacked", "attention", "sequence")
"""Parameters of an engine: log s, logit, logit, log, log s."""
CENTRE: Final = np.array([np.log(25e-6), 1.5, 0.5, np.log(0.3), np.log(1e-6)])
SPREAD_ALL: Final = np.array([1.0, 1.0, 1.0, 2.0, 1.5])
SPREAD_ENGINE: Final = np.array([0.7, 0.7, 0.5, 0.7, 0.7])
UNPACK: Final = (np.log(0.02), 1.5)
"""Mean and spread of the log of a kernel family's unpacking cost, clocks a weight."""
LAUNCH_SPREAD: Final = 0.7
"""Spread of the log of a kernel family's factor on the fixed time."""
LATENT: Final = (np.log(5.0), 1.5)
"""The same of a mixture of experts with latent attention; its rows are three, all of one model."""
PLAIN: Final = np.log(2.0)
"""The same with plain attention, for which there are no rows: router and gather, taken as twice
the kernels of a dense layer."""
SIGMA: Final = 0.06
"""Expected log residual of a batch-1 row."""
SIGMA_BATCH: Final = 0.25
"""The same for larger batches, which schedulers decide; so they count for less."""


class DecodeModel:
    """The decode formula with parameters fitted on points and their measured seconds a step."""

    def __init__(
        self,
        points: Sequence[Point],
        seconds: Floats,
        weights: Floats,
        start: DecodeModel | None = None,
    ) -> None:
        """Fit. A point of weight 0 is left out: what only it speaks for falls back to the means.

        `start` is a model of the same points with other weights, to begin from.
        """
        from scipy.optimize import least_squares

        self.engines = sorted({p.engine for p in points})
        self.kernels = sorted({p.kernel for p in points} - {"float"})
        columns: dict[str, Any] = self._columns(points) if start is None else start.columns
        self.columns: dict[str, Any] = columns
        measured = np.log(seconds)
        batch = np.array([p.n_batch > 1 for p in points])
        scale = weights / np.where(batch, SIGMA_BATCH, SIGMA)

        def residuals(x: Floats) -> Floats:
            misfit = (np.log(self._seconds(x, columns)) - measured) * scale
            return np.concatenate([misfit, self._prior(x)])

        prior = self._prior_slopes()

        def slopes(x: Floats) -> Floats:
            return np.vstack([self._slopes(x, columns) * scale[:, None], prior])

        first = self._centre() if start is None else start.x
        self.x: Floats = least_squares(residuals, first, jac=slopes, max_nfev=200).x

    def _centre(self) -> Floats:
        kernels = len(self.kernels)
        return np.concatenate(
            [
                np.tile(CENTRE, len(self.engines) + 1),
                np.full(kernels, UNPACK[0]),
                np.zeros(kernels),
                [LATENT[0]],
            ]
        )

    def fitted_seconds(self) -> Floats:
        """Predicted seconds of the points that the model was made with."""
        return self._seconds(self.x, self.columns)

    def seconds(self, points: Sequence[Point]) -> Floats:
        """Predicted seconds a step. Engines and families that were not fitted take the means."""
        return self._seconds(self.x, self._columns(points))

    def parameters(self, engine: str) -> dict[str, float]:
        """The fitted parameters of an engine in plain units, for the report."""
        local = self._split(self.x)[0][self._engine(engine)]
        return {
            "fixed_us_per_layer": float(np.exp(local[0]) * 1e6),
            "share_gddr": float(1 / (1 + np.exp(-local[1]))),
            "share_hbm": float(1 / (1 + np.exp(-(local[1] - local[2])))),
        }

    def _engine(self, name: str) -> int:
        return self.engines.index(name) if name in self.engines else len(self.engines)

    def _columns(self, points: Sequence[Point]) -> dict[str, Any]:
        """The points as arrays [point]."""

        def column(values: Sequence[float]) -> Floats:
            return np.array(values, dtype=np.float64)

        clocks = column([(p.gpu.boost_mhz or CLOCK / 1e6) * 1e6 for p in points])
        return {
            "engine": np.array([self._engine(p.engine) for p in points]),
            # 0 is float, the last place stands for families that were not fitted.
            "kernel": np.array([self._kernel(p.kernel) for p in points]),
            "slow": CLOCK / clocks,
            "rate": clocks * column([p.gpu.sms or 64 for p in points]),
            "bandwidth": column([p.gpu.bandwidth for p in points]),
            "hbm": column([p.gpu.hbm for p in points]),
            "latent": column([p.experts == "latent" for p in points]),
            "plain": column([p.experts == "plain" for p in points]),
            "layers": column([p.layers for p in points]),
            "batch": column([p.n_batch for p in points]),
            "bytes": column([p.step_bytes for p in points]),
            "kv": column([p.kv_bytes for p in points]),
            "n": column([p.n_weights for p in points]),
        }

    def _kernel(self, name: str) -> int:
        if name == "float":
            return 0
        return 1 + (self.kernels.index(name) if name in self.kernels else len(self.kernels))

    def _split(self, x: Floats) -> tuple[Floats, Floats, Floats, float]:
        """Engines [engine, parameter] with the mean last, unpacking, launch factors, experts."""
        n, k = (len(self.engines) + 1) * len(LOCAL), len(self.kernels)
        local = x[:n].reshape(-1, len(LOCAL))
        return local, x[n : n + k], x[n + k : n + 2 * k], float(x[-1])

    def _prior(self, x: Floats) -> Floats:
        local, unpack, launch, latent = self._split(x)
        return np.concatenate(
            [
                ((local[:-1] - local[-1]) / SPREAD_ENGINE).ravel(),
                (local[-1] - CENTRE) / SPREAD_ALL,
                (unpack - UNPACK[0]) / UNPACK[1],
                launch / LAUNCH_SPREAD,
                [(latent - LATENT[0]) / LATENT[1]],
            ]
        )

    def _seconds(self, x: Floats, c: dict[str, Any]) -> Floats:
        found: Floats = sum(self._terms(x, c), start=np.zeros(len(c["n"])))
        return found

    def _terms(self, x: Floats, c: dict[str, Any]) -> list[Floats]:
        """The summands: fixed, weights, unpacking, cache at bandwidth, attention, batch."""
        local, unpack, launch, latent = self._split(x)
        p = local[c["engine"]]
        cost = np.concatenate([[0.0], np.exp(unpack), [np.exp(UNPACK[0])]])[c["kernel"]]
        factor = np.exp(np.concatenate([[0.0], launch, [0.0]]))[c["kernel"]]
        return [
            c["layers"]
            * np.exp(p[:, 0])
            * factor
            * c["slow"]
            * np.exp(latent * c["latent"] + PLAIN * c["plain"]),
            c["bytes"] / c["bandwidth"] * (1 + np.exp(p[:, 2] * c["hbm"] - p[:, 1])),
            c["batch"] * c["n"] * cost / c["rate"],
            c["kv"] / c["bandwidth"],
            c["kv"] * np.exp(p[:, 3]) / c["rate"],
            (c["batch"] - 1) * c["layers"] * np.exp(p[:, 4]) * c["slow"],
        ]

    def _slopes(self, x: Floats, c: dict[str, Any]) -> Floats:
        """Derivatives [point, parameter] of the log of the predicted seconds."""
        fixed, weights, unpacking, _, attention, batch = terms = self._terms(x, c)
        total = sum(terms, start=np.zeros(len(c["n"])))
        spare = weights - c["bytes"] / c["bandwidth"]
        found = np.zeros((len(total), len(x)))
        row, n_local, n_kernels = np.arange(len(total)), len(LOCAL), len(self.kernels)
        for i, part in enumerate((fixed, -spare, spare * c["hbm"], attention, batch)):
            found[row, c["engine"] * n_local + i] = part
        first = (len(self.engines) + 1) * n_local
        fitted = (c["kernel"] > 0) & (c["kernel"] <= n_kernels)
        at = first + c["kernel"][fitted] - 1
        found[row[fitted], at] = unpacking[fitted]
        found[row[fitted], at + n_kernels] = fixed[fitted]
        found[:, -1] = fixed * c["latent"]
        slopes: Floats = found / total[:, None]
        return slopes

    def _prior_slopes(self) -> Floats:
        """Derivatives of `_prior`, which is linear in the parameters."""
        size = (len(self.engines) + 1) * len(LOCAL) + 2 * len(self.kernels) + 1
        zero = self._prior(np.zeros(size))
        return np.stack([self._prior(unit) - zero for unit in np.eye(size)], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prefill on one card."""

    gpu: Gpu
    kernel: str
    n_prompt: int
    layers: int
    flops: float


PREFILL_PENALTY: Final = np.array([0.0, 0.1, 0.1, 0.3, 0.3, 0.1, 0.1, 0.3])
PREFILL_CENTRE: Final = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
HUBER: Final = 0.15


class PrefillModel:
    """log(FLOP/s) as a straight line of the card's figures, robust against single odd rows."""

    def __init__(self, prompts: Sequence[Prompt], seconds: Floats) -> None:
        a, y = self._features(prompts), np.log([p.flops for p in prompts]) - np.log(seconds)
        y = y - a @ PREFILL_CENTRE
        weights = np.ones(len(y))
        for _ in range(20):
            left = a.T @ (a * weights[:, None]) + np.diag(PREFILL_PENALTY)
            self.x: Floats = np.linalg.solve(left, a.T @ (y * weights))
            weights = 1 / np.maximum(1, np.abs(y - a @ self.x) / HUBER)

    def seconds(self, prompts: Sequence[Prompt]) -> Floats:
        """Predicted seconds of each prefill."""
        rate = np.exp(self._features(prompts) @ (self.x + PREFILL_CENTRE))
        found: Floats = np.array([p.flops for p in prompts]) / rate
        return found

    @staticmethod
    def _features(prompts: Sequence[Prompt]) -> Floats:
        return np.array(
            [
                [
                    1.0,
                    p.kernel == "float",
                    # GeForce cards may sum in 16 bits at twice the catalogued rate.
                    np.log((p.gpu.bf16_tflops or 1) * (2 if p.gpu.geforce else 1)),
                    np.log((p.gpu.sms or 64) * (p.gpu.boost_mhz or 2000)),
                    np.log(p.gpu.bandwidth_gb_s / 1000),
                    np.log(p.n_prompt / 1024),
                    np.log(p.n_prompt / 1024) ** 2,
                    p.layers > 60,
                ]
                for p in prompts
            ],
            dtype=np.float64,
        )
