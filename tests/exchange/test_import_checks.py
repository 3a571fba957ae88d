"""The self-check: what figures exclude one another is marked with the two that disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.exchange.foreign import Given
from bench.exchange.importing import import_file
from bench.records.file import read

CASES = Path(__file__).parents[1] / "data" / "imports" / "cases"
DATA = CASES.parent


def marks(path: Path, into: Path, **said: Any) -> str:
    """What the records of a file are marked with; the import says it too."""
    done = import_file("auto", path, into, Given(**said))
    found = [r.absent["self_check"] for r in read(into).records if "CONTRADICTION" in r.reasons]
    assert all(any(mark in note for note in done.notes) for mark in found)
    return "; ".join(found)


def with_changes(path: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """The file with other values at dotted places, in its first list entry where it is a list."""
    text = path.read_text()
    table = json.loads(text.splitlines()[0] if path.suffix == ".jsonl" else text)
    for place, value in changes.items():
        node = table[0] if isinstance(table, list) else table
        *way, last = place.split(".")
        for key in way:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[last] = value
    made = folder / "changed.json"
    made.write_text(json.dumps(table))
    return made


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llama-bench-cpu.json", {"avg_ns": 1}, "avg_ns is 1.00, but the mean of samples_ns is"),
        ("llama-bench-cpu.json", {"avg_ts": 900.0}, "avg_ts is 900.00, but tokens / samples_ns"),
        ("llama-bench-rpc.json", {"model_size": 141e9}, "the scheme is q4_k_m, but 141 GB for"),
        ("vllm-serve.json", {"output_throughput": 99.0}, "but total_output_tokens / duration is"),
        ("vllm-serve.json", {"num_prompts": 80}, "num_prompts is 80.00, but completed + failed"),
        ("vllm-serve.json", {"median_tpot_ms": 30.0}, "output_tok_s is 82.89, but decode_tok_s is"),
        ("vllm-serve.json", {"mean_ttft_ms": 2000.0}, "max_concurrency is 2.00, but requests a"),
        ("vllm-sweep.json", {"median_e2el_ms": 40.0}, "but ttft_s"),
        ("vllm-latency.json", {"avg_latency": 100.0}, "avg_latency is 100.00"),
        ("vllm-throughput.json", {"tokens_per_second": 1.0}, "total_num_tokens / elapsed_time"),
        ("sglang-serving.jsonl", {"total_output_tokens": 300000}, "output_throughput is 957.16"),
        ("aiperf-0.1.json", {"records.total_osl.avg": 9000.0}, "output_tok_s is 2,320.72"),
        ("inference-perf-stage.json", {"load_summary.count": 90}, "successes + failures is 60"),
        ("inferencex-agg.json", {"tput_per_gpu": 300.0}, "tput_per_gpu is 300.00, but input +"),
        ("inferencex-agg.json", {"median_intvty": 9.0}, "median_intvty is 9.00"),
        ("llmperf-summary.json", {"num_concurrent_requests": 1}, "num_concurrent_requests is 1"),
        ("llmfit-two-cards.json", {"results.0.avgTps": 200.0}, "avgOutputTokens / avgTotalMs"),
        (
            "guidellm-warm-up.json",
            {"benchmarks.0.metrics.output_tokens_per_second.successful.mean": 60.0},
            "mean output_tokens_per_second is 60.00, but tokens over the measured time is 33",
        ),
    ],
)
def test_figures_that_exclude_one_another_are_named(
    name: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    said: dict[str, Any] = {}
    if name.startswith(("vllm-latency", "vllm-throughput", "sglang", "inference-perf", "llmfit")):
        said["model"] = None if name.startswith("llmfit") else "llama-3.1-70b"
    if name.startswith(("vllm-latency", "vllm-throughput")):
        said |= {"n_prompt": 2048, "n_gen": 2048}
    if name.startswith("vllm-latency"):
        said["n_batch"] = 32
    if name.startswith("llmfit"):
        said["n_prompt"] = 64
    path = with_changes(CASES / name, tmp_path, changes)
    assert words in marks(path, tmp_path / "into", **said)
    whole = marks(CASES / name, tmp_path / "whole", **said)
    assert whole == "", "the file as it is agrees with itself"


def test_all_requests_over_a_part_of_the_time_are_seen(tmp_path: Path) -> None:
    """What was wrong before: the list's tokens over the measured window, 42.67 for 33.41."""
    table = json.loads((CASES / "guidellm-warm-up.json").read_text())
    run = table["benchmarks"][0]
    for request in run["requests"]["successful"]:
        del request["request_start_time"], request["request_end_time"]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(table))
    said = marks(path, tmp_path / "into")
    assert "output_tok_s is 42.67, but decode_tok_s is 33.4" in said


def test_energy_by_counter_and_by_power_must_agree(tmp_path: Path) -> None:
    gpu = "telemetry_data.endpoints"
    table = json.loads((CASES / "aiperf-energy.json").read_text())
    (card,) = table["telemetry_data"]["endpoints"]["127.0.0.1:9401"]["gpus"].values()
    card["metrics"]["gpu_power_usage"]["avg"] *= 2
    path = tmp_path / "file.json"
    path.write_text(json.dumps(table))
    import_file("aiperf", path, tmp_path / "into")
    (record,) = read(tmp_path / "into").records
    assert record.reasons == ("ENERGY_DISAGREES",), gpu
    assert record.energy["energy_j"] == pytest.approx(5299, rel=0.001)
    del card["metrics"]["energy_consumption"]
    path.write_text(json.dumps(table))
    import_file("aiperf", path, tmp_path / "power")
    (record,) = read(tmp_path / "power").records
    assert record.energy["source"] == "mean power"


@pytest.mark.parametrize("busy", [(90.0, 80.0), (90.0, 0.0), (None, None)])
def test_cards_that_telemetry_saw_are_not_cards_that_served(
    busy: tuple[float | None, float | None], tmp_path: Path
) -> None:
    table = json.loads((CASES / "aiperf-energy.json").read_text())
    gpus = table["telemetry_data"]["endpoints"]["127.0.0.1:9401"]["gpus"]
    gpus["gpu_1"] = json.loads(json.dumps(gpus["gpu_0"]))
    for card, share in zip(gpus.values(), busy, strict=True):
        if share is None:
            del card["metrics"]["gpu_utilization"]
        else:
            card["metrics"]["gpu_utilization"]["avg"] = share
    path = tmp_path / "file.json"
    path.write_text(json.dumps(table))
    done = import_file("aiperf", path, tmp_path / "into", Given(gpu="H100 SXM"))
    (record,) = read(tmp_path / "into").records
    n = record.variant["options"].get("n_devices", 1)
    assert n == (2 if busy[1] and busy[1] > 5 else 1)
    unknown = busy[0] is None
    assert any("saw 2 cards" in note and "--n-gpus" in note for note in done.notes) is unknown
    if unknown:
        import_file("aiperf", path, tmp_path / "told", Given(n_gpus=2))
        (record,) = read(tmp_path / "told").records
        assert record.variant["options"]["n_devices"] == 2
