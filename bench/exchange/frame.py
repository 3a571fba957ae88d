"""Records as a table: one row a record, columns and types as docs/data.md lists them.

A missing figure is missing (`<NA>`), never 0; the column `absent` says why. Columns are added and
never renamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from bench.experiment.devices import cards
from bench.records import Environment, Record
from bench.records.file import Results, read
from bench.summary import energy_figures, replicate_figures, within
from bench.summary.quality import Figures, all_figures
from bench.summary.served import counted_energy, serving

if TYPE_CHECKING:
    import pandas

Type = Literal["str", "Int64", "Float64", "boolean", "datetime64[us, UTC]"]


@dataclass(frozen=True, slots=True)
class Row:
    """What a column takes its value from."""

    record: Record
    environment: Mapping[str, Any]
    """`Environment.identity`; empty if no line describes it."""
    figures: Mapping[str, float | None]
    energy: Mapping[str, Any]
    quality: Figures | None
    served: Mapping[str, Any]
    """What only a server's records have."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, type, meaning, and where its value comes from."""

    name: str
    type: Type
    meaning: str
    of: Callable[[Row], Any]


def _record(name: str, kind: Type, meaning: str) -> Column:
    return Column(name, kind, meaning, lambda row: getattr(row.record, name))


def _part(table: str, name: str, kind: Type, meaning: str, column: str = "") -> Column:
    return Column(column or name, kind, meaning, lambda row: getattr(row.record, table).get(name))


def _figure(name: str, meaning: str) -> Column:
    return Column(name, "Float64", meaning, lambda row: row.figures[name])


def _energy(name: str, meaning: str) -> Column:
    return Column(name, "Float64", meaning, lambda row: row.energy[name])


def _quality(name: str, meaning: str) -> Column:
    def value(row: Row) -> float | None:
        estimate = getattr(row.quality, name, None)
        return None if estimate is None else float(estimate.value)

    return Column(name, "Float64", meaning, value)


def _served(name: str, meaning: str) -> Column:
    return Column(name, "Float64", meaning, lambda row: row.served[name])


def _machine(name: str, kind: Type, meaning: str, column: str = "") -> Column:
    return Column(column or name, kind, meaning, lambda row: row.environment.get(name))


def _n_requests(record: Record) -> int:
    return max((len(v) for v in record.samples.values() if isinstance(v, list)), default=0)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


