"""Measurements that others published, as the project ships them: rows, sources, what is wrong.

`bench/data/published/throughput.csv` holds every row that was collected, those too that no fit
uses: `excluded` says why. `sources.toml` holds where each comes from. Standard library only.
"""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from bench import fields
from bench.data import DATA
from bench.errors import InputError
from bench.models import ModelCard, load_card, model_cards
from bench.predict.placement import Spilled
from bench.predict.terms import Backend, Ollama
from bench.roofline import above_bound, bound
from bench.roofline.gpus import gpus
from bench.schemes.bytes import check_quant, has_layout

FOLDER: Final = DATA / "published"
Measure = Literal["decode", "end_to_end", "max_load"]
"""`decode`: generation alone. `end_to_end`: output tokens over latency, prefill included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSource:
    """One public page with measurements."""

    title: str
    url: str
    date: str
    """When it was measured or published, as precisely as the page says."""
    tier: Literal["A", "B"]
    """A: raw numbers by whoever measured. B: rounded, without lengths, or a vendor's claim."""
    read: datetime.date

    def problems(self) -> Iterator[str]:
        if not self.url.startswith("https://"):
            yield "url: expected https://..."


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """One published measurement. Rates are over the whole batch; a missing figure is None."""

    line: int
    gpu: str
    n_gpus: int
    model: str
    quant: str
    engine: str
    version: str
    measure: str
    n_prompt: int | None
    n_gen: int | None
    n_batch: int | None
    context: float | None
    """Mean tokens that a decode step attends to."""
    prefill_tok_s: float | None
    decode_tok_s: float | None
    source: str
    excluded: str
    """Why no fit may use the row; empty where it may."""
    note: str
    measured: str = ""
    """Day of the measurement, where the row itself says it; else its source's date holds."""
    kv_dtype: str = ""
    """Type of the cache, where it is not 16 bits."""
    power_w: float | None = None
    """Mean power of the card."""
    memory_gib: float | None = None
    """Memory of the device, where it is sold in several sizes."""
    host: str = ""
    """The catalog's name of the host's memory (`cpu-ddr5-6000-2ch`), where it is stated."""
    on_host: str = ""
    """What was left on the host, if stated: `experts 14/40`, `layers 5/49`, or `layers` where the
    engine leaves as few whole ones as it can."""

    @property
    def ollama(self) -> Ollama:
        """How Ollama ran it, if `version` names Ollama, by its number or the day."""
        return ollama_of(self.version, self.measured) if self.engine == "llama.cpp" else ""

    @property
    def backend(self) -> Backend:
        """What llama.cpp was built for, if `version` names one thing."""
        vulkan, rocm = (name in self.version.lower() for name in ("vulkan", "rocm"))
        if self.engine != "llama.cpp" or vulkan == rocm:
            return ""
        return "vulkan" if vulkan else "rocm"


OWN_UNTIL: Final = (0, 30)
"""Ollama's version from which it starts llama.cpp's server, in June 2026."""
OWN_UNTIL_DAY: Final = "2026-06"


def ollama_of(said: str, measured: str) -> Ollama:
    """How Ollama ran a model, from words such as `Ollama 0.24` and a day; empty: it did not."""
    found = re.match(r"ollama(?:\D*?(\d+)\.(\d+))?", said.lower())
    if found is None:
        return ""
    if found[1]:
        return "own" if (int(found[1]), int(found[2])) < OWN_UNTIL else "server"
    return "own" if measured < OWN_UNTIL_DAY else "server"


def sources(folder: Path = FOLDER) -> dict[str, PublishedSource]:
    """Every source by its name. InputError lists every problem."""
    found: list[str] = []
    known = {}
    path = folder / "sources.toml"
    for name, table in fields.read_toml(path).items():
        if source := fields.build(PublishedSource, table, name, found):
            known[name] = source
    if found:
        raise InputError(*(f"{path}: {problem}" for problem in found))
    return known


POSTED: Final = "measured-2026.csv"
"""Rows that owners of cards posted in 2026, which only the predictor reads."""

COLLECTED: Final = "collected-2026.csv"
"""Rows of first-hand reports, with the host stated where it holds a part, and rows that were held
out until 2026-11-29; the predictor alone reads them."""

HELD_OUT: Final = "held-out.csv"
"""Rows of other sources that no fit reads: `scripts/validate-predictor` predicts them."""


def rows(folder: Path = FOLDER, file: str = "throughput.csv") -> list[PublishedRow]:
    """Every row. InputError lists every cell that is not what it should be."""
    path = folder / file
    problems: list[str] = []
    with path.open(encoding="utf-8", newline="") as stream:
        read = [_row(line, cells, problems) for line, cells in enumerate(csv.DictReader(stream), 2)]
    if problems:
        raise InputError(*(f"{path}:{problem}" for problem in problems))
    return read


def _row(line: int, cells: Mapping[str, str], problems: list[str]) -> PublishedRow:
    def number(name: str) -> float | None:
        text = cells.get(name) or ""
        try:
            value = float(text) if text else None
        except ValueError:
            problems.append(f"{line}: {name}: {text!r} is not a number")
            return None
        if value is not None and not 0 < value < float("inf"):
            problems.append(f"{line}: {name}: {text} must be above 0 and finite")
        return value

    def whole(name: str) -> int | None:
        value = number(name)
        return None if value is None else int(value)

    return PublishedRow(
        line=line,
        gpu=cells["gpu"],
        n_gpus=whole("n_gpus") or 1,
        model=cells["model"],
        quant=cells["quant"],
        engine=cells["engine"],
        version=cells["version"],
        measure=cells["measure"],
        n_prompt=whole("n_prompt"),
        n_gen=whole("n_gen"),
        n_batch=whole("n_batch"),
        context=number("context"),
        prefill_tok_s=number("prefill_tok_s"),
        decode_tok_s=number("decode_tok_s"),
        source=cells["source"],
        excluded=cells["excluded"],
        note=cells["note"],
        measured=cells.get("measured") or "",
        kv_dtype=cells.get("kv_dtype") or "",
        power_w=number("power_w"),
        memory_gib=number("memory_gib"),
        host=cells.get("host") or "",
        on_host=cells.get("on_host") or "",
    )


