"""Watts of a machine at the wall: measured where they were, else assumed, and always labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.cost.throughput import Throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of one machine while busy, and where they come from."""

    busy_w: Any
    """A number, or an array with one a draw."""
    source: str


def wall_power(values: Mapping[str, Any], one: Throughput, machines: int = 1) -> Power | None:
    """Power of one machine while busy, at the wall, from the best that is known; else None.

    Measured at the wall > measured on the device + the host's estimate > the wall figure given >
    measured on the device alone > the card's power limit. `values` are a scenario's, as numbers
    or as draws; `machines` worked as one.
    """
    host = values.get("watts_host")
    measured = None if one.power_w is None else one.power_w / machines
    if measured is not None and one.power_scope == "wall":
        return Power(busy_w=measured, source="measured (wall)")
    if measured is not None and host is not None:
        return Power(busy_w=measured + host, source=f"measured ({one.power_scope}) + host estimate")
    if "watts_busy" in values:
        return Power(busy_w=values["watts_busy"], source="assumed (wall)")
    if measured is not None:
        return Power(busy_w=measured, source=f"measured ({one.power_scope}), host not counted")
    if one.limit_w is None:
        return None
    if host is not None:
        return Power(busy_w=one.limit_w + host, source="card's power limit + host estimate")
    return Power(busy_w=one.limit_w, source="card's power limit, host not counted")
