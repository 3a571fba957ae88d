"""What a measured window gives to the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.engines.messages import Served


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringWindow:
    """Samples, and what is to be said of them."""

    samples: dict[str, Any]
    device: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def of_served(served: Served) -> MeasuringWindow:
    """Requests beside one another, so their times do not add up to the window's."""
    each = [asdict(one.counts) for one in served.requests if one.counts is not None]
    return MeasuringWindow(
        samples={
            "prefill_s": [one.prefill_s for one in served.requests],
            "itl_s": [list(one.itl_s) for one in served.requests],
            "e2e_s": [one.e2e_s for one in served.requests],
            "wall_s": served.wall_s,
            **({name: [one[name] for one in each] for name in each[0]} if each else {}),
        },
        device=served.device,
        reasons=served.reasons,
        absent=served.absent,
    )
