"""llama-bench (ggml-org/llama.cpp): `-o json`, `jsonl`, `csv`, `sql`, and its Markdown as pasted.

A row is a test: `pp` (a prompt alone), `tg` (new tokens alone, from an empty context) or `pg` (one
time for both). `samples_ns` are repeats inside one process, after one warm-up. Its `n_batch` is the
number of prompt tokens worked on at once, not of sequences: there is one sequence. Builds of 2023
name the backend by flags (`"cuda": true`) and have no `backends`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from statistics import fmean
from typing import Any, Final

from bench.errors import InputError
from bench.exchange import naming
from bench.exchange.foreign import NOT_READ, UNKNOWN, ForeignRun, Twice
from bench.exchange.reading import SourceText
from bench.exchange.values import (
    Json,
    count,
    expect,
    maybe,
    number,
    numbers,
    parse_time,
    read_number,
    typed,
)
from bench.experiment.devices import on_cpu

TOOL: Final = "llama-bench"
KEYS: Final = ("model_type", "n_prompt", "n_gen")
CSV: Final = ("model_filename", "n_prompt", "n_gen", "avg_ns")
INSERT: Final = re.compile(r"INSERT INTO \w+\s*\(([^)]*)\)\s*VALUES\s*\((.*)\);")
QUOTED: Final = re.compile(r"'((?:[^']|'')*)'")
"""What `-o sql` writes."""

FLAGS: Final = {
    "cuda": "CUDA",
    "opencl": "OpenCL",
    "vulkan": "Vulkan",
    "kompute": "Kompute",
    "metal": "Metal",
    "sycl": "SYCL",
    "rpc": "RPC",
}
"""Backends that builds before late 2024 name by a flag each."""

DEFAULTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "n_batch": (2048,),
    "n_ubatch": (512,),
    "type_k": ("f16",),
    "type_v": ("f16",),
    "n_gpu_layers": (-1, 99),
    "n_cpu_moe": (0,),
    "no_kv_offload": (False, 0),
    "flash_attn": (-1, False),
    "tensor_buft_overrides": ("none",),
    "embeddings": (False, 0),
    "n_depth": (0,),
}
"""Settings that make another arm where they are not what llama-bench takes by itself. Of flash
attention `false` was the default of builds that know yes and no, and -1 is that of those which know
`auto`; there 0 is a choice."""
KNOWS_AUTO: Final = 6325
"""The build from which flash attention is on, off or auto."""

ONE_TIME = "llama-bench takes one time for prompt and new tokens together"
APART = "llama-bench times the prompt apart from new tokens"
MEAN_ALONE = "this output of llama-bench has only the mean; -o json has every repeat"
OWN: Final = re.compile(
    r"^(build_|model_|avg_|stddev_|samples_)|^(cpu_info|gpu_info|backends|test_time|n_prompt|n_gen"
    r"|n_depth|split_mode|cuda|opencl|vulkan|kompute|metal|sycl|rpc|gpu_blas|blas|tensor_split)$"
)
"""Keys that say what was measured, of which model and on what: no settings of a sweep."""
REMOTE = "the layers are on RPC servers that the file does not name"
NOT_GPU: Final = frozenset({"cpu", "blas", "rpc", "accelerate", ""})


def knows(source: SourceText) -> bool:
    """Whether a text looks like rows of this tool."""
    value = source.first()
    if isinstance(value, dict):
        return {"model_type", "n_prompt", "n_gen"} <= value.keys() and "n_threads" in value
    return bool(source.columns(CSV) or INSERT.search(source.text) or _pasted(source))


def read(source: SourceText) -> list[ForeignRun]:
    """Every test of a file. InputError in one line."""
    from bench.exchange import llama_bench_table

    rows = _rows(source) or llama_bench_table.rows(source)
    rows = [expect(source, TOOL, row, KEYS) for row in rows]
    swept = _swept(rows)
    return [_found(source, row, swept) for row in rows]


def _swept(rows: Sequence[Json]) -> frozenset[str]:
    """Settings beside the known ones that differ within a file, such as the threads beside a GPU or
    a fork's own: their rows are no repeats of one another."""
    keys = {key for row in rows for key in row if not OWN.search(key) and key not in DEFAULTS}
    return frozenset(key for key in keys if len({str(row.get(key)) for row in rows}) > 1)


