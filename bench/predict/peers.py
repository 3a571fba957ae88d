"""The rate that llmfit 1.1.17 states for the same question, to compare with.

Its formula (AlexsJones/llmfit llmfit-core/src/fit.rs and models.rs at 3f44fd30a43d): bandwidth over
active parameters times a table's bytes, times 0.55; experts by their number; 0.5 where layers and
0.8 where experts are left to a host of 50 GB/s. Its first tier for experts, which needs figures of
its own model list, is not included.
"""

from __future__ import annotations

from typing import Final

from bench.models.shapes import Shape
from bench.predict.placement import PlacedBytes

EFFICIENCY: Final = 0.55
HOST_GB_S: Final = 50.0
BYTES: Final = {
    "f16": 2.0,
    "none": 2.0,
    "q8_0": 1.0,
    "q6_k": 0.75,
    "q5_k_m": 0.625,
    "q3_k_m": 0.375,
    "q2_k": 0.25,
    "fp8-dynamic": 0.5,
}
"""Bytes a parameter for dense models; 0.5 for all else."""
EXPERT_BYTES: Final = {
    "f16": 2.0,
    "none": 2.0,
    "q8_0": 1.05,
    "q6_k": 0.80,
    "q5_k_m": 0.68,
    "q3_k_m": 0.48,
    "q2_k": 0.37,
}
"""The same for mixtures of experts; 0.58 for all else."""
MANY: Final = ((8, 0.90), (16, 0.85), (32, 0.80), (64, 0.70))


def llmfit_tok_s(s: Shape, quant: str, placed: PlacedBytes) -> float:
    """Tokens a second of one sequence."""
    gb_s = placed.point.gpu.bandwidth_gb_s
    embedding = sum(m.n_params for m in s.matrices if m.part == "embedding")
    plain = quant.removeprefix("ud-").replace("_k_xl", "_k_m").replace("q2_k_m", "q2_k")
    if not s.n_experts:
        rate = gb_s / (s.n_params / 1e9 * BYTES.get(plain, 0.5)) * EFFICIENCY
        return rate * (0.5 if placed.fit == "offload" else 1.0)
    active = (s.n_active_params + embedding) / 1e9
    if placed.fit == "offload":
        gb = active * BYTES.get(plain, 0.5)
        return 0.8 / (gb / HOST_GB_S + gb / (gb_s * EFFICIENCY))
    wide = EXPERT_BYTES.get(plain, 0.58)
    overhead = next((share for most, share in MANY if s.n_experts <= most), 0.40)
    used = s.n_params / 1e9 * wide / placed.point.gpu.vram_gib
    share = 1 - s.n_active_experts / s.n_experts
    pressure = 1.0 if used > 1 or used < 0.6 else max(0.3, 1 - (used - 0.6) * share)
    return gb_s / (active * wide) * EFFICIENCY * overhead * pressure
