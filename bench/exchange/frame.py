"""Records as a table: one row a record, columns and types as docs/data.md lists them.

A missing figure is missing (`<NA>`), never 0; the column `absent` says why. Columns are added and
never renamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from bench.records.file import Results
from bench.summary import METRICS, Doubt, Host, Replicate, Row, summarise
from bench.summary.columns import FIGURE
from bench.summary.quality import QualityScores
from bench.summary.replicate import LoadedFigures, against
from bench.summary.rows import NO_TAILS, Tails, tails

if TYPE_CHECKING:
    import pandas

Type = Literal["str", "Int64", "Float64", "boolean", "datetime64[us, UTC]"]


@dataclass(frozen=True, slots=True)
class Line:
    """What a column takes its value from: one replicate, its machine, and its arm's quality."""

    one: Replicate
    host: Host
    quality: QualityScores | None
    tails: Tails
    """What only a server's records have."""
    loaded: LoadedFigures


@dataclass(frozen=True, slots=True)
class FrameColumn:
    """One column: its name, type, meaning, and where its value comes from."""

    name: str
    type: Type
    meaning: str
    of: Callable[[Line], Any]
    column: str = ""
    """The column of the columnar copy that holds it (`bench.summary.columns`), if one does."""
    hangs_on: tuple[str, ...] = ()
    """Else the columns of the copy that decide it: many records have the same value."""


def _replicate(name: str, kind: Type, meaning: str, column: str = "") -> FrameColumn:
    own = column or name
    return FrameColumn(name, kind, meaning, lambda line: getattr(line.one, own), own)


def _arm(name: str, kind: Type, meaning: str, column: str = "") -> FrameColumn:
    return FrameColumn(
        column or name,
        kind,
        meaning,
        lambda line: getattr(line.one.arm, name),
        hangs_on=("variant",),
    )


def _size(name: str, meaning: str) -> FrameColumn:
    return FrameColumn(
        name, "Int64", meaning, lambda line: getattr(line.one.sizes, name), hangs_on=("sizes",)
    )


def _loaded(name: str, kind: Type, meaning: str) -> FrameColumn:
    return FrameColumn(name, kind, meaning, lambda line: getattr(line.loaded, name), name)


def _figure(name: str) -> FrameColumn:
    return FrameColumn(
        name,
        "Float64",
        METRICS[name].meaning,
        lambda line: line.one.figures.get(name),
        f"{FIGURE}{name}",
    )


def _tail(name: str, meaning: str) -> FrameColumn:
    return FrameColumn(name, "Float64", meaning, lambda line: getattr(line.tails, name), name)


def _quality(name: str, meaning: str) -> FrameColumn:
    def value(line: Line) -> float | None:
        estimate = getattr(line.quality, name, None)
        return None if estimate is None else float(estimate.value)

    return FrameColumn(name, "Float64", meaning, value, hangs_on=("environment", "variant"))


def _machine(name: str, kind: Type, meaning: str) -> FrameColumn:
    return FrameColumn(
        name,
        kind,
        meaning,
        lambda line: line.host.identity.get(name),
        hangs_on=("environment",),
    )


def _json(value: Mapping[str, Any]) -> str:
    if not value:
        return "{}"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@lru_cache(maxsize=1024)
def _doubtful(doubts: tuple[Doubt, ...]) -> str | None:
    """The codes against each figure, where there are some; many records have the same."""
    if not doubts:
        return None
    found = {
        name: codes
        for name, metric in METRICS.items()
        if metric.exported and (codes := against(doubts, metric.parts))
    }
    return _json(found)