def _pasted(source: SourceText) -> list[Json]:
    from bench.exchange import llama_bench_table

    return llama_bench_table.rows(source)


def _rows(source: SourceText) -> list[Json]:
    """The tests of JSON, JSON lines, CSV or SQL; [] where the text may be a table."""
    if inserts := [_inserted(source, *parts) for parts in INSERT.findall(source.text)]:
        return inserts
    if table := source.columns(CSV):
        return [{name: typed(value) for name, value in row.items()} | _texts(row) for row in table]
    try:
        entries = source.entries()
    except InputError:
        if _pasted(source):
            return []
        if source.text.lstrip()[0] in "[{":
            raise
        raise InputError(
            f"{source}: is not a result of {TOOL}: neither JSON, nor its CSV, nor its table"
        ) from None
    tests = [row for row in entries if isinstance(row, dict) and "n_gen" in row]
    if not entries:
        raise InputError(f"{source}: holds no test of {TOOL}")
    return tests or ([] if _pasted(source) else entries)


def _inserted(source: SourceText, names: str, values: str) -> Json:
    """A row of `-o sql`."""
    keys = [name.strip() for name in names.split(",")]
    texts = [one.replace("''", "'") for one in QUOTED.findall(values)]
    if len(keys) != len(texts):
        raise InputError(f"{source}: {len(texts)} values under {len(keys)} names: cut off?")
    row = dict(zip(keys, texts, strict=True))
    return {name: typed(value) for name, value in row.items()} | _texts(row)


def _texts(row: Mapping[str, str]) -> Json:
    """Columns of a CSV that stay text, digits or not; of some `none` is a value."""
    from bench.exchange.llama_bench_table import WORDS

    names = ("build_commit", "model_filename", "model_type", "cpu_info", "gpu_info", "test_time")
    return {name: row[name] for name in (*names, *WORDS) if name in row}


def _found(source: SourceText, row: Json, swept: frozenset[str]) -> ForeignRun:
    n_prompt, n_gen = (count(source, name, row[name]) for name in ("n_prompt", "n_gen"))
    if n_prompt + n_gen == 0:
        raise InputError(f"{source}: a test has neither prompt nor new tokens")
    samples, absent = _samples(source, row, n_prompt, n_gen)
    backends, device = _device(row)
    size, n_params = (maybe(source, row, name) for name in ("model_size", "model_n_params"))
    scheme, no_scheme = _scheme(row, size, n_params)
    elsewhere = device == "remote" or "rpc" in str(row.get("devices")).lower()
    cards = [] if elsewhere or on_cpu(device) else _cards(row)
    absent |= _remote(backends, device, elsewhere)
    dated = row.get("test_time") is not None
    return ForeignRun(
        model=_model(row),
        engine="llama.cpp",
        forks=True,
        quant=scheme,
        device=None if device == UNKNOWN else device,
        backend="RPC" if device == "remote" else backends if not on_cpu(device) else None,
        gpu=" + ".join(dict.fromkeys(cards)) or None,
        n_gpus=1 if on_cpu(device) else None if elsewhere else len(cards) or None,
        threads=row.get("n_threads") if on_cpu(device) else None,
        layered=True,
        options=_options(row, device) | _of_sweep(row, swept, device) | _split(row, len(cards)),
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=1,
        started_at=parse_time(source, "test_time", row["test_time"]) if dated else source.date,
        dated=dated,
        samples=samples,
        absent=absent | no_scheme,
        twice=tuple(_twice(source, row, n_prompt + n_gen)),
        loaded={
            **({"weights_bytes": int(size)} if size else {}),
            **({"n_params": int(n_params)} if n_params else {}),
            "details": {"model_type": row["model_type"]},
        },
        identity={
            "cpu": str(row.get("cpu_info") or "").strip() or None,
            "backends": backends,
            "llama.cpp": row.get("build_commit"),
        },
    )


