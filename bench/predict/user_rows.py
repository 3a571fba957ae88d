"""One's own records as rows that the predictor can be fitted on. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import InputError
from bench.experiment.devices import count, is_remote
from bench.models import model_cards
from bench.predict.published import PublishedRow
from bench.records import Record
from bench.records.file import read
from bench.roofline import mean_context
from bench.roofline.gpus import match
from bench.schemes.bytes import check_quant
from bench.schemes.cache import asked


def rows_of(paths: Sequence[Path]) -> tuple[list[PublishedRow], list[str]]:
    """Rows of measured records on catalogued cards, and one line for each kind left out."""
    if not paths:
        return [], []
    results = read(*paths)
    rows, left = [], list(results.problems)
    for record in results.records:
        if record.status != "ok" or record.origin == "synthetic" or record.reasons:
            continue
        if record.origin != "measured":
            left.append(f"records imported from {record.origin} are left out of the fit")
            continue
        environment = results.environments.get(record.environment)
        found = _row(record, environment.identity if environment else {})
        if isinstance(found, PublishedRow):
            rows.append(found)
        else:
            left.append(found)
    if not rows and not left:
        left.append(f"{', '.join(map(str, paths))}: no measured record there: nothing is fitted")
    return rows, list(dict.fromkeys(left))


def _row(record: Record, identity: Mapping[str, Any]) -> PublishedRow | str:
    name = str(record.variant.get("model", "")).partition("@")[0]
    quant, engine = str(record.variant.get("quant")), str(record.variant.get("engine"))
    if is_remote(str(record.variant.get("device"))):
        return "records of a server, whose device is not known, are left out of the fit"
    if count(str(record.variant.get("device"))) > 1:
        return "records of one model on several cards are left out of the fit"
    gaps = [gap for run in record.samples.get("itl_s", []) for gap in run]
    card = next((gpu for text in _texts(identity) if (gpu := match(text))), None)
    if card is None:
        return "records of a device that is not in the catalog of cards are left out of the fit"
    if name not in model_cards():
        return f"records of '{name}', which has no card, are left out of the fit"
    try:
        check_quant(quant)
    except InputError:
        return f"records of scheme '{quant}', whose size is not known, are left out of the fit"
    if not gaps:
        return "records without decode samples are left out of the fit"
    work = record.workload
    prefill = record.samples.get("prefill_s", [])
    n_prompt, n_gen, n_batch = work["n_prompt"], work["n_gen"], work["n_batch"]
    return PublishedRow(
        line=0,
        gpu=card.name,
        n_gpus=1,
        model=name,
        quant=quant,
        engine=engine,
        version=str(record.variant.get("mode", "")),
        measure="decode",
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=n_batch,
        context=mean_context(n_prompt, n_gen),
        prefill_tok_s=n_batch * n_prompt / statistics.median(prefill) if prefill else None,
        decode_tok_s=n_batch / statistics.median(gaps),
        source=f"own records {record.environment}",
        excluded="",
        note="",
        kv_dtype=asked(engine, record.variant.get("options") or {}),
    )


def _texts(table: object) -> Iterator[str]:
    if isinstance(table, str):
        yield table
    elif isinstance(table, Mapping):
        for value in table.values():
            yield from _texts(value)
    elif isinstance(table, list | tuple):
        for value in table:
            yield from _texts(value)