def sized(quant: str) -> str:
    """A scheme whose bytes are known in place of one whose bytes depend on the file.

    `ud-q5_k_xl` takes about what `q5_k_m` does: mixes keep the mean near the recipe's and differ in
    which tensors get more. `nvfp4` is taken as 4-bit weights beside an unquantized head, and
    `nvfp4-gguf` as 4 bits beside Q8_0.
    """
    name = quant.lower()
    if has_layout(name):
        return name
    plain = name.removeprefix("ud-")
    for known in (plain, NEAR.get(plain), NEAR.get(name)):
        if known and has_layout(known):
            return known
    return name


NEAR: Final[Mapping[str, str]] = {
    "q2_k_xl": "q2_k",
    "q3_k_xl": "q3_k_m",
    "q4_k_xl": "q4-5.19bpw",
    "q5_k_xl": "q5_k_m",
    "q6_k_xl": "q6_k",
    "q8_k_xl": "q8-9.12bpw",
    "q4_k_m": "q4_k_m",
    "nvfp4": "compressed-tensors/nvfp4a16",
    "nvfp4-gguf": "q8-5.15bpw",
    "mlx-4bit": "4.5bpw",
    "mlx-6bit": "6.5bpw",
    "mlx-8bit": "8.5bpw",
}
"""Schemes whose bytes depend on the file -> one of about the same size. `q4_k_xl`: the median of
5.24 bits (Qwen3.8-27B), 5.14 (Qwen3.6-35B-A3B), 5.41 and 4.88 (gemma-4 26B-A4B, 31B); `q8_k_xl`: of
10.47 (Qwen3.6-27B), 8.87 (35B-A3B), 8.83, 9.12 (gemma-4) and 9.38 (GLM-4.7-Flash), as llama-bench
prints their sizes (sources `kyuz0-strix-halo` and `qwen38-mtp`). `nvfp4-gguf`: llama.cpp has no
recipe, so that files differ: 4.6 bits where nothing was left (Qwen3.6-27B, 14.64 GiB, source
`notwitcheer-5090`), 5.15 with Q8_0 beside (Nemotron 75B, llama.cpp pull request 25446), and more
where a checkpoint is converted. MLX: groups of 64 with a 16-bit scale and offset."""


def spilled(text: str) -> Spilled | None:
    """What `on_host` says, None where it says nothing that can be read."""
    found = re.fullmatch(r"(experts|layers)(?: (\d+(?:\.\d+)?)/(\d+))?", text)
    if found is None:
        return None
    part: Literal["experts", "layers"] = "experts" if found[1] == "experts" else "layers"
    if found[2] is None:
        return Spilled(part=part)
    if not 0 < float(found[2]) <= float(found[3]):
        return None
    return Spilled(part=part, share=float(found[2]) / float(found[3]))


@cache
def card(name: str) -> ModelCard:
    """The shipped card of that name, read once."""
    return load_card(model_cards()[name])


def validate_published(folder: Path = FOLDER) -> list[str]:
    """Every problem in the published measurements, one line each."""
    names = ("throughput.csv", POSTED, COLLECTED, HELD_OUT)
    files = [name for name in names if (folder / name).is_file()]
    try:
        known = sources(folder)
        read = [(name, rows(folder, name)) for name in files]
    except (InputError, OSError) as error:
        return [str(error)] if isinstance(error, OSError) else list(error.problems)
    return [
        f"{folder / name}:{row.line}: {problem}"
        for name, all_rows in read
        for row in all_rows
        for problem in _check(row, known)
    ]


def _check(row: PublishedRow, known: Mapping[str, PublishedSource]) -> Iterator[str]:
    if row.source not in known:
        yield f"source: {row.source!r} is not in sources.toml"
    if row.decode_tok_s is None and row.prefill_tok_s is None:
        yield "neither prefill_tok_s nor decode_tok_s"
    if row.excluded:
        return
    if row.gpu not in gpus():
        yield f"gpu: {row.gpu!r} is not in the catalog; add it, or say why in `excluded`"
    elif row.host and (row.host not in gpus() or gpus()[row.host].kind != "cpu"):
        yield f"host: {row.host!r} is not one of the catalog's processors"
    elif row.on_host and spilled(row.on_host) is None:
        yield f"on_host: {row.on_host!r} is not like 'experts 14/40' or 'layers 5/49'"
    elif row.model not in model_cards():
        yield f"model: {row.model!r} has no card; add one, or say why in `excluded`"
    else:
        yield from _possible(row)


def _possible(row: PublishedRow) -> Iterator[str]:
    quant = sized(row.quant)
    try:
        check_quant(quant)
    except InputError as error:
        yield f"quant: {error}"
        return
    if row.n_batch is None or row.context is None:
        yield "n_batch, context: needed unless the row is excluded"
        return
    limit = bound(
        card(row.model),
        gpus()[row.gpu],
        quant,
        n_prompt=max(1, round(row.context) - 1),
        n_gen=2,
        n_batch=row.n_batch,
        engine=row.engine,
        dtype="float16",
        n_devices=row.n_gpus,
    )
    if above_bound(row.decode_tok_s, limit.decode_tok_s):
        yield f"decode_tok_s: {row.decode_tok_s} is above the bound {limit.decode_tok_s:.1f}"