def _remote(backends: str, device: str, elsewhere: bool) -> dict[str, str]:
    """What is not known where RPC servers hold layers, or may hold some."""
    if device == "remote":
        return {"n_devices": REMOTE, "device": REMOTE}
    if elsewhere:
        return {"n_devices": REMOTE}
    # Builds that can talk to servers name RPC even where no server is used.
    may = {"rpc": "RPC is among the backends: layers may be on servers that no line names"}
    return may if "rpc" in backends.lower() else {}


def _model(row: Json) -> str | None:
    """The model by the file's name, or by the type without its scheme."""
    if name := row.get("model_filename"):
        return naming.model_of_file(PureWindowsPath(str(name)).name)
    words = naming.IN_TYPE.split(str(row["model_type"]))[0]
    return re.sub(r"\b(mostly|all)\b", "", words).strip() or None


def _scheme(
    row: Json, size: float | None, n_params: float | None
) -> tuple[str | None, dict[str, str]]:
    """The scheme by the file's name if the size allows it, else by the type."""
    named = naming.scheme_in_file(str(row.get("model_filename") or ""))
    typed_as = naming.scheme_in_type(str(row["model_type"]))
    if named and typed_as and size and n_params:
        held = 8 * size / n_params
        widths = naming.bits(named), naming.bits(typed_as)
        if None not in widths and widths[0] != widths[1]:
            near = [abs(held - (width or 0)) for width in widths]
            return (named if near[0] <= near[1] else typed_as), {}
    if scheme := named or typed_as:
        return scheme, {}
    why = f"model_type {row['model_type']!r} names no scheme; --quant does"
    return None, {"quant": why}


def _options(row: Json, device: str) -> dict[str, Any]:
    """Settings that are not llama-bench's own. Builds of 2023 had `n_batch` 512, no `n_ubatch`; a
    pasted table, which names no build, shows only what was set."""
    build = row.get("build_number")
    of_2023 = build is not None and "n_ubatch" not in row
    before: dict[str, tuple[Any, ...]] = {"n_batch": (2048, 512)} if of_2023 else {}
    if isinstance(build, int) and 1 < build < KNOWS_AUTO:
        before["flash_attn"] = (-1, False, 0)
    return {
        name: row[name]
        for name, usual in {**DEFAULTS, **before}.items()
        if row.get(name) is not None
        and isinstance(row[name], str | int | float)
        and not any(row[name] == one and type(row[name]) is type(one) for one in usual)
        and (not on_cpu(device) or name != "n_gpu_layers")
    }


def _of_sweep(row: Json, swept: frozenset[str], device: str) -> dict[str, Any]:
    """The values of what differs within the file; a CPU's threads have a place of their own."""
    return {
        key: row[key]
        for key in sorted(swept)
        if isinstance(row.get(key), str | int | float)
        and row[key] != ""
        and not (key == "n_threads" and on_cpu(device))
    }


def _split(row: Json, n_cards: int) -> dict[str, Any]:
    """How layers lie on several cards, where it is not one layer after the other."""
    mode = row.get("split_mode")
    return {"split": mode} if n_cards > 1 and mode in ("row", "tensor") else {}


