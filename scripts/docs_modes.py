"""The table of schemes in mode cuda-graph, for docs/modes.md: launches, bytes, what to expect."""

from __future__ import annotations

from step_prediction import SHEET_SHARE, step_s

from bench.models import ModelCard, resolve_model
from bench.report.tables import Column, figure, to_markdown
from bench.roofline import bound
from bench.roofline.gpus import Gpu, resolve_gpu
from bench.schemes import of_engine, scheme

SIZES = (128, 128, 1)
ON = (("rtx-4080-super", "qwen3-4b"), ("h200-sxm", "llama-3.1-8b"))


def table() -> str:
    """One row a scheme whose launches are known (`bench.schemes`)."""
    rows = map(scheme, of_engine("graph"))
    names = [row.name for row in rows if row.launches and row.source == "float"]
    columns = [
        figure("scheme", lambda name: f"`{name}`"),
        figure("launches a layer", lambda name: str(scheme(name).launches)),
        *(column for on in ON for column in _columns(*on)),
        figure("seen on a card", lambda _: "no"),
    ]
    return to_markdown(names, columns)


def _columns(gpu: str, model: str) -> list[Column]:
    card, here = resolve_model(model).card, resolve_gpu(gpu)
    copy = SHEET_SHARE * here.bandwidth

    def seconds(name: str) -> float:
        return step_s(card, name, copy, SIZES, "bfloat16", {})

    def share(name: str) -> str:
        return f"{_bytes(name, card, here) / seconds(name) / copy:.0%}"

    where = f"{here.title}, {card.name}"
    return [
        figure(f"{where}: GB a token", lambda name: f"{_bytes(name, card, here) / 1e9:.2f}"),
        figure("ms", lambda name: f"{seconds(name) * 1e3:.1f}"),
        figure("of copy rate", share),
    ]


def _bytes(name: str, card: ModelCard, here: Gpu) -> float:
    return bound(card, here, name, *SIZES, dtype="bfloat16").decode_bytes
