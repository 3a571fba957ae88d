"""llama-bench's Markdown table, as people paste it with the lines that llama.cpp prints before it.

ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 3090, compute capability 8.6, VMM: yes
| model          |     size |  params | backend | ngl |          test |            t/s |
| llama 7B Q4_0  | 3.56 GiB |  6.74 B | CUDA    |  99 | pp512 @ d4096 | 1043.2 ± 12.40 |
build: 34ce48d97 (7356)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from bench.errors import InputError
from bench.exchange.reading import SourceText, tables
from bench.exchange.values import Json, read_number, typed

WANTED: Final = ("model", "test", "t/s")
UNITS: Final = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "mb": 1e6, "gb": 1e9}
NUMBERS: Final = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
COLUMNS: Final = {
    "backend": "backends",
    "ngl": "n_gpu_layers",
    "threads": "n_threads",
    "n_threads": "n_threads",
    "n_batch": "n_batch",
    "n_ubatch": "n_ubatch",
    "type_k": "type_k",
    "type_v": "type_v",
    "fa": "flash_attn",
    "sm": "split_mode",
    "mg": "main_gpu",
    "nkvo": "no_kv_offload",
    "embd": "embeddings",
    "ncmoe": "n_cpu_moe",
    "n_cpu_moe": "n_cpu_moe",
    "ts": "tensor_split",
    "dev": "devices",
    "devices": "devices",
    "ot": "tensor_buft_overrides",
}
"""Its short names -> those of its JSON."""

CLIENTS: Final = frozenset({"ttfr (ms)", "est_ppt (ms)", "e2e_ttft (ms)"})
"""Columns of llama-benchy: a client of any server, whose tests have the same names."""
WORDS: Final = frozenset({"split_mode", "devices"})
"""Of these `none` is a value: one card, or the CPU."""

TEST: Final = re.compile(
    r"(?:pp\s?(?P<pp>\d+))?\s?\+?\s?(?:tg\s?(?P<tg>\d+))?(?:\s?@\s?d\s?(?P<depth>\d+))?", re.I
)
FOUND: Final = re.compile(r"[Ff]ound (\d+) (?:\w+ )?devices?\b")
DEVICE: Final = re.compile(
    r"(?:^\s*Device (\d+): (?P<cuda>[^,\n]+))"
    r"|(?:^ggml_vulkan: (\d+) = (?P<vulkan>[^|\n]+?)(?: \([\w ./-]+\))? \|)"
    r"|(?:^\s*Vulkan(\d+): (?P<vulkan0>[^|\n]+?)(?: \([\w ./-]+\))? \|)"
    r"|(?:\[(?:level_zero|opencl):gpu:\d+\]\|\s*(?P<sycl>[^|\n]+?)\s*\|)"
    r"|(?:^ggml_metal_\w+: (?:GPU name:|found device:)\s+(?P<metal>[^\n(]+))"
)
KINDS: Final = ("cuda", "vulkan", "vulkan0", "sycl", "metal")
BUILD: Final = re.compile(r"^\s*build: (\w+) \((\d+)\)")


def rows(source: SourceText) -> list[Json]:
    """The tests of every table, by the keys of its JSON; [] without a table of this tool."""
    lines = source.text.splitlines()
    found = list(tables(source.text, WANTED))
    own = [(at, cells) for at, cells in found if not CLIENTS & cells.keys()]
    return [row for at, cells in own if (row := _row(source, lines, at, cells))]


def _row(source: SourceText, lines: Sequence[str], at: int, cells: dict[str, str]) -> Json | None:
    test = TEST.fullmatch(cells["test"].strip("` *"))
    rate = read_number(cells["t/s"].replace("`", "").replace("*", ""))
    if test is None or not (test["pp"] or test["tg"]):
        return None
    if rate is None:
        raise InputError(f"{source}: line {at + 1}: t/s: {cells['t/s']!r} is not a number")
    depth, kind = test["depth"], cells["model"].strip("` *")
    size, params = _with_unit(cells.get("size"), UNITS), _with_unit(cells.get("params"), NUMBERS)
    return {
        "model_type": kind,
        "n_prompt": int(test["pp"] or 0),
        "n_gen": int(test["tg"] or 0),
        "avg_ts": rate,
        **({"n_depth": int(depth)} if depth else {}),
        **({"model_size": int(size)} if size else {}),
        **({"model_n_params": int(params)} if params else {}),
        **_settings(cells),
        "gpu_info": ",".join(_cards(lines[:at])),
        "build_commit": _build(lines[at:]),
    }


def _settings(cells: dict[str, str]) -> Json:
    """The other columns, under the names of its JSON; those of a fork under their own. What has a
    spread was measured."""
    own = {"model", "size", "params", "test", "t/s"}
    each = {
        COLUMNS.get(name, name): text
        for name, text in cells.items()
        if name not in own and name and text not in ("", "-") and "±" not in text
    }
    return {key: text if key in WORDS else typed(text) for key, text in each.items()}


def _with_unit(text: str | None, units: dict[str, float] | dict[str, int]) -> float | None:
    """`3.56 GiB` in bytes, `6.74 B` in parameters."""
    found = re.search(r"([\d.,]+)\s*([A-Za-z]+)", text or "")
    scale = units.get(found[2].lower()) if found else None
    value = read_number(found[1]) if found else None
    return value * scale if value and scale else None


def _cards(before: Sequence[str]) -> list[str]:
    """The cards that llama.cpp said it found, last before the table."""
    names: list[str] = []
    for line in before:
        if FOUND.search(line):
            names = []
        elif found := DEVICE.search(line):
            name = next(found[group] for group in KINDS if found[group])
            if found["metal"]:
                names = []
            names.append(name.strip())
    return names


def _build(after: Sequence[str]) -> str | None:
    """The commit in the first `build:` line after the row."""
    return next((found[1] for line in after if (found := BUILD.search(line))), None)
