"""optimum-benchmark (huggingface/optimum-benchmark): `benchmark.json` of the inference scenario,
and the tables of it that make the LLM-Perf leaderboard, old (`forward.latency(s)`) and new.

Repeats inside one process. What it times is kept (`prefill`, `decode` and `generate` latencies, in
seconds for the whole batch) and every rate is made anew: its prefill rate counts samples, its
generate rate multiplies them by the new tokens, and its per-token list has held each iteration's
gaps several times over since 0.5.0, so no single gap is taken from it. docs/exchange.md.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from statistics import fmean, median
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import ForeignRun, Twice
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, count, expect, maybe, numbers, typed

TOOL: Final = "optimum-benchmark"
ENGINES: Final[Mapping[str, str]] = {"pytorch": "transformers"}
SETTINGS: Final = (
    "attn_implementation",
    "cache_implementation",
    "torch_compile",
    "autocast_enabled",
    "tp_plan",
    "deepspeed_inference",
    "peft_type",
)
"""Backend settings that make another arm where they are set."""

PER_TOKEN = "its per-token list holds each iteration's gaps several times (0.5.0 and newer)"
NO_ENERGY = "the report has no GPU energy; codecarbon models CPU and memory only"
JOULES: Final = {"kWh": 3.6e6, "Wh": 3600.0, "J": 1.0}
MB: Final = 1e6
REPORT: Final = {"prefill", "load_model"}
"""Phases at the top of `benchmark_report.json`, which names neither model nor lengths."""
WHOLE: Final = ("generate", "decode")
"""What only a run that generates text has; 0.3 to 0.6 time a whole request as its two parts."""
SPREADS: Final = ("device_map", "tp_plan", "deepspeed_inference")
WIDTHS: Final = ("bits", "nbits", "quant_type", "weights", "weights_dtype")
"""Settings of a scheme that say what its weights are."""

OLD: Final = ("backend.name", "generate.latency(s)")
NEW: Final = ("config.backend.name", "report.prefill.latency.mean")


def knows(source: SourceText) -> bool:
    """Whether a text looks like a file of this tool."""
    value = source.first()
    if isinstance(value, dict):
        return {"config", "report"} <= value.keys() or value.keys() >= REPORT
    return bool(source.columns(OLD) or source.columns(NEW))


def read(source: SourceText) -> list[ForeignRun]:
    """The one benchmark of a file, or every row of a table. InputError in one line."""
    if rows := [_old(row) for row in source.columns(OLD)] or _nested(source.columns(NEW)):
        return _of_rows(source, rows)
    value = source.values[0]
    if isinstance(value, dict) and "report" not in value and REPORT & value.keys():
        raise InputError(f"{source}: is only the report; import benchmark.json instead")
    table = expect(source, TOOL, value, ("config", "report"))
    config = expect(source, TOOL, table["config"], ("backend", "scenario", "environment"))
    return [_found(source, config, expect(source, TOOL, table["report"], ()))]


def _of_rows(source: SourceText, rows: list[Json]) -> list[ForeignRun]:
    """The rows that finished; how many did not is said."""
    done = [row for row in rows if any(_phase(row["report"], name) for name in WHOLE)]
    if not done:
        raise InputError(f"{source}: no row of the table has a latency")
    if len(done) < len(rows):
        note = f"{source}: {len(rows) - len(done)} of {len(rows)} rows hold no latency: left out"
        source.notes.append(note)
    return [_found(source, row["config"], row["report"]) for row in done]


def _nested(rows: list[dict[str, str]]) -> list[Json]:
    """Rows with dotted names as the tables that `benchmark.json` has."""
    found = []
    for row in rows:
        made: Json = {"config": {}, "report": {}}
        for name, text in row.items():
            *path, last = name.split(".")
            value = typed(text)
            if not path or value is None:
                continue
            table = made
            for part in path:
                inner = table.setdefault(part, {})
                table = inner if isinstance(inner, dict) else {}
            table[last] = ast.literal_eval(value) if _is_list(value) else value
        found.append(made)
    return found


def _is_list(value: object) -> bool:
    return isinstance(value, str) and value.startswith("[") and value.endswith("]")


def _old(row: dict[str, str]) -> Json:
    """A row of the old table, under the names of today: prefill was `forward`."""
    known = {name: typed(text) for name, text in row.items()}

    def phase(name: str) -> Json:
        seconds = known.get(f"{name}.latency(s)")
        peaks = {
            "max_ram": None,
            "max_allocated": known.get(f"{name}.max_memory_allocated(MB)"),
        }
        rates = {
            unit: value
            for unit in ("samples/s", "tokens/s")
            if (value := known.get(f"{name}.throughput({unit})"))
        }
        rate = next(({"unit": unit, "value": value} for unit, value in rates.items()), {})
        found = {"latency": {"unit": "s", "mean": seconds}, "memory": peaks, "throughput": rate}
        return found if seconds else {}

    shapes = "benchmark.input_shapes."
    gpus = known.get("environment.gpus")
    return {
        "config": {
            "backend": {
                name.removeprefix("backend."): value
                for name, value in known.items()
                if name.startswith("backend.")
            }
            | {"model": known.get("model"), "device": known.get("device")},
            "scenario": {
                "name": known.get("benchmark.name"),
                "input_shapes": {
                    name: known.get(f"{shapes}{name}") for name in ("batch_size", "sequence_length")
                },
                "generate_kwargs": {"max_new_tokens": known.get("benchmark.new_tokens")},
            },
            "environment": {
                name.removeprefix("environment."): value
                for name, value in known.items()
                if name.startswith("environment.")
            }
            | {"gpu": ast.literal_eval(str(gpus)) if _is_list(gpus) else [gpus] if gpus else []},
        },
        "report": {
            "prefill": phase("forward"),
            "decode": phase("decode"),
            "generate": phase("generate"),
        },
    }


def _found(source: SourceText, config: Json, report: Json) -> ForeignRun:
    backend, scenario = config["backend"], config["scenario"]
    if scenario.get("name") != "inference" or not any(map(report.get, WHOLE)):
        raise InputError(f"{source}: does not generate text, so it has no time per token")
    shapes, asked = scenario.get("input_shapes") or {}, scenario.get("generate_kwargs") or {}
    most = asked.get("max_new_tokens") or scenario.get("new_tokens")
    n_gen = count(source, "max_new_tokens", most)
    samples, absent = _samples(source, report, n_gen)
    memory = _memory(report)
    if not memory:
        absent["peak_memory_bytes"] = "memory was not tracked"
    energy = _energy(source, report, n_gen, shapes)
    gpus = config["environment"].get("gpu") or []
    device = str(backend.get("device"))
    engine = str(backend.get("name"))
    cards = [] if device == "cpu" else _cards(backend, [str(gpu) for gpu in gpus])
    if not _spread(config):
        cards = cards[:1]
    if len(gpus) > len(cards) and device != "cpu" and not cards:
        absent["n_devices"] = (
            f"the file names {len(gpus)} cards but not how many were used: one is assumed; "
            "--n-gpus N sets it"
        )
    return ForeignRun(
        layered=not backend.get("tp_plan"),
        model=str(backend.get("model")).rstrip("/").rsplit("/", 1)[-1],
        engine=ENGINES.get(engine, engine),
        quant=_scheme(backend),
        usual_quant="none",
        dtype=str(backend.get("torch_dtype") or "auto"),
        device=device,
        gpu=" + ".join(dict.fromkeys(cards or map(str, gpus))) or None if device != "cpu" else None,
        n_gpus=1 if device == "cpu" else len(cards) or None,
        options={name: backend[name] for name in SETTINGS if backend.get(name)},
        n_prompt=count(source, "sequence_length", shapes.get("sequence_length")),
        n_gen=n_gen,
        n_batch=count(source, "batch_size", shapes.get("batch_size")),
        started_at=source.date,
        dated=False,
        samples=samples,
        absent=absent if energy else absent | {"energy_j": NO_ENERGY},
        twice=tuple(_twice(source, report, samples, n_gen, shapes)),
        energy=energy,
        loaded={"details": {"random_weights": bool(backend.get("no_weights"))}},
        memory=memory,
        identity=_machine(config["environment"], backend),
    )


def _scheme(backend: Json) -> str | None:
    """The scheme, and what its weights are where the settings say it: `gptq-int2`."""
    scheme, config = backend.get("quantization_scheme"), backend.get("quantization_config")
    if not scheme or not isinstance(config, dict):
        return scheme or None
    said = next((config[name] for name in WIDTHS if isinstance(config.get(name), int | str)), None)
    if config.get("load_in_8bit"):
        said = 8
    elif config.get("load_in_4bit"):
        said = config.get("bnb_4bit_quant_type") or 4
    width = f"int{said}" if isinstance(said, int) else str(said or "").replace("_", "-")
    return "-".join(part for part in (str(scheme), width) if part)


def _cards(backend: Json, present: list[str]) -> list[str]:
    """The cards that were used: those of `device_ids`, or the one that there is."""
    ids = backend.get("device_ids")
    if ids not in (None, ""):
        places = [one for one in str(ids).split(",") if one.strip().isdigit()]
        return [present[int(i)] if int(i) < len(present) else present[0] for i in places if present]
    return present if len(present) == 1 else []


def _spread(config: Json) -> bool:
    """Whether a model may lie on several cards: PyTorch takes the first of `device_ids` unless a
    setting or the launcher spreads it."""
    backend, launcher = config["backend"], config.get("launcher") or {}
    if backend.get("name") != "pytorch" or "device_map" not in backend:
        return True
    return any(map(backend.get, SPREADS)) or launcher.get("name") == "torchrun"


def _samples(
    source: SourceText, report: Json, n_gen: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each iteration, and why some are missing."""
    absent = {"itl_s": PER_TOKEN}
    steps = n_gen - 1
    prefill, decode, whole = (
        _latencies(source, report, phase) for phase in ("prefill", "decode", "generate")
    )
    if not whole and len(prefill) == len(decode):
        whole = [sum(parts) for parts in zip(prefill, decode, strict=True)]
    samples = {"prefill_s": prefill, "e2e_s": whole}
    if steps and decode:
        samples["tpot_s"] = [seconds / steps for seconds in decode]
    samples = {name: values for name, values in samples.items() if values}
    if not whole and not decode:
        raise InputError(f"{source}: report.generate.latency: is empty; was latency tracked?")
    if not whole:
        absent["e2e_s"] = absent["output_tok_s"] = "no latency of the whole in the report"
    if "prefill_s" not in samples:
        absent["ttft_s"] = absent["prefill_tok_s"] = "no prefill latency in the report"
    if "tpot_s" not in samples:
        absent["tpot_s"] = absent["decode_tok_s"] = "no decode latency in the report"
    return samples, absent


