"""Export -> import gives the same figures, in the shapes that other tools read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.api import summarise
from bench.cli import main
from bench.exchange.exporting import export
from bench.exchange.importing import import_file
from bench.records.file import Results, read
from bench.summary.replicate import speeds

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "data" / "imports" / "cases"
CLOSE = 1e-4


def back(results: Results, form: str, folder: Path) -> Results:
    path = folder / "exported"
    path.write_bytes(export(results, form).data)
    import_file("auto", path, folder / "back")
    return read(folder / "back")


def imported(name: str, folder: Path) -> Results:
    import_file("auto", CASES / name, folder)
    return read(folder)


@pytest.mark.parametrize(
    "name",
    [
        "llama-bench-devices.jsonl",
        "llama-bench-pasted.txt",
        "llama-bench-depth.jsonl",
        "llama-bench-cpu.json",
        "llama-bench-three-models.jsonl",
    ],
)
def test_a_llama_bench_table_gives_its_rates_back(name: str, tmp_path: Path) -> None:
    made = imported(name, tmp_path / "first")
    again = back(made, "llama-bench", tmp_path)

    def rates(results: Results) -> list[tuple[object, ...]]:
        return sorted(
            (
                record.variant["quant"],
                record.variant["options"].get("n_devices", 1),
                record.variant["options"].get("n_depth", 0),
                record.workload["n_prompt"],
                record.workload["n_gen"],
                speeds(record)["total_tok_s"],
            )
            for record in results.records
        )

    assert len(again.records) == len(made.records)
    for one, other in zip(rates(made), rates(again), strict=True):
        assert one[:5] == other[:5]
        assert other[5] == pytest.approx(one[5], rel=CLOSE)


def test_a_record_of_ours_is_three_tests_of_llama_bench(tmp_path: Path) -> None:
    made = read(ROOT / "results" / "quickstart-cpu")
    again = back(made, "llama-bench", tmp_path)
    rows = [row for row in summarise(made) if row["n_batch"] == 1]
    found = {
        (r.variant["quant"], r.workload["n_prompt"], r.workload["n_gen"]): speeds(r)
        for r in again.records
    }
    plain = next(row for row in rows if row["quant"] == "none")
    prompt, new = plain["n_prompt"], plain["n_gen"]
    # Unquantized weights are a type of GGUF; the schemes of torch are none.
    (quant,) = {key[0] for key in found} & {"f32", "bf16", "f16"}
    assert found[quant, prompt, 0]["prefill_tok_s"] == pytest.approx(
        plain["prefill_tok_s"], rel=CLOSE
    )
    assert found[quant, 0, new]["decode_tok_s"] == pytest.approx(plain["decode_tok_s"], rel=CLOSE)
    assert found[quant, prompt, new]["total_tok_s"] == pytest.approx(
        plain["total_tok_s"], rel=CLOSE
    )
    depths = {
        r.variant["options"].get("n_depth") for r in again.records if not r.workload["n_prompt"]
    }
    assert depths == {prompt}, "new tokens were made after the prompt"


@pytest.mark.parametrize(
    "name",
    ["inferencex-agg.json", "vllm-serve-tp2.json", "guidellm-concurrent.json", "aiperf-0.1.json"],
)
def test_an_aggregate_of_inferencex_gives_its_figures_back(name: str, tmp_path: Path) -> None:
    made = imported(name, tmp_path / "first")
    (one,) = made.records
    (other,) = back(made, "inferencex", tmp_path).records
    assert other.workload == one.workload
    for key in ("model", "engine", "quant"):
        assert other.variant[key] == one.variant[key]
    for options in (one.variant["options"], other.variant["options"]):
        assert options.get("n_devices", 1) == one.variant["options"].get("n_devices", 1)
    figures, same = speeds(one), speeds(other)
    assert {name for name, value in figures.items() if value is None} == {
        name for name, value in same.items() if value is None
    }
    for name, value in figures.items():
        assert value is None or same[name] == pytest.approx(value, rel=CLOSE), name


def test_what_the_two_formats_cannot_hold_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_file("auto", CASES / "vllm-serve.json", tmp_path / "two")
    assert main(["export", str(tmp_path / "two"), "--to", "llama-bench"]) == 2
    assert "no record of one sequence" in capsys.readouterr().err
    import_file("auto", CASES / "llama-bench-cpu.json", tmp_path / "apart")
    assert main(["export", str(tmp_path / "apart"), "--to", "inferencex"]) == 2
    assert "a rate of prompt and new tokens" in capsys.readouterr().err
