"""One record, read: its figures, and which of them something speaks against.

A replicate's figure is the median over its requests, which single slow requests do not move
(docs/metrics.md). This room is the only one that looks into a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean, median
from typing import Final

from bench.experiment.devices import behind, kind_of
from bench.records import EPOCH, OWN, Record
from bench.records.codes import CODES, TIME, Part, current, touches
from bench.statistics import middle, rank_sum_z
from bench.summary.arm import ArmSettings, Sizes
from bench.summary.energy import NO_ENERGY, EnergyFigures, energy_of

DRIFT_LIMIT: Final = 0.01
"""Share by which speed may change from the first to the second half of a measured window."""
DRIFT_Z: Final = 2.3
"""By chance 1 window in 50 is beyond this; for 4 + 4 requests it means wholly apart (1 in 35)."""

ACCELERATORS: Final = ("cuda", "mps", "xpu")


@dataclass(frozen=True, slots=True)
class Doubt:
    """A code, and the figures that it touches in this record."""

    code: str
    parts: frozenset[Part]

    def touches(self, parts: frozenset[Part]) -> bool:
        return not self.parts.isdisjoint(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFigures:
    """A model as loaded."""

    weights_bytes: int | None
    """Of every weight as held."""
    n_params: int | None
    quantized_fraction: float | None
    dynamic: str | None
    kernel: str | None
    load_s: float | None
    peak_host_bytes: int | None
    peak_device_bytes: int | None


class Raw:
    """What figures are taken from: the record, and what is read of it once, when asked for."""

    __slots__ = ("_energy", "_speeds", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self._speeds: Mapping[str, float | None] | None = None
        self._energy: EnergyFigures | None = None

    @property
    def speeds(self) -> Mapping[str, float | None]:
        if self._speeds is None:
            self._speeds = speeds(self.record)
        return self._speeds

    @property
    def energy(self) -> EnergyFigures:
        if self._energy is None:
            self._energy = energy_of(self.record)
        return self._energy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replicate:
    """One workload of one fresh process."""

    raw: Raw
    arm: ArmSettings
    sizes: Sizes
    doubts: tuple[Doubt, ...]
    figures: Mapping[str, float | None]
    """Each of `bench.summary.metrics.METRICS`, made when asked for; empty for a failure."""

    @property
    def record(self) -> Record:
        """As it is on disk, to be written out again; its figures are here."""
        return self.raw.record

    @property
    def energy(self) -> EnergyFigures:
        return self.raw.energy if self.ok else NO_ENERGY

    @property
    def key(self) -> str:
        return self.record.key

    @property
    def environment(self) -> str:
        return self.record.environment

    @property
    def experiment(self) -> str:
        return self.record.experiment

    @property
    def origin(self) -> str:
        return self.record.origin

    @property
    def index(self) -> int:
        """Of the pair."""
        return self.record.replicate

    @property
    def ok(self) -> bool:
        return self.record.status == "ok"

    @property
    def started(self) -> datetime:
        return datetime.fromisoformat(self.started_at)

    @property
    def started_at(self) -> str:
        return self.record.started_at

    @property
    def started_us(self) -> int:
        """The same in microseconds since 1970; a time without a zone is taken for UTC."""
        started = self.started
        if started.tzinfo is None:
            started = started.replace(tzinfo=UTC)
        return (started - EPOCH) // timedelta(microseconds=1)

    @property
    def message(self) -> str | None:
        """Why it failed."""
        return self.record.message

    @property
    def absent(self) -> Mapping[str, str]:
        return self.record.absent

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every code, whatever it touches."""
        return tuple(doubt.code for doubt in self.doubts)

    @property
    def status(self) -> str:
        return self.record.status

    @property
    def position(self) -> int:
        """In the order of measuring."""
        return self.record.position

    @property
    def tokens_checked(self) -> int | None:
        """Tokens compared with eager mode when the workload started."""
        found: int | None = self.record.model.get("notes", {}).get("tokens_checked")
        return found

    @property
    def tokens_as_eager(self) -> int | None:
        """How many of them were alike before the first that differs."""
        found: int | None = self.record.model.get("notes", {}).get("tokens_as_eager")
        return found

    @property
    def requests_id(self) -> str | None:
        """SHA-256 of the lengths of the requests, where they differ (`bench.demand`)."""
        found: str | None = self.record.model.get("notes", {}).get("requests_sha256")
        return found

    @property
    def copies_weights(self) -> bool | None:
        """Whether its compiled step writes weights out in floats; None where that is not known."""
        step = self.record.model.get("notes", {}).get("step") or {}
        found: bool | None = step.get("copies_weights")
        return found

    @property
    def own_tool(self) -> bool:
        """Whether this tool made it; others do not measure in pairs of fresh processes."""
        return self.origin in OWN

    @property
    def valid(self) -> bool:
        """Whether it finished and its decoding (of one new token: prefill) stands."""
        return self.ok and not against(self.doubts, main_part(self.sizes))

    @property
    def on_device(self) -> bool:
        """Whether its peak of memory is the device's own, and not the process's."""
        return bool(self.record.memory.get("peak_device_bytes"))

    @property
    def loaded(self) -> LoadedFigures:
        """What was loaded, and the memory that it took."""
        model, memory = self.record.model, self.record.memory
        return LoadedFigures(
            weights_bytes=model.get("weights_bytes"),
            n_params=model.get("n_params"),
            quantized_fraction=model.get("quantized_fraction"),
            dynamic=model.get("dynamic"),
            kernel=model.get("kernel"),
            load_s=model.get("load_s"),
            peak_host_bytes=memory.get("peak_host_bytes"),
            peak_device_bytes=memory.get("peak_device_bytes"),
        )

    @property
    def energy_scope(self) -> str | None:
        """What the counter covers; None where its windows differ in it."""
        scopes = {w.scope for w in self.energy.windows if w.scope}
        if not scopes:
            return self.energy.whole.scope
        return scopes.pop() if len(scopes) == 1 else None

    @property
    def temperature_start_c(self) -> float | None:
        found: float | None = self.record.device.get("temperature_start_c")
        return found

    @property
    def power_cap_share(self) -> float | None:
        """Of the samples, in which the power limit held the card back."""
        found: float | None = self.record.device.get("sw_power_cap_share")
        return found

    @property
    def clock(self) -> str | None:
        """What took the time."""
        found = self.record.device.get("clock")
        return None if found is None else str(found)

    @property
    def n_requests(self) -> int:
        """Requests that the medians are of."""
        lists = (v for v in self.record.samples.values() if isinstance(v, list))
        return max(map(len, lists), default=0)

    @property
    def request_s(self) -> float | None:
        """Median time of a request, as measured."""
        return middle(self.record.samples.get("e2e_s", ()))

    @property
    def first_token_s(self) -> float | None:
        """Median time to the first token, as measured; None where the tool states it otherwise."""
        return middle(self.record.samples.get("prefill_s", ()))

    @property
    def decoding_s(self) -> float | None:
        """Median time of a request after its first token, by its gaps."""
        return middle(sum(gaps) for gaps in self.record.samples.get("itl_s", ()))

    @property
    def overlaps(self) -> bool:
        return overlaps(self.record)

    @property
    def served(self) -> bool:
        """Whether a server answered; its window is then measured as a whole."""
        return "wall_s" in self.record.samples

    @property
    def noise(self) -> float | None:
        """Within one process: half the range of its requests' decode times over their median,
        leaving out the tenth at each end. None for fewer than 2 requests, or where decoding took no
        time (a server that answers in one piece)."""
        times = sorted(each_tpot_s(self.record))
        cut = len(times) // 10
        kept = times[cut : len(times) - cut]
        middle_s = median(kept) if len(kept) > 1 else 0.0
        return (kept[-1] - kept[0]) / 2 / middle_s if middle_s else None

    @property
    def host_ratio(self) -> float | None:
        """Wall time on the host over the device's own time of the same requests."""
        host, device = (self.record.samples.get(name) for name in ("host_s", "e2e_s"))
        if not host or not device or len(host) != len(device):
            return None
        return float(sum(host) / sum(device))

    @property
    def early_share(self) -> float:
        """Share of the decoded tokens that were made while other prompts were still read (vLLM).

        They are in `decode_tok_s`, and their time in prefill's.
        """
        early: int = self.record.model.get("notes", {}).get("early_tokens", 0)
        return early / ((self.sizes.n_gen - 1) * (self.sizes.n_batch or 1)) if early else 0.0

    @property
    def drifts(self) -> bool:
        """Whether speed changed within the measured window, beyond noise (`DRIFT`).

        The medians of the window's halves differ by more than `DRIFT_LIMIT`, and the rank sum of
        the halves is beyond `DRIFT_Z`. Fewer than 8 requests show nothing, nor do those that come
        as they like: their queue grows and shrinks.
        """
        if "rate" in self.record.workload:
            return False
        times = self.record.samples.get("e2e_s", [])
        half = len(times) // 2
        if half < 4:
            return False
        first, second = times[:half], times[-half:]
        change: float = median(second) / median(first) - 1
        return abs(change) > DRIFT_LIMIT and abs(rank_sum_z(first, second)) > DRIFT_Z


