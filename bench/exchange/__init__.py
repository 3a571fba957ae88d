"""Results from and for other tools. docs/exchange.md has every definition that is mapped.

Reading, one way for every tool: `reading` (bytes to text, and the values in it), one file a tool
(what a file says: `Found`), `filling` (with what the user says), `foreign` (as records), `checks`
(figures that cannot all be right), `importing` (into a folder). `values` and `naming` are what
importers share.
Writing: `exporting` (the table of formats), `frame` (one row a record; `copied` of large results,
and `bench.read_results`), one file a format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TOOLS: Final[Mapping[str, str]] = {
    "llama-bench": "llama_bench",
    "llama-batched-bench": "llama_batched_bench",
    "vllm": "vllm",
    "sglang": "sglang",
    "guidellm": "guidellm",
    "aiperf": "aiperf",
    "inference-perf": "inference_perf",
    "inferencex": "inferencex",
    "llmperf": "llmperf",
    "llmfit": "llmfit",
    "mlperf": "mlperf",
    "ollama": "ollama",
    "optimum-benchmark": "optimum_benchmark",
    "pytest-benchmark": "pytest_benchmark",
}
"""Tool -> its file in this room. Each has `knows(source)` and `read(source, given)`."""

AUTO: Final = "auto"
"""Whatever tool the file is of."""

LOOKED_FOR: Final = (
    "llama-bench (model_filename, avg_ns; a table with test and t/s), llama-batched-bench (T_PP), "
    "vllm (total_output_tokens, "
    "elapsed_time, latencies), sglang (total_output_tokens_retokenized, prefill_latency), guidellm "
    "(benchmarks), aiperf (request_latency), inference-perf (load_summary), inferencex "
    "(tput_per_gpu), llmperf (results_ttft_s), llmfit (avgTps), mlperf (MLPerf Results Summary), "
    "ollama (eval rate), optimum-benchmark (config, report), pytest-benchmark (machine_info)"
)

OURS: Final = "jsonl"
"""Our own records, from another folder or from `bench export --to jsonl`."""

FORMATS: Final[Mapping[str, str]] = {
    "pytest-benchmark": "pytest_benchmark:write",
    "csv": "tabular:csv",
    "parquet": "tabular:parquet",
    "md": "tabular:markdown",
    "jsonl": "tabular:jsonl",
    "llama-bench": "llama_bench_export:write",
    "inferencex": "inferencex_export:write",
    "pytorch-hud": "hud:write",
}
"""Format -> the function of this room that makes it, of the results and a price of an hour."""

BINARY: Final = frozenset({"parquet"})
