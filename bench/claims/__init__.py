"""Claims as data: what somebody published, taken apart into sub-claims that evidence can decide.

A file in claims/ is one source. It is written before anything is measured, and the SHA-256 of its
bytes goes into every verdict. docs/claims.md says how to write one. Standard library only.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bench.cost.books import book
from bench.cost.prices import parse_date
from bench.errors import InputError, unknown
from bench.experiment import Gate, experiments, load_experiment
from bench.models import NAME, model_cards
from bench.roofline.gpus import gpus
from bench.schemes.bytes import check_quant

Direction = Literal["at_least", "at_most", "equals"]
Figure = Literal["decode_tok_s", "prefill_tok_s", "output_tok_s", "usd_per_mtok", "weights_bytes"]
METRICS: Final = (
    "decode_tok_s",
    "prefill_tok_s",
    "output_tok_s",
    "usd_per_mtok",
    "weights_bytes",
    "memory_bytes",
    "price_usd_per_mtok",
    "released",
    "usd_per_solved_task",
)
UNITS: Final = ("ratio", "tok/s", "cards")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSource:
    """Who published it, where and when."""

    title: str
    publisher: str
    date: str
    """2025-05-31, or 2025-05 or 2025 where the source says no more."""
    language: str
    """ISO 639-1 code of the quotes."""
    found: str
    """Address, or how to find it where no address is known."""

    def problems(self) -> Iterator[str]:
        for name in ("title", "publisher", "found"):
            if not getattr(self, name).strip():
                yield f"{name}: missing"
        if not re.fullmatch(r"[a-z]{2}", self.language):
            yield f"language: {self.language!r} is not a code such as 'ja'"
        if not _is_date(self.date):
            yield f"date: {self.date!r} is not 2025-05-31, 2025-05 or 2025"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByDates:
    """The treatment is the latest if no baseline came out after it, up to `on`."""

    on: datetime.date


@dataclass(frozen=True, slots=True, kw_only=True)
class ByBound:
    """The most that a card allows. It can refute; it never supports."""

    compare: Literal["cards", "schemes", "rate", "fits"]
    """What treatment and baselines name: cards or schemes. `rate`: the treatment is a card, the
    threshold a stated rate. `fits`: the treatment holds the model and the baseline does not."""
    model: str
    quant: str = "none"
    engine: str = "transformers"
    dtype: str = "auto"
    figure: Literal["decode_tok_s", "prefill_tok_s"] = "decode_tok_s"
    n_prompt: int = 128
    n_gen: int = 128
    n_batch: int = 1
    gpu: str | None = None
    """The card, where treatment and baselines are schemes."""
    n_gpus: int = 1
    least_share: float = 1.0
    """Least share of its own bound that a baseline is taken to reach: the ratio of two cards'
    bounds is divided by it. 1 says: as efficient as the treatment."""
    least_share_why: str = ""

    def problems(self) -> Iterator[str]:
        if not 0 < self.least_share <= 1:
            yield "least_share: must be above 0 and at most 1"
        if self.least_share < 1 and not self.least_share_why:
            yield "least_share_why: say where the share comes from"
        for name in ("n_prompt", "n_gen", "n_batch", "n_gpus"):
            if getattr(self, name) < 1:
                yield f"{name}: must be at least 1"
        if self.model not in model_cards():
            yield f"model: {unknown('model', self.model, model_cards())}"
        if self.compare == "schemes" and self.gpu is None:
            yield "gpu: missing; which card are the schemes compared on?"
        if self.gpu is not None and self.gpu not in gpus():
            yield f"gpu: {unknown('gpu', self.gpu, gpus())}"
        try:
            check_quant(self.quant)
        except InputError as error:
            yield f"quant: {error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByPrediction:
    """Batch-1 decode of one card over another, as `bench predict` has it. It can refute; it never
    supports."""

    model: str
    quant: str
    engine: str
    n_prompt: int = 512
    n_gen: int = 128

    def problems(self) -> Iterator[str]:
        if self.model not in model_cards():
            yield f"model: {unknown('model', self.model, model_cards())}"
        for name in ("n_prompt", "n_gen"):
            if getattr(self, name) < 1:
                yield f"{name}: must be at least 1"
        try:
            check_quant(self.quant)
        except InputError as error:
            yield f"quant: {error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByPublished:
    """Pairs of rows of bench/data/published/throughput.csv that differ in `vary` alone."""

    vary: Literal["gpu", "quant"]
    same: Mapping[str, str | int]
    """Column -> value that both rows of a pair have."""
    figure: Literal["decode_tok_s", "prefill_tok_s", "usd_per_mtok"] = "decode_tok_s"
    """`usd_per_mtok`: the price of an hour is the same, so the inverse of the decode ratio."""
    treatment: str | None = None
    """What stands for the treatment where it was not measured; then the rows never decide."""
    baseline: str | None = None
    """The same for the baseline."""

    def problems(self) -> Iterator[str]:
        for column in self.same:
            if column not in ("gpu", "n_gpus", "model", "quant", "engine", "n_batch", "source"):
                yield f"same.{column}: no such column to choose rows by"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByPrices:
    """Dated list prices of APIs: treatment over baseline."""

    on: datetime.date
    """The day on which both prices must be in force."""
    kinds: tuple[Literal["input", "cached_input", "output"], ...] = ()
    """Ratios of which prices; their range is the value."""
    offer: Literal["list", "off-peak"] = "list"
    """The treatment's offer; baselines count at list price."""
    fresh_tokens: float | None = None
    cached_tokens: float | None = None
    output_tokens: float | None = None
    mix_source: str = ""
    """Where the token mix comes from."""

    @property
    def mix(self) -> tuple[float, float, float] | None:
        """Fresh input, cached input and output tokens."""
        if self.fresh_tokens is None or self.cached_tokens is None or self.output_tokens is None:
            return None
        return self.fresh_tokens, self.cached_tokens, self.output_tokens

    def problems(self) -> Iterator[str]:
        tokens = (self.fresh_tokens, self.cached_tokens, self.output_tokens)
        given = [count for count in tokens if count is not None]
        if bool(given) == bool(self.kinds):
            yield "kinds: give either kinds, or the three token counts of a mix"
        if given and len(given) != 3:
            yield "fresh_tokens, cached_tokens, output_tokens: a mix needs all three"
        if any(count < 0 for count in given) or (given and not sum(given) > 0):
            yield "fresh_tokens, cached_tokens, output_tokens: must not be negative, nor all 0"
        if given and not self.mix_source:
            yield "mix_source: missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRent:
    """Published throughput and a dated rent, as dollars for output tokens over an API's price."""

    line: Mapping[str, str | int]
    """Column -> value that picks one row of bench/data/published/throughput.csv."""
    gpu: str
    """The card to rent, by its catalog name."""
    rent_on: datetime.date
    api_on: datetime.date
    level: Literal["published", "vendor"]

    def problems(self) -> Iterator[str]:
        if self.gpu not in gpus():
            yield f"gpu: {unknown('gpu', self.gpu, gpus())}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A ratio or rate that somebody states, without rows to compute it from."""

    level: Literal["published", "vendor"]
    value: float
    low: float | None = None
    high: float | None = None
    title: str
    found: str
    date: str
    scope: str

    def problems(self) -> Iterator[str]:
        if not _is_date(self.date):
            yield f"date: {self.date!r} is not 2025-05-31, 2025-05 or 2025"
        for name in ("title", "found", "scope"):
            if not getattr(self, name).strip():
                yield f"{name}: missing"
        if (self.low is None) != (self.high is None):
            yield "low, high: give both or none"
        elif (
            self.low is not None
            and self.high is not None
            and not (self.low <= self.value <= self.high)
        ):
            yield "low, value, high: must rise in this order"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRecords:
    """An experiment of this project whose records decide it."""

    experiment: str
    also: tuple[str, ...] = ()
    """Other experiments that measure the same arms; their records count as well."""
    figure: Figure = "decode_tok_s"
    n_batch: int | None = None
    """Only workloads of this batch size; every workload if absent."""
    gpu: str | None = None
    """Only records of this card, by its catalog name; any machine if absent."""
    n_gpus: int = 1
    """Cards that hold the model together, where the treatment is a card and the number a rate."""
    across: Literal["machine"] | None = None
    """`machine`: treatment and baselines are cards, and each arm is compared with itself on the
    other card, unpaired; absent: they are schemes of one machine, in pairs."""
    to_write: str = ""
    """What the experiment needs that is not offered yet; empty where its file is there."""

    def problems(self) -> Iterator[str]:
        if not self.to_write and self.experiment not in experiments():
            yield f"experiment: {unknown('experiment', self.experiment, experiments())}"
        for name in self.also:
            if name not in experiments():
                yield f"also: {unknown('experiment', name, experiments())}"
        if self.to_write and self.experiment in experiments():
            yield f"to_write: experiments/{self.experiment}.toml is there"
        if self.gpu is not None and self.gpu not in gpus():
            yield f"gpu: {unknown('gpu', self.gpu, gpus())}"
        if self.n_gpus < 1:
            yield "n_gpus: must be at least 1"
        if self.across and (self.gpu or self.figure in ("usd_per_mtok", "weights_bytes")):
            yield "across: excludes gpu, and figures that depend on a price or on the file"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedBy:
    """Every way in which a sub-claim may be decided, or why there is none."""

    records: ByRecords | None = None
    published: tuple[ByPublished, ...] = ()
    rent: tuple[ByRent, ...] = ()
    reported: tuple[Reported, ...] = ()
    bound: ByBound | None = None
    predicted: ByPrediction | None = None
    list_price: ByPrices | None = None
    date: ByDates | None = None
    not_testable: str = ""

    def problems(self) -> Iterator[str]:
        ways = (
            self.records,
            self.published,
            self.rent,
            self.reported,
            self.bound,
            self.predicted,
            self.list_price,
            self.date,
        )
        if bool(self.not_testable) == any(ways):
            yield "give at least one way to decide it, or not_testable with the reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubClaim:
    """One statement with one number, under one reading of what is compared with what."""

    id: str
    short: str
    """A few words for the claim's sentence: 'the list-price ratio to o1'."""
    text: str
    metric: str
    unit: str = "ratio"
    treatment: str
    baselines: tuple[str, ...] = ()
    """What it is compared with; several where the source names none. Empty for a stated rate: the
    treatment is then a card."""
    workload: str
    concluded: bool = False
    """What people conclude from the source, which does not say it: the source is not blamed."""
    thresholds: tuple[float, ...] = ()
    """More than one where the source's percentage has more than one reading."""
    direction: Direction = "at_least"
    up_to: bool = False
    """The source says 'up to': one workload that reaches the number is enough."""
    rounding: float = 0.0
    """Half the last digit that the source gives: `equals` holds within it."""
    quality_gate: Gate | None = None
    """Quality that must hold for the claim to be supported; absent where quality is no part."""
    scope: str
    assumptions: tuple[str, ...] = ()
    would_change: str
    decided_by: DecidedBy

    def problems(self) -> Iterator[str]:
        if self.metric not in METRICS:
            yield f"metric: {self.metric!r} is not one of {', '.join(METRICS)}"
        if self.unit not in UNITS:
            yield f"unit: {self.unit!r} is not one of {', '.join(UNITS)}"
        for i, threshold in enumerate(self.thresholds):
            if not math.isfinite(threshold) or threshold < 0:
                yield f"thresholds[{i}]: must be a finite number of at least 0"
        if not self.thresholds and not self.decided_by.not_testable:
            yield "thresholds: missing; without a number nothing can be decided"
        if len(set(self.thresholds)) != len(self.thresholds):
            yield "thresholds: a value is repeated"
        if self.up_to and self.direction != "at_least":
            yield "up_to: belongs to direction = 'at_least'"
        if self.rounding < 0 or (self.rounding and self.direction != "equals"):
            yield "rounding: must not be negative, and belongs to direction = 'equals'"
        yield from self._names()
        yield from self._arms()

    def _arms(self) -> Iterator[str]:
        """The experiment that decides it must measure what is claimed."""
        way = self.decided_by.records
        if way is None or way.to_write or way.across or not self.baselines:
            return
        measured = {variant.quant for variant in load_experiment(way.experiment).variants}
        for side in (self.treatment, *self.baselines):
            if side not in measured:
                yield f"treatment, baselines: {side!r} is not measured by {way.experiment}"

    def _names(self) -> Iterator[str]:
        """Cards and APIs that the ways to decide it look up must exist."""
        by, sides = self.decided_by, (self.treatment, *self.baselines)
        if not self.baselines and (by.date or by.list_price or by.rent or by.predicted):
            yield "baselines: missing; compared with what?"
        of_rate = not self.baselines  # then the treatment is a card
        cards = by.records is not None and (by.records.across is not None or of_rate)
        if cards or by.date or by.predicted or (by.bound and by.bound.compare != "schemes"):
            for side in sides:
                if side not in gpus():
                    yield f"treatment, baselines: {unknown('gpu', side, gpus())}"
        if by.bound and by.bound.compare == "schemes":
            for side in sides:
                try:
                    check_quant(side)
                except InputError as error:
                    yield f"treatment, baselines: {error}"
        apis = {row.item for row in book("api")}
        for side in sides if by.list_price else self.baselines if by.rent else ():
            if side not in apis:
                yield f"treatment, baselines: {unknown('API model', side, apis)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence of the source."""

    id: str
    quote: str
    """In the original language."""
    translation: str
    """In English; the quote again where it is English."""
    sub_claims: tuple[SubClaim, ...]

    def problems(self) -> Iterator[str]:
        for name in ("quote", "translation"):
            if not getattr(self, name).strip():
                yield f"{name}: missing"
        if not self.sub_claims:
            yield "sub_claims: missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFile:
    """Every claim of one source."""

    name: str
    source: ClaimSource
    claims: tuple[Claim, ...]
    sha256: str
    """Of the file's bytes, so that a verdict says which wording it judged."""

    def problems(self) -> Iterator[str]:
        if not NAME.fullmatch(self.name):
            yield f"name: {self.name!r} is not lower-case letters, digits, '.', '_', '-'"
        if not self.claims:
            yield "claims: missing"
        names = [claim.id for claim in self.claims]
        names += [part.id for claim in self.claims for part in claim.sub_claims]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"claims: the id {name!r} is repeated"


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}(-\d{2}){0,2}", text):
        return False
    try:
        parse_date(text + "-01" * (2 - text.count("-")))
    except InputError:
        return False
    return True
