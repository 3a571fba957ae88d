"""Watts of a machine at the wall: measured where they were, else assumed, and always labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.cost.throughput import Throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of one machine while busy and while idle, and where they come from."""

    busy_w: Any
    """A number, or an array with one a draw."""
    source: str
    idle_w: Any = None
    """None if nothing gives it."""
    idle_source: str | None = None


def wall_power(values: Mapping[str, Any], one: Throughput, machines: int = 1) -> Power | None:
    """Power of one machine while busy, at the wall, from the best that is known; else None.

    Measured at the wall > measured on the device + the host's estimate > the wall figure given >
    measured on the device alone > the card's power limit. `values` are a scenario's, as numbers
    or as draws; `machines` worked as one.
    """
    busy = _busy(values, one, machines)
    if busy is None:
        return None
    idle_w, source = _idle(values, one, machines)
    return Power(busy_w=busy[0], source=busy[1], idle_w=idle_w, idle_source=source)


def _busy(values: Mapping[str, Any], one: Throughput, machines: int) -> tuple[Any, str] | None:
    host = values.get("watts_host")
    measured = None if one.power_w is None else one.power_w / machines
    if measured is not None and one.power_scope == "wall":
        return measured, "measured (wall)"
    if measured is not None and host is not None:
        return measured + host, f"measured ({one.power_scope}) + host estimate"
    if "watts_busy" in values:
        return values["watts_busy"], "assumed (wall)"
    if measured is not None:
        return measured, f"measured ({one.power_scope}), host not counted"
    if one.limit_w is None:
        return None
    if host is not None:
        return one.limit_w + host, "card's power limit + host estimate"
    return one.limit_w, "card's power limit, host not counted"


def _idle(values: Mapping[str, Any], one: Throughput, machines: int) -> tuple[Any, str | None]:
    """Power of one machine at rest, the model loaded; (None, None) if nothing gives it.

    Measured at the wall > the wall figure given > measured on the device + the host's estimate >
    measured on the device alone. A host at rest draws less than the estimate, which is of its
    work: so here the figure given for the wall comes before it.
    """
    measured = None if one.idle_w is None else one.idle_w / machines
    if measured is not None and one.power_scope == "wall":
        return measured, "measured (wall)"
    if "watts_idle" in values:
        return values["watts_idle"], "assumed (wall)"
    if measured is None:
        return None, None
    if (host := values.get("watts_host")) is not None:
        return measured + host, f"measured ({one.power_scope}) + host estimate"
    return measured, f"measured ({one.power_scope}), host not counted"
