"""Every figure of a replicate: what it is, what it is made of, and where it is shown.

One entry here is all that a new metric takes: it is then a key of `bench run -o json`, a column of
exports, and, as the entry says, a metric of `bench compare` and a column of tables and the page.
docs/metrics.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from bench.records import Record
from bench.records.codes import TIME, Part
from bench.summary.replicate import Raw, each_tpot_s, peak_memory

T = TypeVar("T")

Better = Literal["higher", "lower"]
Pooled = Literal["geometric", "median", "mean"]


class OnDemand(Mapping[str, T]):
    """Something of each of METRICS, made when it is asked for."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[str], T]) -> None:
        self._make = make
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(METRICS)

    def __len__(self) -> int:
        return len(METRICS)


def figures_of(raw: Raw) -> OnDemand[float | None]:
    """Each figure of one finished record."""
    return OnDemand(lambda name: METRICS[name].of(raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure of a replicate."""

    name: str
    """With its unit at the end."""
    meaning: str
    of: Callable[[Raw], float | None]
    parts: frozenset[Part] = TIME
    """A code that touches any of these makes the figure doubtful."""
    better: Better = "lower"
    compared: str = ""
    """Its name in `bench compare`; empty: not compared."""
    test: str = ""
    """Metrics of one `test` are one question asked in two units, and count once for Holm; empty:
    a question of its own."""
    window: Literal["prefill", "decode"] | None = None
    """Window of the energy counter that it is read from: its error is the metric's."""
    one_memory: bool = False
    """Whether a device's figure is not compared with that of a host."""
    pooled: Pooled = "geometric"
    """How replicates make a row."""
    words: str = ""
    """What a ratio of it is of, in the page; empty: not drawn there."""
    heading: str = ""
    """Of its column in tables; empty: no column but those that a table has anyway."""
    form: str = ",.3g"
    """Format specification in tables."""
    in_run: bool = True
    """Whether it is a key of `bench run -o json`."""
    exported: bool = True
    """Whether it is a column of exports."""

    @property
    def question(self) -> str:
        return self.test or self.compared


def _speed(name: str) -> Callable[[Raw], float | None]:
    return lambda raw: raw.speeds[name]


PREFILL: Final[frozenset[Part]] = frozenset({"prefill"})
DECODE: Final[frozenset[Part]] = frozenset({"decode"})
MEMORY: Final[frozenset[Part]] = frozenset({"memory"})
OF_PROMPT: Final[frozenset[Part]] = frozenset({"energy", "prefill"})
OF_NEW: Final[frozenset[Part]] = frozenset({"energy", "decode"})


def _token_s(raw: Raw) -> float | None:
    """Seconds of the machine for a token. At one price an hour for both arms, whatever it is,
    their ratio is that of the cost."""
    speed = raw.speeds["total_tok_s"]
    return None if speed is None else 1 / speed


def _requests_s(raw: Raw) -> float | None:
    samples = raw.record.samples
    return len(samples["e2e_s"]) / samples["wall_s"] if "wall_s" in samples else None


def _device_output_tok_s(raw: Raw) -> float | None:
    rate = _requests_s(raw)
    if rate is None:
        return None
    devices: int = (raw.record.variant.get("options") or {}).get("n_devices", 1)
    output = raw.speeds["output_tok_s"]
    return None if output is None else output / devices


LIMITS: Final = {"ttft_limit_s": "ttft", "tpot_limit_s": "tpot", "e2e_limit_s": "e2e"}
"""Options of an arm that limit a request's times."""


def limits_of(record: Record) -> dict[str, float]:
    """The limits that the record's arm was given."""
    options = record.variant.get("options") or {}
    return {name: float(options[key]) for key, name in LIMITS.items() if key in options}


def goodput_req_s(record: Record, limits: Mapping[str, float]) -> float | None:
    """Requests a second that kept every limit (`ttft`, `tpot`, `e2e`, seconds); None without one.

    Failed requests kept none. Source of the word: DistServe (OSDI'24), as vLLM's benchmark has it.
    """
    if not limits or "wall_s" not in record.samples:
        return None
    samples = record.samples
    tpots = each_tpot_s(record) or [0.0] * len(samples["e2e_s"])
    known = {"ttft": samples["prefill_s"], "tpot": tpots, "e2e": samples["e2e_s"]}
    kept = sum(
        all(known[name][i] <= limit for name, limit in limits.items())
        for i in range(len(samples["e2e_s"]))
    )
    wall_s: float = samples["wall_s"]
    return kept / wall_s


def _goodput(raw: Raw) -> float | None:
    if "wall_s" not in raw.record.samples:
        return None
    return goodput_req_s(raw.record, limits_of(raw.record))


def _energy_per_token_j(raw: Raw) -> float | None:
    """Mean power of the window over its tokens a second, prompt and new tokens alike."""
    if raw.energy.whole.tokens:  # an imported tool counts all tokens of its run itself
        return raw.energy.whole.per_token_j
    if "wall_s" not in raw.record.samples or raw.energy.whole.power_w is None:
        return None
    total = raw.speeds["total_tok_s"]
    return None if total is None else float(raw.energy.whole.power_w / total)


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            name="prefill_tok_s",
            meaning="prompt tokens of all sequences a second",
            of=_speed("prefill_tok_s"),
            parts=PREFILL,
            better="higher",
            compared="prefill",
            words="prefill speed",
            heading="prefill tok/s",
            form=",.1f",
        ),
        Metric(
            name="decode_tok_s",
            meaning="new tokens of all sequences a second, while decoding",
            of=_speed("decode_tok_s"),
            parts=DECODE,
            better="higher",
            compared="decode",
            words="decoding speed",
            heading="decode tok/s",
            form=",.1f",
        ),
        Metric(
            name="output_tok_s",
            meaning="new tokens of all sequences over the whole time",
            of=_speed("output_tok_s"),
            better="higher",
            heading="output tok/s",
            form=",.1f",
        ),
        Metric(
            name="total_tok_s",
            meaning="prompt and new tokens of all sequences over the whole time",
            of=_speed("total_tok_s"),
            better="higher",
        ),
        Metric(
            name="ttft_s",
            meaning="time to the first new token, median, s",
            of=_speed("ttft_s"),
            parts=PREFILL,
            compared="ttft",
            test="prefill",
        ),
        Metric(
            name="tpot_s",
            meaning="time per output token after the first, median, s",
            of=_speed("tpot_s"),
            parts=DECODE,
            compared="tpot",
            test="decode",
        ),
        Metric(
            name="e2e_s",
            meaning="time of a whole request, median, s",
            of=_speed("e2e_s"),
            compared="e2e",
        ),
        Metric(
            name="peak_memory_bytes",
            meaning="peak memory on the device; on a CPU, of the process",
            of=lambda raw: peak_memory(raw.record) or None,
            parts=MEMORY,
            compared="memory",
            one_memory=True,
            pooled="median",
            words="peak memory",
            exported=False,  # with what it is the peak of: peak_host_bytes, peak_device_bytes
        ),
        Metric(
            name="energy_per_output_token_j",
            meaning="joules a new token, gross",
            of=lambda raw: raw.energy.decode.per_token_j,
            parts=OF_NEW,
            compared="energy",
            window="decode",
            words="energy of a new token",
            heading="J per new token",
            form=".3g",
        ),
        Metric(
            name="net_energy_per_output_token_j",
            meaning="joules a new token, net of idle",
            of=lambda raw: raw.energy.decode.net_per_token_j,
            parts=OF_NEW,
            window="decode",
        ),
        Metric(
            name="energy_per_prompt_token_j",
            meaning="joules a prompt token, gross",
            of=lambda raw: raw.energy.prefill.per_token_j,
            parts=OF_PROMPT,
            window="prefill",
        ),
        Metric(
            name="net_energy_per_prompt_token_j",
            meaning="joules a prompt token, net of idle",
            of=lambda raw: raw.energy.prefill.net_per_token_j,
            parts=OF_PROMPT,
            window="prefill",
        ),
        Metric(
            name="requests_s",
            meaning="requests answered a second, of a server or where requests differ",
            of=_requests_s,
            better="higher",
            heading="requests/s",
            form=",.2f",
        ),
        Metric(
            name="goodput_req_s",
            meaning="requests a second within the arm's limits, of a server",
            of=_goodput,
            better="higher",
            pooled="mean",  # a rate of 0 has no logarithm, and is a figure all the same
            heading="within limits/s",
            form=",.2f",
        ),
        Metric(
            name="energy_per_token_j",
            meaning="joules a token, prompt and new alike, of a server",
            of=_energy_per_token_j,
            parts=TIME | {"energy"},
        ),
        Metric(
            name="device_output_tok_s",
            meaning="new tokens a second of each device behind a server",
            of=_device_output_tok_s,
            better="higher",
            exported=False,
        ),
        Metric(
            name="machine_s_per_token",
            meaning="machine seconds a token",
            of=_token_s,
            compared="cost",
            test="e2e",
            words="cost of a token",
            in_run=False,
            exported=False,
        ),
    )
}
"""Every metric by its name, in the order in which tables and comparisons list them."""

SPEEDS: Final = (
    "prefill_tok_s",
    "decode_tok_s",
    "output_tok_s",
    "total_tok_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
)


def compared() -> dict[str, Metric]:
    """The metrics of `bench compare`, by their names there."""
    return {metric.compared: metric for metric in METRICS.values() if metric.compared}
