"""Shapes that other versions of the tools give to the same figures, each as its file had it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError
from bench.exchange import naming
from bench.exchange.foreign import Given
from bench.exchange.importing import import_file
from bench.records import Record
from bench.records.file import read

DATA = Path(__file__).parents[1] / "data" / "imports"
CASES = DATA / "cases"


def records(text: str, folder: Path, name: str = "file.txt", **said: Any) -> list[Record]:
    """The records of a file with this text."""
    path, into = folder / name, folder / "into"
    folder.mkdir(exist_ok=True)
    path.write_text(text)
    import_file("auto", path, into, Given(**said))
    return read(into).records


# ---- aiperf ----------------------------------------------------------------------------------


def test_a_phase_of_aiperf_may_be_known_by_its_name_alone(tmp_path: Path) -> None:
    table = json.loads((DATA / "aiperf" / "profile_export_aiperf.json").read_text())
    table["schema_version"] = "1.3"
    table["input_config"]["phases"] = [
        {"name": "warmup", "type": "concurrency", "exclude_from_results": True, "concurrency": 3},
        {"name": "profiling", "type": "concurrency", "requests": 6, "concurrency": 2},
    ]
    (record,) = records(json.dumps(table), tmp_path)
    assert record.workload["n_batch"] == 2
    assert "n_batch" not in record.absent


def test_the_csv_of_aiperf_says_nothing_of_how_the_load_was_set(tmp_path: Path) -> None:
    text = (CASES / "aiperf.csv").read_text()
    (record,) = records(text, tmp_path, "aiperf.csv", model="qwen2.5-7b")
    assert record.absent["n_batch"] == (
        "the CSV does not say how many requests ran at once; --n-batch does"
    )


def test_aiperfs_means_may_part_as_far_as_their_spreads(tmp_path: Path) -> None:
    table = json.loads((DATA / "aiperf" / "profile_export_aiperf.json").read_text())
    for name, changes in (
        ("inter_token_latency", {"avg": 24.0, "std": 47.5, "p50": 14.0, "max": 300.0}),
        ("output_sequence_length", {"avg": 66.0, "std": 38.0}),
        ("request_latency", {"avg": 1490.0, "std": 180.0, "p50": 1500.0, "max": 1750.0}),
        ("time_to_first_token", {"avg": 618.0, "std": 140.0, "p50": 590.0, "max": 820.0}),
    ):
        table[name] |= changes
    for std, marked in ((38.0, False), (0.0, True)):
        table["output_sequence_length"]["std"] = std
        (record,) = records(json.dumps(table), tmp_path / str(std))
        assert ("mean request_latency" in record.absent.get("self_check", "")) is marked


# ---- MLPerf ----------------------------------------------------------------------------------

SERVER = """
MLPerf Results Summary
SUT name : gptj-Server-SUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 47.23
Completed tokens per second (inferred): 3258.83
Result is : VALID
Min latency (ns)                : 848254952
Max latency (ns)                : 19827536210
50.00 percentile latency (ns)   : 10296058976
"""


def test_mlperfs_server_has_inferred_tokens_and_the_time_of_a_request(tmp_path: Path) -> None:
    (record,) = records(SERVER, tmp_path, model="gpt-j-6b", n_prompt=900)
    assert record.samples["output_tok_s"] == [3258.83]
    assert record.samples["e2e_s"] == pytest.approx([10.296058976])
    assert record.workload["n_gen"] == 69
    assert record.absent["ttft_s"].startswith("the summary has no '50.00 percentile first token")


def test_mlperfs_offline_latencies_are_waiting(tmp_path: Path) -> None:
    text = SERVER.replace(": Server", ": Offline").replace("Completed tokens", "Tokens")
    (record,) = records(text, tmp_path, model="gpt-j-6b", n_prompt=900)
    assert "e2e_s" not in record.samples
    assert "wait from the start" in record.absent["e2e_s"]


# ---- what the serving clients print ----------------------------------------------------------

BLOCK = """
============ Serving Benchmark Result ============
Successful requests:                     500
Benchmark duration (s):                  10821.24
Total input tokens:                      193761
Total generated tokens:                  2048000
Request throughput (req/s):              0.05
Output token throughput (tok/s):         189.26
---------------Time to First Token----------------
Median TTFT (ms):                        461.96
==================================================
"""
RETOKENIZED = BLOCK.replace("Request", "Total generated tokens (retokenized): 2041161\nRequest", 1)


def test_two_decimals_of_a_small_rate_contradict_nothing(tmp_path: Path) -> None:
    (record,) = records(BLOCK, tmp_path, model="llama-3.1-8b")
    assert record.reasons == ()
    wrong = BLOCK.replace("0.05", "0.06")
    (record,) = records(wrong, tmp_path / "wrong", model="llama-3.1-8b")
    assert "request_throughput is 0.06" in record.absent["self_check"]


def test_a_concurrency_that_was_not_set_is_none(tmp_path: Path) -> None:
    text = RETOKENIZED.replace("Successful", "Max request concurrency: not set\nSuccessful")
    (record,) = records(text, tmp_path, model="llama-3.1-8b")
    assert record.workload["n_batch"] is None
    assert "--max-concurrency was not set" in record.absent["n_batch"]
    text = text.replace("request concurrency: not set", "reqeuest concurrency: 8")
    (record,) = records(text, tmp_path / "as-0.4-spells-it", model="llama-3.1-8b")
    assert record.workload["n_batch"] == 8


def test_what_is_printed_before_a_block_is_of_that_block(tmp_path: Path) -> None:
    text = (
        f"Traffic request rate: inf\nMaximum request concurrency: 32\n{BLOCK}"
        f"Traffic request rate: 2.0\nMaximum request concurrency: None\n{BLOCK}"
    )
    closed, open_ = records(text, tmp_path, model="llama-3.1-8b")
    assert (closed.workload["n_batch"], closed.variant["options"]) == (32, {})
    assert (open_.workload["n_batch"], open_.variant["options"]) == (None, {"rate": 2.0})


def test_a_time_of_zero_is_not_said_to_be_missing(tmp_path: Path) -> None:
    text = BLOCK.replace("Median TTFT", "Median TPOT (ms):   -0.00\nMedian TTFT")
    (record,) = records(text, tmp_path, model="llama-3.1-8b")
    assert record.absent["tpot_s"] == "the run's tpot is 0"
    assert record.absent["e2e_s"] == "not among the run's figures (e2el)"


SPREAD = {
    "duration": 1.7738,
    "completed": 200,
    "total_input_tokens": 52317,
    "total_output_tokens_retokenized": 13159,
    "mean_e2e_latency_ms": 1491.21,
    "mean_ttft_ms": 618.01,
    "mean_tpot_ms": 23.81,
    "std_tpot_ms": 47.50,
}


@pytest.mark.parametrize(("tokens", "marked"), [(13162, False), (13200, True)])
def test_means_of_requests_that_differ_in_pace_and_length(
    tokens: int, marked: bool, tmp_path: Path
) -> None:
    """Short answers at a slow pace: the mean of a product is not the product of the means. Where
    all answers are of 66 tokens, the two must agree."""
    run = SPREAD | {"total_output_tokens": tokens}
    (record,) = records(json.dumps(run), tmp_path, model="qwen2.5-3b")
    assert ("CONTRADICTION" in record.reasons) is marked


def test_servers_behind_a_router_name_the_model_and_not_the_cards(tmp_path: Path) -> None:
    each = {"model_path": "Qwen/Qwen2.5-3B-Instruct", "tp_size": 1, "dp_size": 1}
    info = {"internal_states": [each], "prefill": [each], "decode": [each]}
    run = SPREAD | {"total_output_tokens": 13162, "server_info": info}
    (record,) = records(json.dumps(run), tmp_path)
    assert record.variant["model"] == "Qwen/Qwen2.5-3B-Instruct"
    assert record.variant["options"] == {"disagg": True}
    assert "a router names one server of each kind" in record.absent["n_devices"]


@pytest.mark.parametrize(
    ("model", "quantization", "scheme"),
    [
        ("Qwen/Qwen3-8B", "fp8", "fp8"),
        ("Qwen/Qwen3-8B", "w8a8_int8", "w8a8"),
        ("nvidia/Llama-3.3-70B-Instruct", "modelopt_fp4", "nvfp4"),
        ("some/Qwen3-8B-GPTQ-Int8", "gptq_marlin", "gptq-int8"),
        ("Qwen/Qwen3-8B", "compressed-tensors", "unknown"),
        ("Qwen/Qwen3-8B", None, "unknown"),
    ],
)
def test_sglangs_server_says_its_scheme(
    model: str, quantization: str | None, scheme: str, tmp_path: Path
) -> None:
    info = {"model_path": model, "quantization": quantization}
    run = SPREAD | {"total_output_tokens": 13162, "server_info": info}
    (record,) = records(json.dumps(run), tmp_path)
    assert record.variant["quant"] == scheme
    assert ("quant" in record.absent) is (scheme == "unknown")


def test_vllms_throughput_of_2024_prints_two_rates(tmp_path: Path) -> None:
    line = "Throughput: 81.74 requests/s, 20926.37 tokens/s"
    (record,) = records(line, tmp_path, model="llama-3.1-8b", n_prompt=128)
    assert record.workload["n_gen"] == 128
    assert record.samples["output_tok_s"] == pytest.approx([20926.37 / 2])
    with pytest.raises(InputError, match="only 256"):
        records(line, tmp_path / "alone", model="llama-3.1-8b")


# ---- optimum-benchmark -----------------------------------------------------------------------


def parts(**backend: Any) -> str:
    """A report of 0.5, which has a request's two parts and no whole."""
    table = json.loads((DATA / "optimum-benchmark" / "benchmark.json").read_text())
    del table["report"]["generate"]
    table["config"]["backend"] |= backend
    return json.dumps(table)