def main_part(sizes: Sizes) -> frozenset[Part]:
    """The part that decides whether a row is called valid: decoding, if there is any."""
    return frozenset({"decode"}) if sizes.n_gen != 1 else frozenset({"prefill"})


def against(doubts: Iterable[Doubt], parts: frozenset[Part]) -> tuple[str, ...]:
    """The codes that touch figures made of these parts, sorted, each once."""
    return tuple(sorted({doubt.code for doubt in doubts if doubt.touches(parts)}))


def doubts_of(record: Record) -> tuple[Doubt, ...]:
    """The record's own codes. NO_STEADY_STATE touches only the phases that were unsteady, where
    the record says which: older ones do not."""
    if not record.reasons:
        return ()
    return tuple(Doubt(code, _parts(code, record)) for code in current(record.reasons))


def _parts(code: str, record: Record) -> frozenset[Part]:
    entry = CODES.get(code)
    if entry is not None and entry.by_phase:
        said = TIME.intersection(record.warmup.get("unsteady") or ())
        return said or entry.touches
    return touches(code)


def overlaps(record: Record) -> bool:
    """Whether requests were in flight beside one another, each begun on its own."""
    if "wall_s" not in record.samples:
        return False
    work, options = record.workload, record.variant.get("options") or {}
    return (work["n_batch"] or 0) > 1 or "rate" in options or "rate" in work


