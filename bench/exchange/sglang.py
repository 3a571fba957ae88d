"""SGLang's `python -m sglang.bench_serving`: its lines of JSON, and the block that it prints.

A client (`bench.exchange.serving`). The file names no model unless `server_info` is in it, and no
card. Under a rate its `max_concurrency` is a cap, not how many requests ran at once.
"""

from __future__ import annotations

from typing import Final

from bench.exchange.foreign import ForeignRun, answered
from bench.exchange.reading import SourceText
from bench.exchange.serving import KEYS, blocks, served
from bench.exchange.values import Json, expect

TOOL: Final = "sglang"
RETOKENIZED: Final = "total_output_tokens_retokenized"
"""A key that every version of its file has, and no other tool's."""
SERVERS: Final = {
    "sglang-oai": "sglang",
    "sglang-oai-chat": "sglang",
    "sglang-native": "sglang",
    "sglang": "sglang",
    "vllm": "vllm",
    "vllm-chat": "vllm",
    "lmdeploy": "lmdeploy",
    "trt": "tensorrt-llm",
}
"""`--backend` -> the server that it was."""


def knows(source: SourceText) -> bool:
    """Whether a text looks like a line of this tool, or like what it prints."""
    value = source.first()
    if isinstance(value, dict):
        return {*KEYS, RETOKENIZED} <= value.keys()
    return any(RETOKENIZED in one for one in blocks(source))


def read(source: SourceText) -> list[ForeignRun]:
    """Every run of a file. InputError in one line."""
    runs = blocks(source) or [
        expect(source, TOOL, run, (*KEYS, RETOKENIZED)) for run in source.entries()
    ]
    return answered(source, runs, _found)


def _found(source: SourceText, run: Json) -> ForeignRun:
    asked = {key: value for key, value in run.items() if not key.startswith(("random_", "gsp_"))}
    return served(source, asked, SERVERS.get(str(run.get("backend")).lower()))