def _phase(report: Json, phase: str) -> Json:
    """The latency of a phase; {} where it was not tracked."""
    return (report.get(phase) or {}).get("latency") or {}


def _latencies(source: SourceText, report: Json, phase: str) -> list[float]:
    latency = _phase(report, phase)
    if latency and latency.get("unit") != "s":
        raise InputError(
            f"{source}: report.{phase}.latency.unit: {latency.get('unit')!r} is not 's'"
        )
    if not latency.get("values"):  # a table holds statistics alone
        value = maybe(source, latency, "p50") or maybe(source, latency, "mean")
        return [] if value is None else [value]
    return numbers(source, f"report.{phase}.latency.values", latency["values"])


def _twice(
    source: SourceText, report: Json, samples: Mapping[str, list[float]], n_gen: int, shapes: Json
) -> list[Twice]:
    """Prefill and decode beside the whole, and the two rates that the tool makes rightly: samples
    of a prefill, and tokens after the first of a decode."""
    found = []
    for phase, unit, n in (("prefill", "samples/s", 1), ("decode", "tokens/s", n_gen - 1)):
        rate = (report.get(phase) or {}).get("throughput") or {}
        seconds = _latencies(source, report, phase)
        if rate.get("unit") == unit and seconds and (stated := maybe(source, rate, "value")):
            made = (shapes.get("batch_size") or 1) * n / fmean(seconds)
            what, of = f"{phase} throughput", f"{unit.partition('/')[0]} / mean latency"
            found.append(Twice(what=what, stated=stated, made=made, of=of, within=0.05))
    each = [samples.get(name) for name in ("prefill_s", "tpot_s", "e2e_s")]
    if all(each) and _phase(report, "generate"):
        prefill, step, whole = (median(values) for values in each if values)
        made, of = prefill + step * (n_gen - 1), "prefill + decode"
        found.append(Twice(what="generate", stated=whole, made=made, of=of, within=0.15))
    return found


