"""Other tools' files: what their figures become, and one clear line for what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.api import summarise
from bench.cli import main
from bench.errors import InputError
from bench.exchange import TOOLS
from bench.exchange.foreign import Given
from bench.exchange.importing import import_file
from bench.exchange.naming import scheme_in_type
from bench.records import FILE, Record
from bench.records.check import check_results
from bench.records.file import Results, read
from bench.summary.replicate import speeds

DATA = Path(__file__).parents[1] / "data" / "imports"
CASES = DATA / "cases"
SAMPLES = {
    "llama-bench": DATA / "llama-bench" / "qwen2.5-7b.json",
    "vllm": DATA / "vllm" / "serve-detailed.json",
    "guidellm": DATA / "guidellm" / "benchmarks.json",
    "aiperf": DATA / "aiperf" / "profile_export_aiperf.json",
    "optimum-benchmark": DATA / "optimum-benchmark" / "benchmark.json",
}


JSON_TOOLS = [tool for tool in TOOLS if tool not in ("mlperf", "ollama")]
"""Tools whose files are JSON; the other two print text."""


def imported(tool: str, path: Path, into: Path, **said: Any) -> Results:
    import_file(tool, path, into, Given(**said))
    return read(into)


def changed(tool: str, folder: Path, **changes: Any) -> Path:
    """The sample of a tool with other top-level keys; None takes one away."""
    table = json.loads(SAMPLES[tool].read_text())
    table = {k: v for k, v in (table | changes).items() if v is not None}
    path = folder / "changed.json"
    path.write_text(json.dumps(table))
    return path


def refusal(tool: str, path: Path, into: Path, **said: Any) -> str:
    """The one line that refuses a file; nothing is written."""
    with pytest.raises(InputError) as error:
        import_file(tool, path, into, Given(**said))
    assert not into.exists()
    (line,) = str(error.value).splitlines()
    return line


# ---- every tool ------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", SAMPLES)
def test_a_sample_becomes_good_records_of_that_origin(tool: str, tmp_path: Path) -> None:
    results = imported(tool, SAMPLES[tool], tmp_path)
    assert {record.origin for record in results.records} == {tool}
    assert check_results(tmp_path).problems == ()
    for record in results.records:
        figures = speeds(record)
        (row,) = summarise(Results(records=[record]))
        assert figures["total_tok_s"]
        missing = {name for name, value in figures.items() if value is None}
        assert missing <= row["absent"].keys(), "a missing figure without its reason"


@pytest.mark.parametrize("tool", SAMPLES)
def test_a_sample_has_a_page(tool: str, tmp_path: Path) -> None:
    import_file(tool, SAMPLES[tool], tmp_path / "into")
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "into"), "--to", str(page)]) == 0
    assert tool in page.read_text()


@pytest.mark.parametrize("tool", SAMPLES)
def test_the_same_file_twice_adds_nothing(tool: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(SAMPLES[tool].read_bytes())
    first = import_file(tool, SAMPLES[tool], tmp_path / "into")
    before = (tmp_path / "into" / FILE).read_bytes()
    again = import_file(tool, copy, tmp_path / "into")
    assert (again.added, again.known) == (0, first.added)
    assert (tmp_path / "into" / FILE).read_bytes() == before


@pytest.mark.parametrize("tool", JSON_TOOLS)
def test_a_file_that_is_none_of_it_is_one_line(tool: str, tmp_path: Path) -> None:
    path, into = tmp_path / "file.json", tmp_path / "into"
    assert "No such file" in refusal(tool, path, into)
    for text, words in (
        ("", "is empty"),
        ("  \n", "is empty"),
        ("[", "ends in the middle"),
        ('{"a": 1', "ends in the middle"),
        ('{"a": "unfinished', "ends in the middle"),
        ("{}", f"is not a result of {tool}"),
        ("[1]", f"is not a result of {tool}"),
        ('"text"', f"is not a result of {tool}"),
        ("{'a': 1}", "is not JSON (line 1)"),
    ):
        path.write_text(text)
        assert words in refusal(tool, path, into), text
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not text" in refusal(tool, path, into)


@pytest.mark.parametrize("tool", ["mlperf", "ollama"])
def test_a_text_that_is_none_of_it_is_one_line(tool: str, tmp_path: Path) -> None:
    path, into = tmp_path / "file.txt", tmp_path / "into"
    assert "No such file" in refusal(tool, path, into)
    for text, words in (
        ("", "is empty"),
        ("a log\n", "is not a result"),
        ("{}", "is not a result"),
    ):
        path.write_text(text)
        assert words in refusal(tool, path, into), text


@pytest.mark.parametrize("tool", SAMPLES)
def test_a_cut_off_file_is_one_line_wherever_it_is_cut(tool: str, tmp_path: Path) -> None:
    text = SAMPLES[tool].read_text().rstrip()
    path = tmp_path / "cut.json"
    for cut in (len(text) - 1, len(text) * 9 // 10, len(text) // 2, len(text) // 3, 20):
        path.write_text(text[:cut])
        assert str(path) in refusal(tool, path, tmp_path / "into")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_of_another_tool_names_that_tool(tool: str, tmp_path: Path) -> None:
    for other, path in SAMPLES.items():
        if other != tool:
            line = refusal(tool, path, tmp_path / "into")
            assert f"it looks like one of {other}: bench import {other}" in line


@pytest.mark.parametrize(
    ("tool", "changes", "words"),
    [
        ("aiperf", {"schema_version": "2.0"}, "schema 2.0 of aiperf is newer than 1.x"),
        (
            "guidellm",
            {"metadata": {"version": 3, "guidellm_version": "1.0"}},
            "report version 3 of guidellm is newer than 2",
        ),
    ],
)
def test_a_newer_schema_is_refused(
    tool: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in refusal(tool, changed(tool, tmp_path, **changes), tmp_path / "into")


def test_a_failed_import_leaves_what_was_there(tmp_path: Path) -> None:
    import_file("aiperf", SAMPLES["aiperf"], tmp_path / "into")
    before = (tmp_path / "into" / FILE).read_bytes()
    bad = changed("aiperf", tmp_path, request_latency={"unit": "parsec", "p50": 1.0})
    with pytest.raises(InputError, match="unit 'parsec' is not known"):
        import_file("aiperf", bad, tmp_path / "into")
    assert (tmp_path / "into" / FILE).read_bytes() == before


# ---- llama-bench -----------------------------------------------------------------------------


def llama(folder: Path, **changes: Any) -> Path:
    """The documented file with changed keys in each row."""
    rows = [row | changes for row in json.loads(SAMPLES["llama-bench"].read_text())]
    path = folder / f"llama{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(rows))
    return path


def test_llama_bench_prompt_and_generation_are_two_workloads(tmp_path: Path) -> None:
    prompt, made = imported("llama-bench", SAMPLES["llama-bench"], tmp_path).records
    assert prompt.workload == {"n_prompt": 512, "n_gen": 0, "n_batch": 1}
    assert made.workload == {"n_prompt": 0, "n_gen": 128, "n_batch": 1}
    # Medians of the five repeats; the tool's own averages are 7100.0 and 118.9 tok/s.
    assert speeds(prompt)["prefill_tok_s"] == pytest.approx(512 / 0.0717452)
    assert speeds(made)["decode_tok_s"] == pytest.approx(128 / 1.0753613)
    assert speeds(made)["output_tok_s"] == pytest.approx(128 / 1.0753613)
    assert speeds(prompt)["decode_tok_s"] is None
    assert speeds(prompt)["output_tok_s"] is None
    assert speeds(made)["ttft_s"] is None
    assert made.variant["quant"] == "q4_k_m"
    assert made.variant["engine"] == "llama.cpp"
    assert made.model["weights_bytes"] == 4677120000


def test_llama_bench_of_today(tmp_path: Path) -> None:
    """Really run: a prompt, new tokens, and both in one time."""
    results = imported(
        "llama-bench",
        DATA / "llama-bench" / "smollm2.json",
        tmp_path,
        model="smollm2-135m-instruct",
    )
    assert check_results(tmp_path).problems == ()
    prompt, made, both = results.records
    assert {r.variant["name"] for r in results.records} == {
        "smollm2-135m-instruct/llama.cpp/q4_1/1t"
    }
    assert speeds(prompt)["prefill_tok_s"] == pytest.approx(32 / 0.472428905)
    assert speeds(made)["tpot_s"] == pytest.approx(sorted(made.samples["e2e_s"])[1] / 8)
    assert both.workload == {"n_prompt": 32, "n_gen": 8, "n_batch": 1}
    assert speeds(both)["tpot_s"] is speeds(both)["ttft_s"] is None
    assert speeds(both)["total_tok_s"] == pytest.approx(40 / sorted(both.samples["e2e_s"])[1])
    assert "one time" in both.absent["tpot_s"]
    assert main(["cost", str(tmp_path), "--rent", "0.1"]) == 0


def test_llama_bench_of_today_in_lines_and_columns(tmp_path: Path) -> None:
    (deep,) = imported(
        "llama-bench", DATA / "llama-bench" / "smollm2-depth.jsonl", tmp_path / "jsonl"
    ).records
    assert deep.variant["options"] == {"n_depth": 16}
    plain = imported("llama-bench", DATA / "llama-bench" / "smollm2.csv", tmp_path / "csv").records
    assert [r.variant["options"] for r in plain] == [{}, {}]
    assert plain[1].samples["tpot_s"] == pytest.approx([0.100238408 / 4])


def test_llama_bench_csv_holds_the_mean_alone(tmp_path: Path) -> None:
    made = imported("llama-bench", DATA / "llama-bench" / "qwen2.5-7b.csv", tmp_path).records[1]
    assert made.samples["e2e_s"] == pytest.approx([1.0674316])
    assert "only the mean" in made.absent["samples"]
    assert made.variant["options"] == {}


def test_llama_bench_jsonl_is_the_same_as_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = json.loads(SAMPLES["llama-bench"].read_text())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file("llama-bench", SAMPLES["llama-bench"], tmp_path / "into")
    assert import_file("llama-bench", path, tmp_path / "into").added == 0


def test_llama_bench_settings_make_arms(tmp_path: Path) -> None:
    path = llama(tmp_path, flash_attn=1, type_k="q8_0", n_depth=512)
    record = imported("llama-bench", path, tmp_path / "into").records[1]
    assert record.variant["options"] == {"flash_attn": 1, "type_k": "q8_0", "n_depth": 512}
    assert "flash_attn=1" in record.variant["name"]
    cpu = llama(tmp_path, backends="CPU", gpu_info="")
    record = imported("llama-bench", cpu, tmp_path / "cpu").records[0]
    assert (record.variant["device"], record.variant["threads"]) == ("cpu", 8)


@pytest.mark.parametrize(
    ("model_type", "scheme"),
    [
        ("qwen2 7B Q4_K - Medium", "q4_k_m"),
        ("llama 8B Q3_K - Large", "q3_k_l"),
        ("llama 7B mostly Q4_0", "q4_0"),
        ("llama 8B Q6_K", "q6_k"),
        ("llama 8B F16", "f16"),
        ("llama 8B all F32", "f32"),
        ("qwen3moe 30B.A3B BF16", "bf16"),
        ("gpt-oss 20B MXFP4 MoE", "mxfp4"),
        ("deepseek2 671B IQ1_S - 1.5625 bpw", "iq1_s"),
        ("llama 8B IQ4_XS - 4.25 bpw", "iq4_xs"),
        ("llama 8B", None),
    ],
)
def test_llama_bench_names_the_scheme_in_words(model_type: str, scheme: str | None) -> None:
    assert scheme_in_type(model_type) == scheme


def test_llama_bench_figures_have_a_bound_where_the_model_is_known(tmp_path: Path) -> None:
    # The same shape as Qwen2.5 7B, and in the catalog.
    results = imported(
        "llama-bench", SAMPLES["llama-bench"], tmp_path, model="deepseek-r1-distill-qwen-7b"
    )
    prompt, made = summarise(results)
    assert made["bound_decode_tok_s"] > made["decode_tok_s"]
    assert 0.4 < made["mbu"] < 1
    assert made["bound_prefill_tok_s"] is None, "there is no prompt"
    assert prompt["bound_decode_tok_s"] is None, "nothing is decoded"
    assert prompt["mfu"] is not None


def test_a_filled_context_has_no_bound(tmp_path: Path) -> None:
    results = imported(
        "llama-bench",
        llama(tmp_path, n_depth=4096),
        tmp_path / "into",
        model="deepseek-r1-distill-qwen-7b",
    )
    row = summarise(results)[1]
    assert row["mbu"] is None
    assert "n_depth" in row["absent"]["mbu"]


def test_what_is_faster_than_the_bound_is_said_to_be(tmp_path: Path) -> None:
    rates = {"samples_ts": [128_000.0] * 5, "avg_ns": 1_000_000, "avg_ts": 128_000.0}
    fast = llama(tmp_path, samples_ns=[1_000_000] * 5, n_prompt=0, n_gen=128, **rates)
    results = imported("llama-bench", fast, tmp_path / "into", model="deepseek-r1-distill-qwen-7b")
    (row,) = summarise(results)
    assert row["reasons"] == ["ABOVE_BOUND"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples_ns": [1.0, 0.0]}, "samples_ns[1]: 0.0 is not above 0"),
        ({"samples_ns": ["x"]}, "samples_ns[0]: 'x' is not a number"),
        ({"samples_ns": []}, "samples_ns: is empty"),
        ({"samples_ns": [True]}, "is not a number"),
        ({"n_prompt": -1}, "n_prompt: -1 is not a whole number"),
        ({"n_prompt": 0, "n_gen": 0}, "neither prompt nor new tokens"),
        ({"test_time": "yesterday"}, "test_time: 'yesterday' is not a time"),
    ],
)
def test_llama_bench_faults_are_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal("llama-bench", llama(tmp_path, **changes), tmp_path / "into")


def test_a_flag_does_not_replace_what_the_file_says(tmp_path: Path) -> None:
    line = refusal("llama-bench", SAMPLES["llama-bench"], tmp_path / "into", gpu="RTX 4090")
    assert "the file itself names NVIDIA GeForce RTX 4080" in line


# ---- clients of servers ----------------------------------------------------------------------


def only(results: Results) -> Record:
    (record,) = results.records
    return record


@pytest.mark.parametrize("tool", ["vllm", "guidellm", "aiperf"])
def test_a_served_request_has_no_prefill_rate(tool: str, tmp_path: Path) -> None:
    record = only(imported(tool, SAMPLES[tool], tmp_path))
    figures = speeds(record)
    assert figures["prefill_tok_s"] is None
    assert figures["decode_tok_s"] == pytest.approx(2 / (figures["tpot_s"] or 0))
    assert None not in (figures["ttft_s"], figures["tpot_s"], figures["e2e_s"])
    assert record.workload["n_batch"] == 2
    assert record.variant["quant"] == record.variant["device"] == "unknown"
    assert {"quant", "device"} <= record.absent.keys()


def test_a_served_request_has_a_bound_and_no_diagnosis(tmp_path: Path) -> None:
    results = imported(
        "vllm",
        SAMPLES["vllm"],
        tmp_path,
        gpu="NVIDIA H200",
        model="smollm2-135m-instruct",
        quant="none",
    )
    (row,) = summarise(results)
    assert row["bound_decode_tok_s"] > row["output_tok_s"]
    assert 0 < row["mbu"] < 1
    assert row["mfu"] is row["diagnosis"] is None
    assert "overlap" in row["absent"]["diagnosis"]


def test_guidellm_tpot_is_its_itl(tmp_path: Path) -> None:
    """Its own TPOT divides the whole request, first token included, by n."""
    record = only(imported("guidellm", SAMPLES["guidellm"], tmp_path))
    table = json.loads(SAMPLES["guidellm"].read_text())["benchmarks"][0]
    theirs = {
        name: table["metrics"][f"{name}_ms"]["successful"]["median"] / 1000
        for name in ("time_to_first_token", "inter_token_latency", "time_per_output_token")
    }
    figures = speeds(record)
    assert figures["ttft_s"] == pytest.approx(theirs["time_to_first_token"], rel=0.1)
    assert figures["tpot_s"] == pytest.approx(theirs["inter_token_latency"], rel=0.05)
    assert figures["tpot_s"] < 0.9 * theirs["time_per_output_token"]
    requests = table["requests"]["successful"]
    times = table["scheduler_metrics"]
    seconds = times["measure_end_time"] - times["measure_start_time"]
    total = sum(r["prompt_tokens"] + r["output_tokens"] for r in requests)
    assert figures["total_tok_s"] == pytest.approx(total / seconds)
    assert "lengths" in record.absent, "prompts of its synthetic text differ in length"


def test_guidellm_that_keeps_a_sample_of_requests_has_its_own_mean_rate(tmp_path: Path) -> None:
    table = json.loads(SAMPLES["guidellm"].read_text())
    table["benchmarks"][0]["requests"]["successful"].pop()
    path = tmp_path / "few.json"
    path.write_text(json.dumps(table))
    record = only(imported("guidellm", path, tmp_path / "into"))
    own = table["benchmarks"][0]["metrics"]["output_tokens_per_second"]["successful"]["mean"]
    assert "own mean" in record.absent["output_rate"]
    assert "keeps a sample" in record.absent["samples"]
    assert speeds(record)["output_tok_s"] == pytest.approx(own)


def test_aiperf_takes_the_medians_and_its_own_rates(tmp_path: Path) -> None:
    table = json.loads(SAMPLES["aiperf"].read_text())
    figures = speeds(only(imported("aiperf", SAMPLES["aiperf"], tmp_path)))
    assert figures["tpot_s"] == pytest.approx(table["inter_token_latency"]["p50"] / 1000)
    assert figures["total_tok_s"] == table["total_token_throughput"]["avg"]


def test_aiperf_failures_and_cards_are_seen(tmp_path: Path) -> None:
    gpus = {"gpu_0": {"gpu_name": "NVIDIA H200"}}
    path = changed(
        "aiperf",
        tmp_path,
        request_error_rate={"unit": "%", "avg": 2.0},
        telemetry_data={"endpoints": {"localhost": {"gpus": gpus}}},
    )
    results = imported("aiperf", path, tmp_path / "into")
    assert only(results).reasons == ("REQUESTS_FAILED",)
    (environment,) = results.environments.values()
    assert environment.identity["gpu"] == "NVIDIA H200"


def test_unknown_concurrency_is_null_and_the_verbs_cope(tmp_path: Path) -> None:
    table = json.loads(SAMPLES["aiperf"].read_text())
    table["input_config"]["phases"] = [{"kind": "profiling", "type": "poisson", "rate": 3.0}]
    path, into = tmp_path / "rate.json", tmp_path / "into"
    path.write_text(json.dumps(table))
    said = {"gpu": "NVIDIA H200", "model": "smollm2-135m-instruct", "quant": "none"}
    results = imported("aiperf", path, into, **said)
    (row,) = summarise(results)
    assert row["n_batch"] is None
    assert "concurrency" in row["absent"]["bound_decode_tok_s"]
    assert main(["cost", str(into), "--rent", "1"]) == 0
    for form in ("md", "csv", "pytorch-hud", "pytest-benchmark", "jsonl"):
        assert main(["export", str(into), "--to", form]) == 0
    assert main(["report", str(into), "--to", str(tmp_path / "page.html")]) == 0


# ---- vLLM ------------------------------------------------------------------------------------


def test_vllm_without_details_holds_medians(tmp_path: Path) -> None:
    keys = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors")
    path = changed("vllm", tmp_path, **dict.fromkeys(keys))
    detailed = only(imported("vllm", SAMPLES["vllm"], tmp_path / "all"))
    medians = only(imported("vllm", path, tmp_path / "into"))
    ours, theirs = speeds(detailed), speeds(medians)
    for name in ("ttft_s", "tpot_s", "total_tok_s"):
        assert theirs[name] == pytest.approx(ours[name], rel=0.02)
    assert "save-detailed" in medians.absent["samples"]


def test_vllm_offline_files_need_to_be_told_what_they_lack(tmp_path: Path) -> None:
    path, into = tmp_path / "throughput.json", tmp_path / "into"
    path.write_text(
        json.dumps(
            {
                "elapsed_time": 10.0,
                "num_requests": 20,
                "total_num_tokens": 12000,
                "requests_per_second": 2.0,
                "tokens_per_second": 1200.0,
            }
        )
    )
    assert "--n-prompt N --n-gen N" in refusal("vllm", path, into)
    assert "give --model" in refusal("vllm", path, into, n_prompt=500, n_gen=100)
    record = only(imported("vllm", path, into, n_prompt=500, n_gen=100, model="llama-3.1-8b"))
    assert speeds(record)["total_tok_s"] == 1200
    assert speeds(record)["output_tok_s"] == pytest.approx(200)
    assert record.workload["n_batch"] is None
    assert "started_at" in record.absent


def test_vllm_latency_is_whole_requests(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_text(
        json.dumps({"avg_latency": 2.0, "latencies": [1.9, 2.0, 2.1], "percentiles": {"50": 2.0}})
    )
    said = {"n_prompt": 32, "n_gen": 128, "model": "llama-3.1-8b"}
    assert "--n-batch" in refusal("vllm", path, tmp_path / "into", **said)
    record = only(imported("vllm", path, tmp_path / "into", n_batch=8, **said))
    assert speeds(record)["output_tok_s"] == pytest.approx(8 * 128 / 2.0)
    assert speeds(record)["tpot_s"] is None


def test_vllm_without_a_finished_request_is_refused(tmp_path: Path) -> None:
    line = refusal("vllm", changed("vllm", tmp_path, completed=0), tmp_path / "into")
    assert "no request was completed" in line


# ---- optimum-benchmark -----------------------------------------------------------------------


def test_optimum_benchmark_rates_are_made_anew(tmp_path: Path) -> None:
    """Its own rates and its per-token list are known to be wrong, and are not taken."""
    record = only(imported("optimum-benchmark", SAMPLES["optimum-benchmark"], tmp_path))
    report = json.loads(SAMPLES["optimum-benchmark"].read_text())["report"]
    figures = speeds(record)
    assert len(report["per_token"]["latency"]["values"]) != 4 * 7
    assert "itl_s" not in record.samples
    assert "several times" in record.absent["itl_s"]
    decode = report["decode"]["latency"]["p50"]
    assert figures["tpot_s"] == pytest.approx(decode / 7)
    assert figures["decode_tok_s"] == pytest.approx(2 * 7 / decode)
    # 2 x 16 prompt tokens, where the tool counts 2 samples.
    prefill = report["prefill"]["latency"]["p50"]
    assert figures["prefill_tok_s"] == pytest.approx(2 * 16 / prefill)
    assert figures["output_tok_s"] == pytest.approx(2 * 8 / report["generate"]["latency"]["p50"])
    assert figures["output_tok_s"] > report["generate"]["throughput"]["value"] * 1.05
    assert record.variant["name"] == "tiny/transformers/none"
    assert record.memory["peak_host_bytes"] == 518_172_672


def test_optimum_benchmarks_report_alone_is_not_enough(tmp_path: Path) -> None:
    table = json.loads(SAMPLES["optimum-benchmark"].read_text())
    path = tmp_path / "benchmark_report.json"
    path.write_text(json.dumps(table["report"]))
    line = refusal("optimum-benchmark", path, tmp_path / "into")
    assert "import benchmark.json instead" in line


# ---- the verb --------------------------------------------------------------------------------


def test_the_verb_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["import", "llama-bench", str(SAMPLES["llama-bench"]), "--into", str(tmp_path)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == f"2 records added to {tmp_path}\n"
    assert "Qwen2.5-7B-Instruct has no model card" not in err, "its shape is that of a card"
    assert main(arguments) == 0
    assert "0 records added" in capsys.readouterr().out
    assert main([*arguments, "--gpu", "rtx-9999"]) == 2
    assert main([*arguments, "--n-batch", "0"]) == 2
    assert main([*arguments, "--n-gpus", "2"]) == 2, "the file names one card"
    assert main(["cost", str(tmp_path), "--rent", "0.42"]) == 0
    assert "not measured by this tool: llama-bench" in capsys.readouterr().out
