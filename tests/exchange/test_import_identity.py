"""Who is meant by a foreign file: model, scheme, cards, backend; and flags that contradict it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.api import summarise
from bench.errors import InputError
from bench.exchange import inferencex, naming
from bench.exchange.foreign import Given
from bench.exchange.importing import import_file, import_files
from bench.records import Record
from bench.records.file import read

CASES = Path(__file__).parents[1] / "data" / "imports" / "cases"


def records(name: str, into: Path, tool: str = "auto", **said: Any) -> list[Record]:
    import_file(tool, CASES / name, into, Given(**said))
    return read(into).records


def changed(name: str, folder: Path, **changes: Any) -> Path:
    """A case whose rows (or whose one table) have other values; None takes one away."""
    text = (CASES / name).read_text()
    lines = name.endswith(".jsonl")
    value = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    rows = value if isinstance(value, list) else [value]
    made = [{k: v for k, v in (row | changes).items() if v is not None} for row in rows]
    path = folder / f"changed-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(made if isinstance(value, list) else made[0]))
    return path


def refusal(path: Path, into: Path, **said: Any) -> str:
    with pytest.raises(InputError) as error:
        import_file("auto", path, into, Given(**said))
    assert not into.exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "scheme", "model"),
    [
        ("models/Qwen3-8B-Q4_K_M.gguf", "q4_k_m", "Qwen3-8B"),
        ("google_gemma-4-26B-A4B-it-Q4_K_L.gguf", "q4_k_l", "google_gemma-4-26B-A4B-it"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "ud-q4_k_xl", "Qwen3-8B"),
        ("C:\\models\\DeepSeek-R1-UD-IQ1_S-00001-of-00003.gguf", "ud-iq1_s", "DeepSeek-R1"),
        ("llama-2-7b.Q4_0.gguf", "q4_0", "llama-2-7b"),
        ("ggml-model-q4_0.gguf", "q4_0", "ggml-model"),
        ("gpt-oss-20b-mxfp4.gguf", "mxfp4", "gpt-oss-20b"),
        ("Meta-Llama-3.1-8B-Instruct-IQ4_XS.gguf", "iq4_xs", "Meta-Llama-3.1-8B-Instruct"),
        ("Llama-3.2-1B-Instruct-f16.gguf", "f16", "Llama-3.2-1B-Instruct"),
        ("Qwen3-8B.gguf", None, "Qwen3-8B"),
    ],
)
def test_a_files_name_holds_model_and_scheme(name: str, scheme: str | None, model: str) -> None:
    assert naming.scheme_in_file(name) == scheme
    assert naming.model_of_file(name) == model


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("cyankiwi/Qwen3.8-27B-AWQ-INT4", "awq-int4"),
        ("TheBloke/LLaMa-7B-GPTQ", "gptq-int4"),
        ("meta-llama/Llama-3.1-405B-FP8", "fp8"),
        ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "nvfp4"),
        ("Qwen/Qwen3-0.6B", None),
    ],
)
def test_a_checkpoints_name_holds_its_scheme(name: str, scheme: str | None) -> None:
    assert naming.scheme_in_hub_name(name) == scheme


@pytest.mark.parametrize(
    ("name", "n_params", "card"),
    [
        ("qwen3 8B", 8190735360, "qwen3-8b"),
        ("Qwen/Qwen3-0.6B", None, "qwen3-0.6b"),
        ("meta-llama/Llama-3.1-8B-Instruct", None, "llama-3.1-8b"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8", None, "llama-3.1-8b"),
        ("llama 7B", 6738415616, "llama-2-7b"),
        ("facebook/opt-125m", None, None),
        ("Ternary-Bonsai-8B", 8188548096, None),
    ],
)
def test_a_card_is_found_by_weights_or_name(name: str, n_params: int | None, card: Any) -> None:
    assert naming.card_of(name, n_params) == card


def test_a_model_of_another_name_has_the_bound_of_its_shape(tmp_path: Path) -> None:
    import_file("auto", CASES / "llama-bench-three-quants.jsonl", tmp_path / "into")
    results = read(tmp_path / "into")
    assert {record.variant["card"] for record in results.records} == {"qwen3-8b"}
    for row in summarise(results):
        if row["quant"] in ("q4_k_m", "q4_k_l"):
            assert row["bound_decode_tok_s"] > row["decode_tok_s"]


@pytest.mark.parametrize(
    ("changes", "cards"),
    [
        ({}, ["A", "B"]),
        ({"devices": "CUDA1"}, ["B"]),
        ({"devices": "CUDA0/CUDA1"}, ["A", "B"]),
        ({"split_mode": "none"}, ["A"]),
        ({"split_mode": "none", "main_gpu": 1}, ["B"]),
        ({"tensor_split": "1.00/0.00"}, ["A"]),
        ({"n_gpu_layers": 0}, []),
    ],
)
def test_cards_used_are_not_cards_present(
    changes: dict[str, Any], cards: list[str], tmp_path: Path
) -> None:
    said = {"gpu_info": "A, B", **changes}
    path = changed("llama-bench-two-cards.json", tmp_path, **said)
    import_file("llama-bench", path, tmp_path / "into")
    results = read(tmp_path / "into")
    (record,) = results.records
    identity = results.environments[record.environment].identity
    assert identity["gpu"] == (" + ".join(cards) or None)
    assert identity.get("gpus", 1) == max(len(cards), 1)
    assert record.variant["options"].get("n_devices", 1) == max(len(cards), 1)


def test_a_row_split_works_at_once_and_layers_do_not(tmp_path: Path) -> None:
    rows = changed("llama-bench-two-cards.json", tmp_path, split_mode="row")
    import_file("llama-bench", rows, tmp_path / "row")
    import_file("llama-bench", CASES / "llama-bench-two-cards.json", tmp_path / "layer")
    bounds = []
    for name in ("row", "layer"):
        results = read(tmp_path / name)
        (row,) = summarise(results)
        bounds.append(row["bound_decode_tok_s"])
    assert bounds[0] == pytest.approx(2 * bounds[1])


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("llama-bench-2025.csv", {"gpu": "RTX 4090"}, "the file itself names NVIDIA GeForce"),
        ("llama-bench-2025.csv", {"n_gpus": 2}, "--n-gpus 2: the file says 1"),
        ("llama-bench-2025.csv", {"quant": "q8_0"}, "--quant q8_0: the file says q4_k_m"),
        ("llama-bench-2025.csv", {"quant": "q4_0"}, "--quant q4_0: the file says q4_k_m"),
        ("llama-bench-2025.csv", {"model": "llama-3.1-70b"}, "70.6 B parameters, the file's model"),
        ("llama-bench-2025.csv", {"n_prompt": 128}, "--n-prompt 128: the file says 512"),
        ("llama-bench-cpu.json", {"gpu": "RTX 4090"}, "ran on the CPU"),
        ("vllm-serve.json", {"n_gen": 17}, "--n-gen 17: the file says 16"),
        ("vllm-serve.json", {"n_batch": 3}, "--n-batch 3: the file says 2"),
        ("vllm-serve.json", {"engine": "sglang"}, "--engine sglang: the file says vllm"),
        ("vllm-serve.json", {"model": "llama-3.1-8b"}, "the file names facebook/opt-125m"),
        ("vllm-serve-tp2.json", {"n_gpus": 4}, "--n-gpus 4: the file says 2"),
        ("vllm-serve-tp2.json", {"quant": "fp8"}, "--quant fp8: the file says"),
        ("inferencex-agg.json", {"gpu": "H100 SXM"}, "MI355X"),
        ("llmfit-two-cards.json", {}, "does not say how long prompts are: --n-prompt N"),
        ("ollama-verbose.txt", {}, "names no model; give --model NAME"),
    ],
)
def test_a_flag_that_the_file_contradicts_is_refused(
    name: str, said: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in refusal(CASES / name, tmp_path / "into", **said)


def test_a_flag_that_the_file_confirms_is_not_refused(tmp_path: Path) -> None:
    said = {"gpu": "RTX 4080", "n_gpus": 1, "quant": "q4_k_m", "n_prompt": 512, "n_gen": 128}
    assert len(records("llama-bench-2025.csv", tmp_path / "a", **said)) == 2
    fork = records("llama-bench-2025.csv", tmp_path / "b", engine="ik_llama.cpp")
    assert {record.variant["engine"] for record in fork} == {"ik_llama.cpp"}


def test_one_total_and_one_length_give_the_other(tmp_path: Path) -> None:
    (record,) = records("vllm-throughput.json", tmp_path / "a", model="m", n_prompt=1096)
    assert record.workload == {"n_prompt": 1096, "n_gen": 3000, "n_batch": None}


def test_different_sizes_of_weights_are_not_replicates(tmp_path: Path) -> None:
    into = tmp_path / "into"
    path = changed("llama-bench-2023.json", tmp_path, model_filename=None)
    import_file("llama-bench", path, into, Given(model="mine"))
    before = (into / "records.jsonl").read_bytes()
    path = changed("llama-bench-2023.json", tmp_path, model_filename=None, model_size=4100000000)
    with pytest.raises(InputError, match="more than one model: 3,825,065,984 and 4,100,000,000"):
        import_file("llama-bench", path, into, Given(model="mine"))
    assert (into / "records.jsonl").read_bytes() == before


def test_what_is_swept_within_a_file_makes_arms(tmp_path: Path) -> None:
    """Threads beside a GPU, and settings of a fork, are no repeats of one another."""
    (row,) = json.loads((CASES / "llama-bench-two-cards.json").read_text())
    rows = [row | {"n_threads": n, "fmoe": fused} for n in (8, 16) for fused in (False, True)]
    path = tmp_path / "swept.json"
    path.write_text(json.dumps(rows))
    import_file("auto", path, tmp_path / "into")
    options = [record.variant["options"] for record in read(tmp_path / "into").records]
    assert [(o["n_threads"], o["fmoe"]) for o in options] == [
        (n, fused) for n in (8, 16) for fused in (False, True)
    ]


@pytest.mark.parametrize(
    ("changes", "device", "n", "said"),
    [
        ({"backends": "RPC", "gpu_info": ""}, "remote", 1, "n_devices"),
        ({"backends": "CUDA,RPC"}, "cuda:0+cuda:1", 2, "rpc"),
        ({"backends": "CUDA,RPC", "devices": "CUDA0/RPC0"}, "cuda", 1, "n_devices"),
    ],
)
def test_layers_on_servers_are_on_cards_that_nobody_names(
    changes: dict[str, Any], device: str, n: int, said: str, tmp_path: Path
) -> None:
    path = changed("llama-bench-two-cards.json", tmp_path, **changes)
    import_file("llama-bench", path, tmp_path / "into")
    (record,) = read(tmp_path / "into").records
    assert record.variant["device"] == device
    assert record.variant["options"].get("n_devices", 1) == n
    assert "servers that" in record.absent[said]


def test_a_run_without_an_answer_is_left_out_and_named(tmp_path: Path) -> None:
    good = json.loads((CASES / "vllm-sweep.json").read_text())
    bad = json.loads((CASES / "vllm-serve-all-failed.json").read_text())
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps([*good, bad]))
    done = import_file("auto", path, tmp_path / "into")
    assert done.added == 2
    assert any("left out" in note and "0 of 8" in note for note in done.notes)


def test_two_models_under_one_name_are_refused(tmp_path: Path) -> None:
    other = changed("vllm-serve.json", tmp_path, model_id="facebook/opt-1.3b")
    with pytest.raises(InputError, match="more than one model: facebook/opt-125m and facebook/opt"):
        import_files("vllm", [CASES / "vllm-serve.json", other], tmp_path / "x", Given(model="opt"))
    same = changed("vllm-serve.json", tmp_path, model_id="opt-125m", date="20260817-000000")
    paths = [CASES / "vllm-serve.json", same]
    assert import_files("vllm", paths, tmp_path / "y", Given(model="opt")).added == 2


def test_what_is_above_the_bound_is_said_with_both_figures(tmp_path: Path) -> None:
    path = changed(
        "llama-bench-three-quants.jsonl", tmp_path, samples_ns=[1000000] * 3, avg_ns=1000000,
        avg_ts=128000.0, samples_ts=[128000.0] * 3
    )  # fmt: skip
    done = import_file("llama-bench", path, tmp_path / "into")
    assert any("decode_tok_s is 1.28e+05, but the bound is" in note for note in done.notes)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("h200-cw", "H200 SXM"),
        ("h200", "H200 SXM"),
        ("b200-trt", "B200"),
        ("h100-pcie", "H100 PCIe"),
        ("gb200-nv", "GB200"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("Some Card 9000", "Some Card 9000"),
    ],
)
def test_inferencex_s_machines_are_cards(name: str, card: str) -> None:
    assert inferencex._card(name) == card
