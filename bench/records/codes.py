"""The codes that say what is wrong with a figure: one table, one entry a code.

Codes are words of the record format: the measuring tower writes those that it can see, the reading
tower adds those that only a comparison can see. An entry says what the code means, which figures it
touches, and whether a figure that it touches is still evidence in a comparison. Standard library
only; docs/method.md shows the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Part = Literal["prefill", "decode", "energy", "memory"]
"""What a figure is made of: a request's price is of prefill and decode, joules a new token of
energy and decode."""

TIME: Final[frozenset[Part]] = frozenset({"prefill", "decode"})
ENERGY: Final[frozenset[Part]] = frozenset({"energy"})
ALL: Final[frozenset[Part]] = frozenset({"prefill", "decode", "energy", "memory"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """One reason against figures."""

    name: str
    sentence: str
    """What is wrong, as a clause."""
    touches: frozenset[Part] = ALL
    """Figures made of any of these are doubtful; the others stand."""
    excludes: bool = False
    """Whether a pair with it is left out of the comparison of the figures that it touches."""
    still: str = ""
    """Of a code that does not exclude: why a verdict may stand beside it."""
    by_phase: bool = False
    """Whether a record may say in `warmup.unsteady` which phases it is about."""


def _excluding(
    name: str, sentence: str, touches: frozenset[Part] = TIME, *, by_phase: bool = False
) -> Code:
    return Code(name=name, sentence=sentence, touches=touches, excludes=True, by_phase=by_phase)


def _failure(name: str, sentence: str) -> Code:
    return Code(name=name, sentence=sentence, still="the replicate has no figures")


NEIGHBOURS: Final = "NEIGHBOURS"

CODES: Final[dict[str, Code]] = {
    code.name: code
    for code in (
        _excluding("THERMAL_THROTTLE", "the device slowed itself down because it was hot"),
        _excluding("POWER_BRAKE", "an external power brake slowed the device down"),
        _excluding("FOREIGN_PROCESS", "another process used the device while it was measured"),
        Code(
            name="CONFIG_DIFFERS",
            sentence="driver, power limit, versions or clock policy differ between the arms",
            still="only if pooling was requested; otherwise refused",
        ),
        _excluding(
            "SPILLED", "the model did not fit on the card, and the driver used the host's memory"
        ),
        _excluding("START_TEMPERATURE", "the arms started more than 5 C apart"),
        _excluding("TOKEN_COUNT", "more or fewer tokens than requested", ALL),
        _excluding(
            "NO_STEADY_STATE",
            "warm-up reached its limit before the speed was steady",
            by_phase=True,
        ),
        _excluding("DRIFT", "speed changed by more than the limit within the measured window"),
        Code(
            name="CV",
            sentence="replicates differ by more than 5%",
            still="the interval includes this scatter",
        ),
        _excluding(
            "CLOCK_NOT_BRACKETED",
            "the energy counter's edges could not be aligned with the window",
            ENERGY,
        ),
        _excluding("COUNTER_RESET", "the energy counter went backwards", ENERGY),
        _excluding("SAMPLE_GAP", "device samples are more than 3 s apart", ENERGY),
        _excluding("SUSPENDED", "the machine slept within the measured window", ALL),
        _excluding("NONFINITE", "logits or figures are not finite numbers"),
        _excluding(
            "REQUESTS_FAILED",
            "requests failed, so the rest ran at lower concurrency",
        ),
        Code(
            name=NEIGHBOURS,
            sentence="other cards of the machine measured at the same time, and share its power, "
            "memory, bus and air",
            touches=TIME | ENERGY,
            still="both arms of a pair had as many neighbours; alone, a card may do otherwise",
        ),
        _excluding("CLIENT_BOUND", "the load generator was the bottleneck, not the server"),
        _excluding("PREFIX_CACHED", "the server took part of a prompt from a cache"),
        Code(
            name="NOT_MONOTONE",
            sentence="a lower arrival rate met the limits less often than a higher one",
            touches=TIME,
            still="the search ends at the lowest rate that fails them",
        ),
        _failure("OOM", "out of memory"),
        _failure("CRASH", "the worker process died, or its engine raised an error while measuring"),
        _failure(
            "NOT_LOADED", "the engine could not load the model; the record's message says why"
        ),
        _failure("NO_COMPILER", "torch's compiler or Triton cannot build anything on this machine"),
        _failure(
            "WRONG_MODEL",
            "with its cache the model computes different logits than without: not measured",
        ),
        _failure("TIMEOUT", "the worker process exceeded its time limit"),
        _failure(
            "INPUT",
            "an option, name or file of the arm is wrong; the record's message says which",
        ),
        _failure("UNSUPPORTED", "this device, scheme or package cannot do it"),
        Code(
            name="TOO_FEW_PAIRS",
            sentence="fewer pairs than a verdict needs",
            still="the ratio is shown without a verdict",
        ),
        Code(
            name="TOO_FEW_REPLICATES",
            sentence="fewer replicates of a machine than a verdict between machines needs",
            still="the ratio is shown without a verdict",
        ),
        Code(
            name="APART_IN_TIME",
            sentence="the machines were measured at different times, so the ratio includes drift",
            still="a difference above 5% stands, if neither machine's own speed drifted",
        ),
        _excluding(
            "RUN_DRIFT",
            "a machine's speed rose or fell over its own replicates, and the other was not "
            "measured at the same time",
        ),
        _excluding(
            "OUT_OF_TURN",
            "the pair was not measured back to back: others ran between its arms, or there was a "
            "long break",
        ),
        _excluding(
            "REQUESTS_DIFFER",
            "the arms of the pair were asked requests of different lengths (another seed, or a "
            "trace that changed)",
            ALL,
        ),
        Code(
            name="STORED_BASELINE",
            sentence="the baseline comes from another run, not measured in turns with this one",
            still="only if another run was requested as the baseline",
        ),
        Code(
            name="NOT_PAIRED",
            sentence="figures of another tool: not measured side by side in fresh processes",
            still="the ratio is shown without a verdict",
        ),
        Code(
            name="ENERGY_DISAGREES",
            sentence="the energy counter and the power samples differ by more than 5%",
            touches=ENERGY,
            still="the larger of the disagreement and the counter's error counts",
        ),
        Code(
            name="POWER_CAP_DIFFERS",
            sentence="the power limit held one arm back more often than the other",
            touches=TIME,
            still="the limit belongs to the card's configuration; another may change the ratio",
        ),
        Code(
            name="SYSTEMATIC_ERROR",
            sentence="the difference is smaller than the energy counter's error",
            touches=ENERGY,
            still="the ratio is shown without a verdict",
        ),
        _excluding("ABOVE_BOUND", "faster than the physical limit: a measurement error"),
        _excluding(
            "CONTRADICTION",
            "figures of the imported file contradict each other; `absent.self_check` names them",
            ALL,
        ),
        _excluding("INVALID_RUN", "the tool that measured calls this run invalid", ALL),
    )
}
"""Every code by its name."""

FORMER: Final = {"FAILED_REQUESTS": "REQUESTS_FAILED"}
"""Names that old records hold -> the code."""


def known(name: str) -> bool:
    """Whether a record may hold this code."""
    return name in CODES or name in FORMER


def current(names: Iterable[str]) -> tuple[str, ...]:
    """The codes as they are called today, each once."""
    return tuple(dict.fromkeys(FORMER.get(name, name) for name in names))


def touches(name: str) -> frozenset[Part]:
    """What a code touches; one that is not known here, of a newer version, touches everything."""
    code = CODES.get(name)
    return ALL if code is None else code.touches


def excludes(name: str) -> bool:
    """Whether a pair with this code is no evidence for the figures that it touches.

    One that is not known here is listed and leaves nothing out.
    """
    code = CODES.get(name)
    return code is not None and code.excludes


def sentence(name: str) -> str:
    """What a code means."""
    code = CODES.get(name)
    return "see the records" if code is None else code.sentence