COLUMNS: Final = (
    _record("key", "str", "identity of the piece of work"),
    _record("origin", "str", "`measured`, `synthetic`, or the tool it was imported from"),
    _record("experiment", "str", "name of the experiment"),
    _part("variant", "name", "str", "the arm: model/engine/quant and settings", "variant"),
    _part("variant", "model", "str", "model"),
    _part("variant", "engine", "str", "engine"),
    _part("variant", "quant", "str", "scheme of the weights; `none` is unquantized"),
    _part("variant", "mode", "str", "eager, compiled, ..."),
    _part("variant", "dtype", "str", "float type of what is not quantized"),
    _part("variant", "device", "str", "device as resolved"),
    _part("variant", "threads", "Int64", "threads, where set"),
    Column(
        "options",
        "str",
        "engine settings beyond these, a JSON object",
        lambda row: _json(row.record.variant.get("options") or {}),
    ),
    _part("workload", "n_prompt", "Int64", "prompt tokens of a sequence"),
    _part("workload", "n_gen", "Int64", "new tokens of a sequence"),
    _part("workload", "n_batch", "Int64", "sequences at once"),
    _record("replicate", "Int64", "pair index: equal ones were measured side by side"),
    _record("position", "Int64", "place in the order of measuring"),
    _record("started_at", "datetime64[us, UTC]", "when"),
    _record("status", "str", "`ok` or `failed`"),
    Column(
        "valid",
        "boolean",
        "finished, and no reason speaks against it",
        lambda row: row.record.status == "ok" and not row.record.reasons,
    ),
    Column(
        "reasons",
        "str",
        "codes that make figures doubtful, separated by spaces",
        lambda row: " ".join(row.record.reasons),
    ),
    _record("message", "str", "why it failed"),
    Column(
        "n_requests",
        "Int64",
        "requests that the medians are of",
        lambda row: _n_requests(row.record),
    ),
    _figure("ttft_s", "time to the first new token, median, s"),
    _figure("tpot_s", "time per output token after the first, median, s"),
    _figure("e2e_s", "time of a whole request, median, s"),
    _figure("prefill_tok_s", "prompt tokens of all sequences a second"),
    _figure("decode_tok_s", "new tokens of all sequences a second, while decoding"),
    _figure("output_tok_s", "new tokens of all sequences over the whole time"),
    _figure("total_tok_s", "prompt and new tokens of all sequences over the whole time"),
    Column(
        "noise",
        "Float64",
        "half the range of the requests' decode times over their median",
        lambda row: within(row.record),
    ),
    _served("requests_s", "requests answered a second, of a server"),
    _served("goodput_req_s", "requests a second within the arm's limits, of a server"),
    _served("ttft_p99_s", "99th percentile of a server's requests, s"),
    _served("tpot_p99_s", "99th percentile of a server's requests, s"),
    _served("itl_p99_s", "99th percentile of a server's gaps, s"),
    _part("memory", "peak_host_bytes", "Int64", "peak memory of the process"),
    _part("memory", "peak_device_bytes", "Int64", "peak memory on the device"),
    _part("model", "weights_bytes", "Int64", "bytes of every weight as held"),
    _part("model", "n_params", "Int64", "weights, by number"),
    _part("model", "quantized_fraction", "Float64", "share of the weights in the scheme's form"),
    _part("model", "dynamic", "str", "which meaning of dynamic quantization"),
    _part("model", "kernel", "str", "what multiplies"),
    _part("model", "load_s", "Float64", "time to load, s"),
    _energy("energy_per_output_token_j", "joules a new token, gross"),
    _energy("energy_per_prompt_token_j", "joules a prompt token, gross"),
    _served("energy_per_token_j", "joules a token, prompt and new alike, of a server"),
    _energy("net_energy_per_output_token_j", "joules a new token, net of idle"),
    _energy("net_energy_per_prompt_token_j", "joules a prompt token, net of idle"),
    Column(
        "energy_scope", "str", "what the counter covers", lambda row: row.energy["energy_scope"]
    ),
    _quality("ppl", "perplexity of the arm"),
    _quality("ppl_ratio", "perplexity over the baseline's"),
    _quality("mean_kld", "mean KL divergence from the baseline, nats a token"),
    _quality("same_top1", "share of tokens with the baseline's most likely token"),
    _record("environment", "str", "id of the machine and software: equal ones may be pooled"),
    _machine("host", "str", "hash of the host"),
    _machine("cpu", "str", "processor"),
    _machine("gpu", "str", "card, as its driver names it"),
    _machine(
        "backend", "str", "what ran on it, of an imported tool: CUDA, ROCm, Vulkan, Metal, RPC"
    ),
    Column(
        "n_devices",
        "Int64",
        "cards that worked as one; each has its price",
        lambda row: cards(row.record.variant),
    ),
    _machine("gpu_driver", "str", "driver of the card"),
    _machine("gpu_power_limit_w", "Float64", "power limit of the card, W"),
    _machine("os", "str", "operating system"),
    _machine("python", "str", "version of Python"),
    _machine("torch", "str", "version of torch"),
    _machine("bench", "str", "version of this project"),
    Column(
        "absent",
        "str",
        "figure -> why it is missing, a JSON object",
        lambda row: _json(row.record.absent),
    ),
)
"""Every column, in order."""

LEFT_OUT: Final = (
    "single samples, warm-up, device readings, versions of other packages, and the quality of "
    "single tokens"
)
"""What records hold and the table does not."""


def read_results(*paths: str | Path) -> pandas.DataFrame:
    """Results folders or files as a DataFrame, one row a record. Raises InputError.

    Lines that cannot be read are left out and listed in `frame.attrs["problems"]`.
    """
    results = read(*map(Path, paths))
    made = frame(results)
    made.attrs["problems"] = results.problems
    return made


def frame(results: Results) -> pandas.DataFrame:
    """The table of some results."""
    import pandas

    rows = list(_rows(results))
    return pandas.DataFrame(
        {column.name: _series(column, rows) for column in COLUMNS},
        columns=pandas.Index([column.name for column in COLUMNS]),
    )


def _series(column: Column, rows: Iterable[Row]) -> pandas.Series:
    import pandas

    values = [column.of(row) for row in rows]
    if column.type == "datetime64[us, UTC]":
        return pandas.to_datetime(
            pandas.Series(values, dtype="str"), utc=True, format="ISO8601"
        ).astype(column.type)
    return pandas.Series(values, dtype=column.type)


def _rows(results: Results) -> Iterable[Row]:
    none = Environment(id="", identity={}, state={})
    figures = all_figures(results.qualities)
    quality = {
        (record.environment, record.variant["name"]): figures[record.key]
        for record in results.qualities
    }
    empty, nothing = energy_figures([], {}), serving([], {})
    for record in results.records:
        yield Row(
            record=record,
            environment=results.environments.get(record.environment, none).identity,
            figures=replicate_figures(record),
            energy=energy_figures([record], {}) if record.energy else empty,
            quality=quality.get((record.environment, record.variant.get("name", ""))),
            served=serving([record], {})
            if "wall_s" in record.samples
            else nothing | counted_energy(record),
        )