def _energy(source: SourceText, report: Json, n_gen: int, shapes: Json) -> Json:
    """Joules of the GPU in prefill and decode, by its counter; CPU and memory are modelled."""
    found: Json = {}
    batch, n_prompt = shapes.get("batch_size") or 1, shapes.get("sequence_length") or 0
    for phase, tokens in (("prefill", batch * n_prompt), ("decode", batch * (n_gen - 1))):
        energy = (report.get(phase) or {}).get("energy") or {}
        if not isinstance(energy, dict) or energy.get("unit") not in JOULES or not tokens:
            continue
        joules = maybe(source, energy, "gpu", JOULES[energy["unit"]])
        seconds = _latencies(source, report, phase)
        if joules and seconds:
            found[phase] = {
                "energy_j": joules,
                "tokens": tokens,
                "window_s": sum(seconds) / len(seconds),
                "scope": "device",
            }
    return found


def _memory(report: Json) -> Json:
    """Peaks over prefill and decode, bytes."""
    found: Json = {}
    for name, key in (("peak_host_bytes", "max_ram"), ("peak_device_bytes", "max_allocated")):
        peaks = [
            value
            for phase in ("prefill", "decode")
            if (value := ((report.get(phase) or {}).get("memory") or {}).get(key))
        ]
        if peaks:
            found[name] = int(max(peaks) * MB)
    return found


def _machine(environment: Json, backend: Json) -> dict[str, Any]:
    """What must be alike for two files to be of one machine, as far as the tool knows."""
    names = ("cpu_count", "system", "machine")
    versions = ("optimum_benchmark_version", "transformers_version", "python_version")
    return {
        "cpu": str(environment.get("cpu") or "").strip() or None,
        **{name: environment.get(name) for name in names},
        **{name.removesuffix("_version"): environment.get(name) for name in versions},
        "backend": f"{backend.get('name')} {backend.get('version')}",
    }