def test_a_whole_request_is_its_prefill_and_its_decode(tmp_path: Path) -> None:
    (record,) = records(parts(), tmp_path)
    report = json.loads(parts())["report"]
    prefill, decode = (report[name]["latency"]["values"] for name in ("prefill", "decode"))
    assert record.samples["e2e_s"] == pytest.approx(
        [a + b for a, b in zip(prefill, decode, strict=True)]
    )
    assert record.reasons == ()


def test_a_report_without_prefill_has_no_whole_request(tmp_path: Path) -> None:
    table = json.loads(parts())
    del table["report"]["prefill"]
    (record,) = records(json.dumps(table), tmp_path)
    assert list(record.samples) == ["tpot_s"]
    assert record.absent["e2e_s"] == "no latency of the whole in the report"


@pytest.mark.parametrize(
    ("scheme", "config", "name"),
    [
        ("gptq", {"bits": 2, "use_exllama": True}, "gptq-int2"),
        ("awq", {"bits": 4, "version": "exllama"}, "awq-int4"),
        ("torchao", {"quant_type": "int4_weight_only"}, "torchao-int4-weight-only"),
        ("bnb", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-nf4"),
        ("bnb", {"load_in_8bit": True}, "bnb-int8"),
        ("fbgemm_fp8", {"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
        (None, {}, "none"),
    ],
)
def test_a_scheme_of_optimum_benchmark_has_its_width(
    scheme: str | None, config: dict[str, Any], name: str, tmp_path: Path
) -> None:
    (record,) = records(parts(quantization_scheme=scheme, quantization_config=config), tmp_path)
    assert record.variant["quant"] == name


@pytest.mark.parametrize(
    ("backend", "n"),
    [
        ({"device_map": None}, 1),
        ({"device_map": "auto"}, 3),
        ({"device_map": None, "tp_plan": "auto"}, 3),
    ],
)
def test_cards_that_a_model_may_see_are_not_cards_that_hold_it(
    backend: dict[str, Any], n: int, tmp_path: Path
) -> None:
    table = json.loads(parts(device="cuda", device_ids="0,1,2", **backend))
    table["config"]["environment"]["gpu"] = ["NVIDIA A100-SXM4-80GB"] * 3
    (record,) = records(json.dumps(table), tmp_path)
    assert record.variant["options"].get("n_devices", 1) == n


def test_the_report_alone_is_known_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is only the report"):
        records(json.dumps(json.loads(parts())["report"]), tmp_path)


# ---- llama-bench -----------------------------------------------------------------------------


def test_a_batch_that_a_table_shows_was_set(tmp_path: Path) -> None:
    """Builds of 2023 had 512 by themselves, and no column of it; later ones have n_ubatch too."""
    table = (
        "| model | size | params | backend | ngl | n_batch | test | t/s |\n"
        "|-------|-----:|-------:|---------|----:|--------:|-----:|----:|\n"
        "| llama 7B Q4_0 | 3.56 GiB | 6.74 B | Vulkan | 99 | 512 | pp512 | 3290.92 ± 37.67 |\n"
    )
    (record,) = records(table, tmp_path)
    assert record.variant["options"]["n_batch"] == 512


ONE_OF_TWO = """
ggml_cuda_init: found 2 ROCm devices:
  Device 0: AMD Instinct MI210, gfx90a (0x90a), VMM: no, Wave Size: 64
  Device 1: AMD Instinct MI210, gfx90a (0x90a), VMM: no, Wave Size: 64
| model         |     size | params | backend | ngl | {head} |  test |          t/s |
| ------------- | -------: | -----: | ------- | --: | -----: | ----: | -----------: |
| llama 7B Q4_0 | 3.56 GiB | 6.74 B | ROCm    |  99 | {cell} | tg128 | 86.06 ± 0.13 |
"""


@pytest.mark.parametrize(
    ("head", "cell", "device"),
    [("sm", "none", "rocm"), ("sm", "layer", "rocm:0+rocm:1"), ("dev", "none", "cpu")],
)
def test_none_in_a_table_of_llama_bench_is_a_value(
    head: str, cell: str, device: str, tmp_path: Path
) -> None:
    (record,) = records(ONE_OF_TWO.format(head=head, cell=cell), tmp_path)
    assert record.variant["device"] == device


def test_none_in_a_csv_of_llama_bench_is_a_value(tmp_path: Path) -> None:
    (row, *_) = json.loads((CASES / "llama-bench-two-cards.json").read_text())
    for mode, n in (("none", 1), ("layer", 2)):
        cells = {key: str(value) for key, value in row.items() if not isinstance(value, list)}
        cells |= {"split_mode": mode, "tensor_split": "0.00"}
        text = "\n".join(",".join(f'"{one}"' for one in line) for line in (cells, cells.values()))
        (record,) = records(text, tmp_path / mode)
        assert record.variant["options"].get("n_devices", 1) == n


def test_a_table_without_a_backend_names_no_device(tmp_path: Path) -> None:
    table = "| model | test | t/s |\n|-|-|-|\n| llama 7B Q4_0 | tg128 | 86.06 ± 0.13 |\n"
    (record,) = records(table, tmp_path)
    assert record.variant["device"] == "unknown"
    (record,) = records(table, tmp_path / "with", gpu="NVIDIA H200")
    assert record.variant["device"] == "gpu"


def test_a_column_of_spreads_is_no_setting(tmp_path: Path) -> None:
    text = ONE_OF_TWO.format(head="peak t/s", cell="98.33 ± 5.44")
    (record,) = records(text, tmp_path)
    assert record.variant["options"] == {"n_devices": 2, "backend": "ROCm"}


def test_llama_benchys_table_is_not_llama_benchs(tmp_path: Path) -> None:
    """A client of any server, whose table has the same tests and another meaning."""
    row = "| Qwen3-8B-AWQ | pp2048 | 2265.07 ± 142.42 | 979.34 ± 59.72 |"
    table = f"| model | test | t/s | ttfr (ms) |\n|-|-|-|-|\n{row}\n"
    with pytest.raises(InputError, match="not a known tool's result"):
        records(table, tmp_path)


def test_the_size_of_the_weights_decides_between_a_name_and_a_flag(tmp_path: Path) -> None:
    text = ONE_OF_TWO.format(head="sm", cell="none")
    text = text.replace(
        "llama 7B Q4_0 | 3.56 GiB | 6.74 B", "gpt-oss 20B F16 | 12.83 GiB | 20.91 B"
    )
    (record,) = records(text, tmp_path)
    assert "5.27 bits each" in record.absent["self_check"]
    (record,) = records(text, tmp_path / "said", quant="mxfp4")
    assert (record.variant["quant"], record.reasons) == ("mxfp4", ())
    with pytest.raises(InputError, match="the file says f16"):
        records(text, tmp_path / "wrong", quant="int8")


# ---- every tool ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "scheme"),
    [
        ("/hub/models--Qwen--Qwen3-8B-AWQ/snapshots/c1d2f0", "Qwen3-8B-AWQ", "awq-int4"),
        ("/home/me/models/openai--gpt-oss-120b", "gpt-oss-120b", None),
        ("Qwen/Qwen3-8B-FP8/", "Qwen3-8B-FP8", "fp8"),
        ("gguf/Qwen3-8B--Q4_K_M.gguf", "Qwen3-8B--Q4_K_M.gguf", "q4_k_m"),
    ],
)
def test_a_path_into_the_hubs_cache_names_its_model(
    model: str, name: str, scheme: str | None
) -> None:
    assert naming.base(model) == name
    assert naming.scheme_in_hub_name(model) == scheme