def batch_s(record: Record) -> float:
    """Seconds in which `n_batch` requests are done: of a server, by its window's throughput."""
    samples = record.samples
    if "wall_s" in samples:
        wall_s: float = samples["wall_s"]
        return wall_s * int(record.workload["n_batch"]) / len(samples["e2e_s"])
    each: list[float] = samples["e2e_s"]
    return median(each)


def each_tpot_s(record: Record) -> list[float]:
    """(e2e - ttft) / (n_gen - 1) of each request; [] for one new token.

    Where each gap is one token that is their mean; a server's chunks need not be tokens. A tool
    that was imported may state it.
    """
    samples, n_gen = record.samples, int(record.workload["n_gen"])
    if "n_gen" in samples:
        if max(samples["n_gen"]) == 1:
            return []
        each = zip(samples["e2e_s"], samples["prefill_s"], samples["n_gen"], strict=True)
        return [(e2e - ttft) / max(n - 1, 1) for e2e, ttft, n in each]
    if "tpot_s" in samples:
        return list(samples["tpot_s"])
    if "wall_s" not in samples:
        return [sum(gaps) / len(gaps) for gaps in samples.get("itl_s", ()) if gaps]
    if n_gen == 1:
        return []
    pairs = zip(samples["e2e_s"], samples["prefill_s"], strict=True)
    return [(e2e - ttft) / (n_gen - 1) for e2e, ttft in pairs]


def speeds(record: Record) -> dict[str, float | None]:
    """Medians of one replicate, by the definitions of docs/metrics.md; None if it has none.

    Where an imported tool states a figure and not what it is made of, `samples` holds the figure
    under its own name. A figure that `absent` names is not made up from others.
    """
    n_prompt, n_gen, n_batch = (record.workload[k] for k in ("n_prompt", "n_gen", "n_batch"))
    samples = record.samples

    def known(name: str, made: float | None) -> float | None:
        if name in record.absent:
            return None
        return middle(samples[name]) if name in samples else made

    prefill, tpot = middle(samples.get("prefill_s", ())), middle(each_tpot_s(record))
    alone = None if overlaps(record) else prefill
    if "n_gen" in samples:  # requests that differ: as many tokens as they really had
        n_prompt, n_gen = fmean(samples["n_prompt"]), fmean(samples["n_gen"])
        alone = fmean(samples["prefill_s"]) if alone else None  # all prompts over all their time
    timed = samples.get("e2e_s") and (n_batch or "wall_s" not in samples)
    batch = batch_s(record) if timed else None
    return {
        "ttft_s": known("ttft_s", prefill),
        "tpot_s": known("tpot_s", tpot),
        "e2e_s": known("e2e_s", None),
        "prefill_tok_s": known("prefill_tok_s", _rate(n_batch, n_prompt, alone)),
        "decode_tok_s": known("decode_tok_s", _rate(n_batch, 1, tpot)),
        "output_tok_s": known("output_tok_s", _rate(n_batch, n_gen, batch)),
        "total_tok_s": known("total_tok_s", _rate(n_batch, n_prompt + n_gen, batch)),
    }


def _rate(n_batch: int | None, tokens: float, seconds: float | None) -> float | None:
    """Tokens a second of all sequences; None where nothing is made or the batch is not known."""
    return n_batch * tokens / seconds if n_batch and tokens and seconds else None


def peak_memory(record: Record) -> int | None:
    """Peak bytes on the device, be it that of a server here; on a CPU, of the process.

    None for an accelerator whose own peak was not read: its process on the host says nothing of it.
    """
    if on_device := record.memory.get("peak_device_bytes"):
        return int(on_device)
    device = str(record.variant.get("device", ""))
    kind = kind_of(behind(device) or device)
    return None if kind in ACCELERATORS else record.memory.get("peak_host_bytes")
