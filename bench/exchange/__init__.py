"""Results from and for other tools. docs/exchange.md has every definition that is mapped.

Reading: `foreign` (a file that we did not write, and what a tool's figures become), `importing`
(the table of tools, and the records into a folder), one file a tool. Writing: `exporting` (the
table of formats), `frame` (one row a record, also `bench.read_results`), one file a format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TOOLS: Final[Mapping[str, str]] = {
    "llama-bench": "llama_bench",
    "vllm": "vllm",
    "guidellm": "guidellm",
    "aiperf": "aiperf",
    "optimum-benchmark": "optimum_benchmark",
    "pytest-benchmark": "pytest_benchmark",
}
"""Tool -> its file in this room. Each has `knows(value)` and `read(path, given)`."""

OURS: Final = "jsonl"
"""Our own records, from another folder or from `bench export --to jsonl`."""

FORMATS: Final[Mapping[str, str]] = {
    "pytest-benchmark": "pytest_benchmark:write",
    "csv": "tabular:csv",
    "parquet": "tabular:parquet",
    "md": "tabular:markdown",
    "jsonl": "tabular:jsonl",
    "pytorch-hud": "hud:write",
}
"""Format -> the function of this room that makes it, of the results and a price of an hour."""

BINARY: Final = frozenset({"parquet"})