def _samples(
    source: SourceText, row: Json, n_prompt: int, n_gen: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds by our names, and why others are missing."""
    absent = dict(NOT_READ)
    if "samples_ns" in row:
        seconds = numbers(source, "samples_ns", row["samples_ns"], 1e-9)
    elif "avg_ns" in row:
        seconds = [number(source, "avg_ns", row["avg_ns"]) * 1e-9]
        absent["samples"] = MEAN_ALONE
    else:
        seconds = [(n_prompt + n_gen) / number(source, "avg_ts", row.get("avg_ts"))]
        absent["samples"] = MEAN_ALONE
    if not seconds:
        raise InputError(f"{source}: samples_ns: is empty")
    if not n_gen:
        absent |= dict.fromkeys(("tpot_s", "decode_tok_s", "output_tok_s"), APART)
        return {"prefill_s": seconds, "e2e_s": seconds}, absent
    if not n_prompt:
        absent |= dict.fromkeys(("ttft_s", "prefill_tok_s"), APART)
        return {"tpot_s": [one / n_gen for one in seconds], "e2e_s": seconds}, absent
    both = ("ttft_s", "prefill_tok_s", "tpot_s", "decode_tok_s")
    return {"e2e_s": seconds}, absent | dict.fromkeys(both, ONE_TIME)


def _twice(source: SourceText, row: Json, tokens: int) -> list[Twice]:
    """Means and rates that the tool gives beside the times that they are made of."""
    found: list[Twice] = []
    each = row.get("samples_ns")
    mean, rate = maybe(source, row, "avg_ns"), maybe(source, row, "avg_ts")
    if each and mean:
        made = fmean(numbers(source, "samples_ns", each))
        found.append(Twice(what="avg_ns", stated=mean, made=made, of="the mean of samples_ns"))
    if each and (rates := row.get("samples_ts")):
        made = fmean(tokens * 1e9 / one for one in each)
        stated = fmean(numbers(source, "samples_ts", rates))
        found.append(Twice(what="samples_ts", stated=stated, made=made, of="tokens / samples_ns"))
    if rate and each:
        made = fmean(tokens * 1e9 / one for one in each)
        found.append(Twice(what="avg_ts", stated=rate, made=made, of="tokens / samples_ns"))
    elif rate and mean:
        # A mean of rates is above the rate of the mean, by the square of their relative spread.
        spread = (maybe(source, row, "stddev_ns") or 0.0) / mean
        made = tokens * 1e9 / mean
        found.append(
            Twice(
                what="avg_ts",
                stated=rate,
                made=made,
                of="tokens / avg_ns",
                within=0.02 + min(spread**2, 1.0),
            )
        )
    return found


def _device(row: Json) -> tuple[str, str]:
    """The backends as the file names them, and the device that held the layers: the CPU where none
    was given away, `remote` where servers have them; unknown where a table lost its column."""
    backends = str(row.get("backends") or "").strip()
    if not backends:
        backends = ",".join(name for flag, name in FLAGS.items() if row.get(flag))
    names = [name.strip().lower() for name in backends.split(",")]
    away = [name for name in names if name not in NOT_GPU]
    if row.get("n_gpu_layers") == 0 or str(row.get("devices", "")).lower() == "none":
        return backends, "cpu"
    if "backends" not in row and not FLAGS.keys() & row.keys():
        return "", UNKNOWN
    if away:
        return backends, away[0].split()[0]
    return backends, "remote" if "rpc" in names else "cpu"


def _cards(row: Json) -> list[str]:
    """The names of the cards that were used: those of `devices`; else of those present, the ones
    that llama.cpp takes by itself."""
    present = [name.strip() for name in str(row.get("gpu_info") or "").split(",") if name.strip()]
    chosen = str(row.get("devices") or "auto")
    if chosen.lower() not in ("auto", "none", ""):
        places = [re.sub(r"\D+", "", one) for one in re.split(r"[/,;]", chosen) if one.strip()]
        used = [present[int(i)] for i in places if i and int(i) < len(present)]
        if len(used) == len(places):
            return used
        return [present[0]] * len(places) if len(set(present)) == 1 else []
    used = naming.cards_used(present)
    if row.get("split_mode") == "none" and used:
        main = row.get("main_gpu") or 0
        return [used[main] if isinstance(main, int) and main < len(used) else used[0]]
    shares = [read_number(one) for one in re.split(r"[/,]", str(row.get("tensor_split") or ""))]
    if len(shares) > 1 and any(shares):
        return [name for name, share in zip(used, shares, strict=False) if share]
    return used


def scheme_of(model_type: str) -> str | None:
    """`q4_k_m` of `llama 8B Q4_K - Medium`; None where no scheme is named."""
    return naming.scheme_in_type(model_type)
