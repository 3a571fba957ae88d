"""Reasons that make a figure invalid, and the rules that can be decided from samples alone.

Codes are words of the record format: the measuring tower writes them where it can see them, the
reading tower adds those that only a comparison can see. Standard library only.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "THERMAL_THROTTLE": "the device slowed itself down because it was hot",
        "POWER_BRAKE": "an external power brake slowed the device down",
        "FOREIGN_PROCESS": "another process used the device while it was measured",
        "CONFIG_DIFFERS": "driver, power limit, versions or clock policy differ between the arms",
        "START_TEMPERATURE": "the arms started more than 5 C apart",
        "TOKEN_COUNT": "the number of tokens made is not the number asked for",
        "NO_STEADY_STATE": "warm-up reached its limit before the speed was steady",
        "DRIFT": "speed changed by more than the limit within the measured window",
        "CV": "replicates differ by more than 5%",
        "CLOCK_NOT_BRACKETED": "the energy counter's edges could not be aligned with the window",
        "COUNTER_RESET": "the energy counter went backwards",
        "SUSPENDED": "the machine slept within the measured window",
        "SAMPLE_GAP": "device samples are more than 3 s apart",
        "NONFINITE": "logits or figures are not finite numbers",
        "QUALITY_GATE": "quality is outside the stated gate",
        "REQUESTS_FAILED": "requests to the server failed, so that the others had less company",
        "CLIENT_BOUND": "the client was late: figures are its own, not the server's",
        "PREFIX_CACHED": "the server took part of a prompt from a cache",
        "OOM": "out of memory",
        "CRASH": "the worker process died",
        "TIMEOUT": "the worker process passed its time limit",
        "INPUT": "an option, name or file of the arm is wrong; the record's message says which",
        "UNSUPPORTED": "this device, scheme or package cannot do it",
        "TOO_FEW_PAIRS": "fewer pairs than a verdict needs",
        "OUT_OF_TURN": "between the arms of a pair others were measured, or there was a long break",
        "STORED_BASELINE": "the baseline is of another run, not measured in turns with this one",
        "NOT_PAIRED": "figures of another tool: not measured side by side in fresh processes",
        "FAILED_REQUESTS": "some requests failed; the figures are those of the rest",
        "ENERGY_DISAGREES": "the energy counter and the power samples differ by more than 5%",
        "POWER_CAP_DIFFERS": "the power limit held one arm back more often than the other",
        "SYSTEMATIC_ERROR": "the difference is smaller than the energy counter may be off",
        "ABOVE_BOUND": "faster than the physical limit: a measuring error",
    }
)

DRIFT_LIMIT = 0.01
"""Share by which speed may change from the first to the second half of a measured window."""


def drift(durations: Sequence[float]) -> float | None:
    """Change of the median from the first to the second half, as a share; None below 4 values."""
    if len(durations) < 4:
        return None
    half = len(durations) // 2
    return statistics.median(durations[-half:]) / statistics.median(durations[:half]) - 1