COLUMNS: Final = (
    _replicate("key", "str", "identity of the piece of work"),
    _replicate("origin", "str", "`measured`, `synthetic`, or the tool it was imported from"),
    _replicate("experiment", "str", "name of the experiment"),
    _arm("name", "str", "the arm: model/engine/quant and settings", "variant"),
    _arm("model", "str", "model"),
    _arm("engine", "str", "engine"),
    _arm("quant", "str", "scheme of the weights; `none` is unquantized"),
    _arm("mode", "str", "eager, compiled, ..."),
    _arm("dtype", "str", "float type of what is not quantized"),
    _arm("device", "str", "device as resolved"),
    _arm("threads", "Int64", "threads, where set"),
    FrameColumn(
        "options",
        "str",
        "engine settings beyond these, a JSON object",
        lambda line: _json(line.one.arm.options),
        hangs_on=("variant",),
    ),
    _size("n_prompt", "prompt tokens of a sequence"),
    _size("n_gen", "new tokens of a sequence"),
    _size("n_batch", "sequences at once"),
    _replicate("replicate", "Int64", "pair index: equal ones were measured side by side", "index"),
    _replicate("position", "Int64", "place in the order of measuring"),
    _replicate("started_at", "datetime64[us, UTC]", "when"),
    _replicate("status", "str", "`ok` or `failed`"),
    FrameColumn(
        "valid",
        "boolean",
        "finished, and no reason speaks against its decoding (of one new token: its prefill)",
        lambda line: line.one.valid,
        hangs_on=("ok", "doubts", "sizes"),
    ),
    FrameColumn(
        "reasons",
        "str",
        "codes that make figures doubtful, separated by spaces",
        lambda line: " ".join(line.one.reasons),
        hangs_on=("doubts",),
    ),
    _replicate("message", "str", "why it failed"),
    _replicate("n_requests", "Int64", "requests that the medians are of"),
    _figure("ttft_s"),
    _figure("tpot_s"),
    _figure("e2e_s"),
    _figure("prefill_tok_s"),
    _figure("decode_tok_s"),
    _figure("output_tok_s"),
    _figure("total_tok_s"),
    _replicate(
        "noise", "Float64", "half the range of the requests' decode times over their median"
    ),
    _figure("requests_s"),
    _figure("goodput_req_s"),
    _tail("ttft_p99_s", "99th percentile of a server's requests, s"),
    _tail("tpot_p99_s", "99th percentile of a server's requests, s"),
    _tail("itl_p99_s", "99th percentile of a server's gaps, s"),
    _loaded("peak_host_bytes", "Int64", "peak memory of the process"),
    _loaded("peak_device_bytes", "Int64", "peak memory on the device"),
    _loaded("weights_bytes", "Int64", "bytes of every weight as held"),
    _loaded("n_params", "Int64", "weights, by number"),
    _loaded("quantized_fraction", "Float64", "share of the weights in the scheme's form"),
    _loaded("dynamic", "str", "which meaning of dynamic quantization"),
    _loaded("kernel", "str", "what multiplies"),
    _loaded("load_s", "Float64", "time to load, s"),
    _figure("energy_per_output_token_j"),
    _figure("energy_per_prompt_token_j"),
    _figure("energy_per_token_j"),
    _figure("net_energy_per_output_token_j"),
    _figure("net_energy_per_prompt_token_j"),
    FrameColumn(
        "energy_scope",
        "str",
        "what the counter covers",
        lambda line: line.one.energy_scope,
        hangs_on=("energy", "ok"),
    ),
    _quality("ppl", "perplexity of the arm"),
    _quality("ppl_ratio", "perplexity over the baseline's"),
    _quality("mean_kld", "mean KL divergence from the baseline, nats a token"),
    _quality("same_top1", "share of tokens with the baseline's most likely token"),
    _replicate("environment", "str", "id of the machine and software: equal ones may be pooled"),
    _machine("host", "str", "hash of the host"),
    _machine("cpu", "str", "processor"),
    _machine("gpu", "str", "card, as its driver names it"),
    _machine("backend", "str", "what ran on it, of an imported tool: CUDA, ROCm, Vulkan, ..."),
    _arm("cards", "Int64", "cards that worked as one; each has its price", "n_devices"),
    _machine("gpu_driver", "str", "driver of the card"),
    _machine("gpu_power_limit_w", "Float64", "power limit of the card, W"),
    _machine("os", "str", "operating system"),
    _machine("python", "str", "version of Python"),
    _machine("torch", "str", "version of torch"),
    _machine("bench", "str", "version of this project"),
    FrameColumn(
        "absent",
        "str",
        "figure -> why it is missing, a JSON object",
        lambda line: _json(line.one.absent),
        hangs_on=("absent",),
    ),
    FrameColumn(
        "figure_reasons",
        "str",
        "figure -> the codes against it, a JSON object; empty where there are none",
        lambda line: _doubtful(line.one.doubts),
        hangs_on=("doubts",),
    ),
)
"""The columns of docs/data.md, in order; a metric that is not among them follows."""


def columns() -> tuple[FrameColumn, ...]:
    """Every column: those of docs/data.md, then metrics that have none there."""
    named = {column.name for column in COLUMNS}
    more = (name for name, metric in METRICS.items() if metric.exported and name not in named)
    return (*COLUMNS, *map(_figure, more))


LEFT_OUT: Final = (
    "single samples, warm-up, device readings, versions of other packages, and the quality of "
    "single tokens"
)
"""What records hold and the table does not."""


def frame(results: Results) -> pandas.DataFrame:
    """The table of some results, in the order of their records."""
    import pandas

    lines = _lines(results)
    all_columns = columns()
    return pandas.DataFrame(
        {column.name: _series(column, lines) for column in all_columns},
        columns=pandas.Index([column.name for column in all_columns]),
    )


def _series(column: FrameColumn, lines: Iterable[Line]) -> pandas.Series:
    return series(column, [column.of(line) for line in lines])


def series(column: FrameColumn, values: Sequence[Any]) -> pandas.Series:
    """Values of a column, None where one is missing, with the column's type."""
    import pandas

    if column.type == "datetime64[us, UTC]":
        return pandas.to_datetime(
            pandas.Series(values, dtype="str"), utc=True, format="ISO8601"
        ).astype(column.type)
    return pandas.Series(values, dtype=column.type)


def _measured(row: Row) -> Sequence[Row]:
    """Rows whose replicates are records: of a search its probes, else the row itself."""
    return (row,) if row.level is None else row.level.probes


def _lines(results: Results) -> list[Line]:
    found: dict[int, Line] = {}
    for row in (part for each in summarise(results) for part in _measured(each)):
        for one in row.replicates:
            served = tails([one.record]) if one.ok and one.served else NO_TAILS
            found[id(one.record)] = Line(one, row.host, row.quality, served, one.loaded)
    return [found[id(record)] for record in results.records]
