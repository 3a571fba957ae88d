"""From evidence to a verdict: pure rules, tested at their edges.

1. The strongest valid evidence that decides, decides: measured here, then published measurements,
   a physical bound, a prediction from published measurements, list prices, a vendor's own figure.
2. An interval decides only if it lies wholly on one side of the threshold; touching it decides
   nothing, and neither does a point. Prices and dates are exact: for them the number itself counts.
3. A bound, a prediction and a vendor's figure can refute; they never support.
4. A measurement here that decides nothing is not overruled by weaker evidence, except a bound.
5. Evidence of one level that disagrees is said and decides nothing; own measurements support only
   what holds in every workload measured. A measurement beyond a bound is an error.
6. Where equal quality is part of the claim, nothing supports it outside the quality gate.
7. Of an 'up to', one workload that reaches it is enough, and no workload that misses it refutes it:
   that can only a bound.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from bench.claims import Direction

Level = Literal["measured", "published", "bound", "predicted", "list_price", "vendor"]
Outcome = Literal["supported", "refuted", "undecided", "not_testable"]
STRENGTH: Final[tuple[Level, ...]] = (
    "measured",
    "published",
    "bound",
    "predicted",
    "list_price",
    "vendor",
)
"""Strongest first."""

ROUND_OFF: Final = 1e-9
"""Relative slack of exact arithmetic: 2.19 / 60 is 3.65% although its binary fraction is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One figure that bears on a sub-claim against one baseline."""

    level: Level
    value: float | None
    low: float | None = None
    high: float | None = None
    """Ends of the interval; of a bound, `high` is the ceiling (or `low` the floor of a cost)."""
    exact: bool = False
    """Arithmetic on prices or dates, or a count of bytes: the number itself counts."""
    cannot_support: str = ""
    """Why it may refute but not support, such as too few rows; empty if it may do both."""
    invalid: str = ""
    """Why it may not decide; empty if it may."""
    gate_problems: tuple[str, ...] | None = None
    """Why quality is not equal; empty if it is; None where it was not looked at."""
    scope: str = ""
    source: str = ""
    note: str = ""
    steps: tuple[str, ...] = ()
    """How the figure was computed, a line each."""

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The ends that decide; an exact figure without ends is its own interval."""
        if self.exact and self.low is None and self.high is None:
            return self.value, self.value
        return self.low, self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the evidence says about one threshold against one baseline."""

    outcome: Outcome
    threshold: float | None
    decided_by: Evidence | None = None
    """What decided, or the strongest that was looked at; None if there is none."""
    margin: float | None = None
    """How far the nearer end of the interval is from the threshold, as a share of it."""
    note: str = ""
    steps: tuple[str, ...] = field(default_factory=tuple)


def decide(
    evidence: Sequence[Evidence],
    threshold: float,
    direction: Direction,
    *,
    rounding: float = 0.0,
    gated: bool = False,
    up_to: bool = False,
) -> Verdict:
    """The verdict on one threshold; `gated` where equal quality is part of the claim, `up_to` where
    it is of some workload."""
    ranked = sorted(evidence, key=lambda item: STRENGTH.index(item.level))
    found: list[tuple[Evidence, Outcome]] = []
    steps: list[str] = []
    for item in ranked:
        outcome, why = _judge(item, threshold, direction, rounding, gated, up_to)
        steps.append(f"{item.level}: {why}")
        if not item.invalid and item.value is not None:
            found.append((item, outcome))
    chosen, outcome, notes = _choose(found, up_to)
    notes += [f"{item.level}: {item.invalid}" for item in ranked if item.invalid]
    if chosen is not None and outcome == "undecided":
        notes.insert(0, _judge(chosen, threshold, direction, rounding, gated, up_to)[1])
    return Verdict(
        outcome=outcome,
        threshold=threshold,
        decided_by=chosen,
        margin=None if chosen is None else _margin(chosen, threshold),
        note="; ".join(dict.fromkeys(notes)),
        steps=tuple(steps),
    )


def _choose(
    found: Sequence[tuple[Evidence, Outcome]], up_to: bool
) -> tuple[Evidence | None, Outcome, list[str]]:
    """The evidence that decides, its outcome, and what must be said about the rest."""
    if not found:
        return None, "undecided", []
    found, impossible = _possible(found)
    if impossible:
        chosen, outcome, notes = _choose(found, up_to)
        return chosen, outcome, notes + impossible
    measured = [pair for pair in found if pair[0].level == "measured"]
    refuting = [item for item, outcome in found if item.level == "bound" and outcome == "refuted"]
    if any(_is_beyond(item, limit) for item, _ in measured for limit, _ in found):
        return measured[0][0], "undecided", ["measured beyond the bound: one of the two is wrong"]
    if measured and all(outcome == "undecided" for _, outcome in measured) and not refuting:
        return measured[0][0], "undecided", []
    for place, (item, outcome) in enumerate(found):
        if outcome == "undecided":
            continue
        same = [(other, o) for other, o in found if other.level == item.level]
        if any(o not in ("undecided", outcome) for _, o in same):
            return item, "undecided", [f"{item.level} evidence disagrees: {_by_scope(same)}"]
        if (
            outcome == "supported"
            and item.level == "measured"
            and any(o != outcome for _, o in same)
            and not up_to
        ):
            return item, "undecided", [f"not in every workload: {_by_scope(same)}"]
        return item, outcome, _weaker(found[place + 1 :], item.level, outcome)
    return found[0][0], "undecided", []


def _possible(
    found: Sequence[tuple[Evidence, Outcome]],
) -> tuple[list[tuple[Evidence, Outcome]], list[str]]:
    """The evidence without what others state beyond a bound, and a note on each of those.

    Own measurements stay: there the bound may be what is wrong, and nothing is decided.
    """
    bounds = [item for item, _ in found if item.level == "bound"]
    kept, notes = [], []
    for item, outcome in found:
        stated = item.level in ("published", "vendor")
        if stated and any(_is_beyond(item, limit) for limit in bounds):
            notes.append(f"{item.level}: {_shown(item)} is beyond the bound and is no evidence")
        else:
            kept.append((item, outcome))
    return kept, notes


def _is_beyond(item: Evidence, limit: Evidence) -> bool:
    """Whether a whole interval lies where a bound says that nothing can."""
    if limit.level != "bound" or item.low is None or item.high is None:
        return False
    above = limit.high is not None and item.low > limit.high
    return above or (limit.low is not None and item.high < limit.low)


def _weaker(found: Sequence[tuple[Evidence, Outcome]], level: Level, outcome: Outcome) -> list[str]:
    """What evidence of weaker levels says, where it says anything."""
    decided = [(item.level, o) for item, o in found if item.level != level and o != "undecided"]
    agree = dict.fromkeys(kind for kind, o in decided if o == outcome)
    against = dict.fromkeys(kind for kind, o in decided if o != outcome)
    notes = [f"weaker evidence says the same: {', '.join(agree)}"] * bool(agree)
    return notes + [f"weaker evidence says otherwise: {', '.join(against)}"] * bool(against)


def _by_scope(found: Sequence[tuple[Evidence, Outcome]]) -> str:
    """Which workload or source says what."""
    return ", ".join(f"{outcome} for {item.scope or item.source}" for item, outcome in found)


def _judge(
    item: Evidence,
    threshold: float,
    direction: Direction,
    rounding: float,
    gated: bool,
    up_to: bool,
) -> tuple[Outcome, str]:
    """What one piece of evidence says by itself, and why in a few words."""
    if item.invalid:
        return "undecided", f"not counted: {item.invalid}"
    if item.value is None:
        return "undecided", item.note or "no figure"
    outcome = compare(item.interval, threshold, direction, rounding, point=not item.exact)
    shown = _shown(item)
    if outcome == "undecided":
        if item.interval == (None, None):
            return outcome, f"{shown} has no interval; a point estimate decides nothing"
        return outcome, f"{shown} does not exclude {threshold:g}"
    if outcome == "refuted" and up_to and item.level != "bound":
        return "undecided", f"{shown} misses {threshold:g}, but another workload may reach it"
    if outcome == "refuted":
        return (
            outcome,
            f"{shown} {'misses' if direction == 'equals' else 'is beyond'} {threshold:g}",
        )
    if item.level in ("bound", "predicted", "vendor"):
        return "undecided", f"{shown} allows it, but a {item.level} figure never supports"
    if item.cannot_support:
        return "undecided", f"{shown} agrees, but does not support: {item.cannot_support}"
    if gated and item.gate_problems is None:
        return "undecided", f"{shown} agrees, but quality was not measured"
    if gated and item.gate_problems:
        return "undecided", f"not supported at equal quality: {'; '.join(item.gate_problems)}"
    return "supported", f"{shown} holds against {threshold:g}"


def compare(
    interval: tuple[float | None, float | None],
    threshold: float,
    direction: Direction,
    rounding: float = 0.0,
    *,
    point: bool = True,
) -> Outcome:
    """Which side of the threshold an interval lies on; an end that is None is open.

    `point`: touching the threshold, and an interval without width, decide nothing. Otherwise the
    figure is exact: at the threshold, 'at least' and 'at most' hold.
    """
    low, high = interval
    if point and low is not None and low == high:
        return "undecided"
    slack = ROUND_OFF * max(abs(threshold), ROUND_OFF)
    if direction == "equals":
        below, above = threshold - rounding - slack, threshold + rounding + slack
        if (low is not None and low > above) or (high is not None and high < below):
            return "refuted"
        inside = low is not None and high is not None and below <= low and high <= above
        return "supported" if inside else "undecided"
    if direction == "at_most":
        low, high = (None if high is None else -high), (None if low is None else -low)
        threshold = -threshold
    if high is not None and high < threshold - slack:
        return "refuted"
    reach = threshold + slack if point else threshold - slack
    return "supported" if low is not None and low > reach else "undecided"


def _margin(item: Evidence, threshold: float) -> float | None:
    """Positive where the nearer end of the interval is above the threshold."""
    ends = [end for end in item.interval if end is not None]
    if not ends or not threshold:
        return None
    nearest = min(ends, key=lambda end: abs(end - threshold))
    return nearest / threshold - 1


def _shown(item: Evidence) -> str:
    low, high = item.interval
    if low is not None and high is not None:
        return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    if high is not None:
        return f"at most {high:.4g}"
    return f"at least {low:.4g}" if low is not None else f"{item.value:.4g}"


def readings(verdicts: Sequence[Verdict]) -> str:
    """Whether several thresholds of one statement agree: '' or what they say."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if len(outcomes) < 2:
        return ""
    said = ", ".join(f"{v.outcome} at {v.threshold:g}" for v in verdicts)
    return f"the readings disagree: {said}"
