"""What counters of energy read over the windows of a replicate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bench.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyWindow:
    """What a counter of energy read over a window of work. Joules, seconds, watts."""

    energy_j: float | None = None
    window_s: float | None = None
    tokens: int | None = None
    idle_power_w: float | None = None
    scope: str | None = None
    systematic_error: float = 0.0
    """Share by which such counters may be off."""
    disagreement: float | None = None
    """Share by which the card's own power samples contradict the counter; None if they agree."""
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def power_w(self) -> float | None:
        joules, seconds = self.energy_j, self.window_s
        return joules / seconds if joules and seconds else None

    @property
    def per_token_j(self) -> float | None:
        """Joules a token, everything in the counter's scope."""
        joules, tokens = self.energy_j, self.tokens
        return None if joules is None or not tokens else joules / tokens

    @property
    def net_per_token_j(self) -> float | None:
        """Joules a token beyond idle; None where no more was drawn, or idle was not measured."""
        if self.energy_j is None or self.idle_power_w is None or self.window_s is None:
            return None
        net = self.energy_j - self.idle_power_w * self.window_s
        return net / self.tokens if net > 0 and self.tokens else None


NO_WINDOW: Final = EnergyWindow()


@dataclass(frozen=True, slots=True)
class EnergyFigures:
    """The windows of a replicate: prefill and decode apart, or one over all of it (a server)."""

    whole: EnergyWindow = NO_WINDOW
    prefill: EnergyWindow = NO_WINDOW
    decode: EnergyWindow = NO_WINDOW

    @property
    def windows(self) -> tuple[EnergyWindow, ...]:
        return tuple(w for w in (self.prefill, self.decode) if w is not NO_WINDOW)


NO_ENERGY: Final = EnergyFigures()
WHOLE: Final = frozenset({"energy_j", "idle_power_w", "scope"})
"""Keys that stand beside the phases' windows where there is one over all of it."""


def energy_of(record: Record) -> EnergyFigures:
    """The energy windows of a record."""
    table = record.energy
    if not table:
        return NO_ENERGY
    return EnergyFigures(
        whole=_window(table) if WHOLE.intersection(table) else NO_WINDOW,
        prefill=_window(table["prefill"]) if table.get("prefill") else NO_WINDOW,
        decode=_window(table["decode"]) if table.get("decode") else NO_WINDOW,
    )


def _window(table: Mapping[str, Any]) -> EnergyWindow:
    off = None
    if table.get("cross_check_agrees") is False:
        off = abs(table["cross_check_ratio"] - 1)
    return EnergyWindow(
        energy_j=table.get("energy_j"),
        window_s=table.get("window_s"),
        tokens=table.get("tokens"),
        idle_power_w=table.get("idle_power_w"),
        scope=table.get("scope"),
        systematic_error=table.get("systematic_error") or 0.0,
        disagreement=off,
        absent=table.get("absent") or {},
    )
