"""llama.cpp's `llama-batched-bench`, and `llama-sweep-bench` of its fork: the table, or jsonl.

    |    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
    |   512 |    128 |    8 |   5120 |    0.508 |  8058.80 |    1.862 |   549.80 |    2.371 |  2159.64 |

B sequences at once: T_PP is the time of all their prompts, T_TG that of all new tokens. Where they
share one prompt, it is worked on once, and is no rate of B prompts. The sweep has one sequence, and
N_KV is how much stands in the context before. Neither names the model.
"""  # noqa: E501 (a table as it is printed)

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import NOT_READ, ForeignRun, Twice
from bench.exchange.reading import SourceText, tables
from bench.exchange.values import Json, count, number, typed

TOOL: Final = "llama-batched-bench"
COLUMNS: Final = {
    "pp": "pp",
    "tg": "tg",
    "b": "pl",
    "n_kv": "n_kv",
    "t_pp s": "t_pp",
    "s_pp t/s": "speed_pp",
    "t_tg s": "t_tg",
    "s_tg t/s": "speed_tg",
    "t s": "t",
    "s t/s": "speed",
}
"""Names of the table -> keys of its jsonl."""
WANTED: Final = ("pp", "tg", "n_kv", "t_pp s", "t_tg s")
KEYS: Final = ("pp", "tg", "n_kv", "t_pp", "t_tg")
SETTING: Final = re.compile(r"\b(n_ubatch|n_gpu_layers|flash_attn)\s*=\s*(-?\d+)")
"""Of the line before the table, what makes another arm."""
USUAL: Final = {"n_ubatch": (512,), "n_gpu_layers": (-1, 99), "flash_attn": (-1, 0)}
SHARED: Final = "all sequences share one prompt, which is worked on once"
ROUNDED: Final = 0.0006
"""Seconds by which a time of the table may be rounded."""


def knows(source: SourceText) -> bool:
    """Whether a text looks like one of them."""
    value = source.first()
    if isinstance(value, dict):
        return set(KEYS) <= value.keys()
    return bool(_table(source))


def read(source: SourceText) -> list[ForeignRun]:
    """Every row of a text. InputError in one line."""
    rows = _table(source)
    if not rows and source.text.lstrip()[0] in "[{":
        rows = [
            one for one in source.entries() if isinstance(one, dict) and set(KEYS) <= one.keys()
        ]
    if not rows:
        raise InputError(f"{source}: is not a result of {TOOL}: no table with PP, TG and T_PP")
    return [_found(source, row) for row in rows]


def _table(source: SourceText) -> list[Json]:
    """The rows of every table under the keys of the jsonl, with the settings before it."""
    settings: dict[int, Json] = {}
    for at, line in enumerate(source.text.splitlines()):
        if "n_kv_max" in line and (found := SETTING.findall(line)):
            settings[at] = {name: int(value) for name, value in found}
    rows = []
    for at, cells in tables(source.text, WANTED):
        before = [where for where in settings if where < at]
        row = {key: typed(cells[name]) for name, key in COLUMNS.items() if name in cells}
        rows.append((settings[before[-1]] if before else {}) | row)
    return rows


def _found(source: SourceText, row: Json) -> ForeignRun:
    n_prompt, n_gen, n_kv = (count(source, key, row[key]) for key in ("pp", "tg", "n_kv"))
    swept = "pl" not in row
    n_batch = 1 if swept else count(source, "pl", row["pl"])
    number(source, "pl", n_batch)
    options: dict[str, Any] = {
        name: row[name] for name, usual in USUAL.items() if row.get(name, usual[0]) not in usual
    }
    if swept and n_kv:
        options["n_depth"] = n_kv
    shared = n_batch > 1 and (row.get("is_pp_shared") == 1 or n_kv == n_prompt + n_batch * n_gen)
    absent = {**NOT_READ, "samples": "a row is one time of all prompts and one of all new tokens"}
    samples: dict[str, list[float]] = {}
    seconds = 0.0
    if n_prompt:
        first = number(source, "T_PP", row["t_pp"])
        seconds += first
        if shared:
            absent |= dict.fromkeys(("ttft_s", "prefill_tok_s", "total_tok_s"), SHARED)
        else:
            samples["prefill_s"] = [first]
    if n_gen:
        rest = number(source, "T_TG", row["t_tg"])
        seconds += rest
        samples["tpot_s"] = [rest / n_gen]
    if not seconds:
        raise InputError(f"{source}: a row has neither prompt nor new tokens")
    if not shared:
        samples["e2e_s"] = [seconds]
    else:
        absent |= dict.fromkeys(("e2e_s", "output_tok_s"), SHARED)
    return ForeignRun(
        engine="llama.cpp",
        forks=True,
        options=options | ({"shared_prompt": True} if shared else {}),
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=n_batch,
        started_at=source.date,
        dated=False,
        samples=samples,
        absent=absent,
        twice=tuple(_twice(source, row, 1 if shared else n_batch, n_batch)),
    )


def _twice(source: SourceText, row: Json, prompts: int, n_batch: int) -> Iterator[Twice]:
    """The rates of a row beside its times."""
    n_prompt, n_gen = prompts * row["pp"], n_batch * row["tg"]
    whole = (row["t_pp"] or 0) + (row["t_tg"] or 0)
    for key, tokens, seconds in (
        ("speed_pp", n_prompt, row["t_pp"]),
        ("speed_tg", n_gen, row["t_tg"]),
        ("t", whole, 1),
    ):
        if tokens and seconds and row.get(key):
            yield Twice(
                what=key,
                stated=number(source, key, row[key]),
                made=tokens / seconds,
                of="tokens / seconds" if key != "t" else "t_pp + t_tg",
                within=0.02 + ROUNDED / min(seconds, whole),
            )
