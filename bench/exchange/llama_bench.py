"""llama-bench (ggml-org/llama.cpp): `-o json`, `-o jsonl` or `-o csv`.

A row is a test: `pp` (a prompt alone), `tg` (new tokens alone, from an empty context) or `pg` (one
time for both). `samples_ns` are repeats inside one process, after one warm-up. Its `n_batch` is the
number of prompt tokens worked on at once, not of sequences: there is one sequence.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import (
    NOT_READ,
    UNKNOWN,
    Found,
    Given,
    Json,
    count,
    expect,
    number,
    numbers,
    parse_json,
    parse_time,
    read_text,
)
from bench.experiment.devices import on_cpu

TOOL: Final = "llama-bench"
KEYS: Final = (
    "build_commit",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_prompt",
    "n_gen",
    "test_time",
    "avg_ns",
)
WHOLE: Final = (
    "build_number",
    "model_size",
    "model_n_params",
    "n_prompt",
    "n_gen",
    "n_depth",
    "n_threads",
    "n_gpu_layers",
    "avg_ns",
    "stddev_ns",
)
"""Columns that a CSV file has as text and that are read as whole numbers."""

DEFAULTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "n_batch": (2048,),
    "n_ubatch": (512,),
    "type_k": ("f16",),
    "type_v": ("f16",),
    "n_gpu_layers": (-1, 99),
    "n_cpu_moe": (0,),
    "split_mode": ("layer",),
    "no_kv_offload": (False, 0),
    "flash_attn": (-1, False),
    "tensor_buft_overrides": ("none",),
    "embeddings": (False, 0),
    "n_depth": (0,),
}
"""Settings that make another arm where they are not what llama-bench takes by itself. Of flash
attention `false` was the default of builds that know yes and no, and -1 is that of those which know
`auto`; there 0 is a choice."""

SCHEME: Final = re.compile(
    r"\b(?:(F32|F16|BF16)|((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4))"
    r"(?: - (Small|Medium|Large))?)\b"
)
"""The scheme in llama.cpp's words for a file's type: `llama 8B Q4_K - Medium`."""

ONE_TIME = "llama-bench takes one time for prompt and new tokens together"
APART = "llama-bench times the prompt apart from new tokens"


def knows(value: object) -> bool:
    """Whether a JSON value looks like a row of this tool."""
    return isinstance(value, dict) and {"model_filename", "avg_ns"} <= value.keys()


def read(path: Path, given: Given) -> list[Found]:
    """Every test of a file. InputError in one line."""
    text = read_text(path)
    rows = _from_csv(path, text) if text.lstrip()[0] not in "[{" else parse_json(path, text)
    if len(rows) == 1 and isinstance(rows[0], list):
        rows = rows[0]
    if not rows:
        raise InputError(f"{path}: holds no test of {TOOL}")
    return [_found(path, expect(path, TOOL, row, KEYS), given) for row in rows]


def _from_csv(path: Path, text: str) -> list[Json]:
    reader = csv.DictReader(io.StringIO(text))
    if "model_filename" not in (reader.fieldnames or ()):
        raise InputError(f"{path}: is not a result of {TOOL}: neither JSON nor its CSV")
    rows: list[Json] = []
    for row in reader:
        if None in row.values() or None in row:
            raise InputError(f"{path}: line {reader.line_num} is cut off or has too many columns")
        table: Json = dict(row)
        for name in set(WHOLE) & table.keys():
            if not re.fullmatch(r"-?\d+", table[name]):
                raise InputError(f"{path}: line {reader.line_num}: {name}: {table[name]!r}")
            table[name] = int(table[name])
        rows.append(table | _whole_defaults(table))
    return rows


def _whole_defaults(table: Json) -> Json:
    """Columns of `DEFAULTS` that CSV has as text, as numbers."""
    return {
        name: int(value)
        for name in DEFAULTS
        if isinstance(value := table.get(name), str) and re.fullmatch(r"-?\d+", value)
    }


def _found(path: Path, row: Json, given: Given) -> Found:
    n_prompt, n_gen = (count(path, name, row[name]) for name in ("n_prompt", "n_gen"))
    if n_prompt + n_gen == 0:
        raise InputError(f"{path}: a test has neither prompt nor new tokens")
    samples, absent = _samples(path, row, n_prompt, n_gen)
    scheme = given.quant or scheme_of(str(row["model_type"]))
    if scheme is None:
        absent["quant"] = f"model_type {row['model_type']!r} names no scheme; --quant does"
    if given.gpu and row["gpu_info"]:
        raise InputError(f"{path}: --gpu: the file itself names {row['gpu_info']}")
    device = _device(row)
    return Found(
        model=given.model or re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", _base(row["model_filename"])),
        engine=given.engine or "llama.cpp",
        quant=scheme or UNKNOWN,
        device=device,
        threads=row.get("n_threads") if on_cpu(device) else None,
        options={
            name: row[name]
            for name, usual in DEFAULTS.items()
            if name in row
            and not any(row[name] == one and type(row[name]) is type(one) for one in usual)
            and (device != "cpu" or name != "n_gpu_layers")
        },
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=1,
        started_at=parse_time(path, "test_time", row["test_time"]),
        samples=samples,
        absent=absent,
        loaded={
            "weights_bytes": count(path, "model_size", row["model_size"]),
            "n_params": count(path, "model_n_params", row["model_n_params"]),
            "details": {"model_type": row["model_type"]},
        },
        identity={
            "cpu": str(row["cpu_info"]).strip() or None,
            "gpu": given.gpu or str(row["gpu_info"]).strip() or None,
            "backends": row["backends"],
            "llama.cpp": row["build_commit"],
        },
    )


def _samples(
    path: Path, row: Json, n_prompt: int, n_gen: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds by our names, and why others are missing."""
    absent = dict(NOT_READ)
    if "samples_ns" in row:
        seconds = numbers(path, "samples_ns", row["samples_ns"], 1e-9)
    else:
        seconds = [number(path, "avg_ns", row["avg_ns"]) * 1e-9]
        absent["samples"] = "this output of llama-bench holds the mean alone; -o json holds all"
    if not seconds:
        raise InputError(f"{path}: samples_ns: is empty")
    if not n_gen:
        absent |= dict.fromkeys(("tpot_s", "decode_tok_s", "output_tok_s"), APART)
        return {"prefill_s": seconds, "e2e_s": seconds}, absent
    if not n_prompt:
        absent |= dict.fromkeys(("ttft_s", "prefill_tok_s"), APART)
        return {"tpot_s": [one / n_gen for one in seconds], "e2e_s": seconds}, absent
    both = ("ttft_s", "prefill_tok_s", "tpot_s", "decode_tok_s")
    return {"e2e_s": seconds}, absent | dict.fromkeys(both, ONE_TIME)


def scheme_of(model_type: str) -> str | None:
    """`q4_k_m` of `llama 8B Q4_K - Medium`; None where no scheme is named."""
    found = None
    for match in SCHEME.finditer(model_type):
        found = match
    if found is None:
        return None
    if found[1]:
        return found[1].lower()
    size = f"_{found[3][0]}" if found[3] else ""
    return f"{found[2]}{size}".lower()


def _device(row: Json) -> str:
    """The backend that held the layers; the CPU where none was given away."""
    names = [name.strip().lower() for name in str(row["backends"]).split(",")]
    away = [name for name in names if name not in ("cpu", "blas", "rpc", "")]
    return away[0] if away and row.get("n_gpu_layers") != 0 else "cpu"


def _base(name: object) -> str:
    return str(name).replace("\\", "/").rsplit("/", 1)[-1]
