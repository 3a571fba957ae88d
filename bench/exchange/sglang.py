"""SGLang's benchmarks: `bench_serving`, and those without a client (`sglang_offline`).

Lines of JSON, or the block that is printed.

A client (`bench.exchange.serving`). The file names no model unless `server_info` is in it, and no
card. Under a rate its `max_concurrency` is a cap, not how many requests ran at once.
"""

from __future__ import annotations

from typing import Final

from bench.exchange import sglang_offline
from bench.exchange.foreign import ForeignRun, answered
from bench.exchange.reading import SourceText
from bench.exchange.serving import KEYS, TITLE, blocks, served
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
        return {*KEYS, RETOKENIZED} <= value.keys() or sglang_offline.knows(value)
    if sglang_offline.printed(source):
        return True
    return any(RETOKENIZED in one for one in blocks(source))


def read(source: SourceText) -> list[ForeignRun]:
    """Every run of a file. InputError in one line."""
    runs = blocks(source) or sglang_offline.printed(source) or source.entries()
    return answered(source, runs, _found)


def _found(source: SourceText, run: Json) -> ForeignRun:
    if sglang_offline.knows(run):
        return sglang_offline.found(source, run)
    if TITLE not in source.text:
        expect(source, TOOL, run, (*KEYS, RETOKENIZED))
    asked = {key: value for key, value in run.items() if not key.startswith(("random_", "gsp_"))}
    return served(source, asked, SERVERS.get(str(run.get("backend")).lower()))
