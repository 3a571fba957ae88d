"""Bytes of strangers: encodings, gzip, lines around, what is cut off, folders and stdin."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import InputError
from bench.exchange.foreign import Given
from bench.exchange.importing import import_file, import_files
from bench.exchange.reading import decoded, json_values, load, tables
from bench.exchange.values import read_number
from bench.models import resolve_model
from bench.records.file import read
from bench.summary.replicate import speeds

CASES = Path(__file__).parents[1] / "data" / "imports" / "cases"
PLAIN = CASES / "llama-bench-cpu.json"
LINES = CASES / "llama-bench-depth.jsonl"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_every_encoding_is_read(encoding: str) -> None:
    text = '{"t/s": "490.97 ± 2.27"}\n'
    assert decoded("a", text.encode(encoding)) == text


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x00\x01\x02\x03", b"\x89PNG\r\n\x1a\n\x00"])
def test_what_is_no_text_is_said(data: bytes) -> None:
    with pytest.raises(InputError, match="is not text"):
        decoded("a", data)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": 1}', [{"a": 1}]),
        ('[{"a": NaN}, {"a": Infinity}]', [[{"a": None}, {"a": None}]]),
        ('log\n{"a": 1}\nbuild: x\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('[ 5%] built\n[INFO] {x\n{"a": 1}\n[100%] done', [{"a": 1}]),
        ('12:00 INFO {"a": 1}\n12:01 INFO {"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a": 1},\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ('warning: "x\n{"a": "}"}\n', [{"a": "}"}]),
    ],
)
def test_values_are_found_between_lines(text: str, values: list[object]) -> None:
    assert json_values("a", text) == (values, [])


def test_what_is_whole_is_taken_and_what_is_cut_off_is_said(tmp_path: Path) -> None:
    text = LINES.read_text()
    path = tmp_path / "cut.jsonl"
    path.write_text(text[:-200])
    done = import_file("llama-bench", path, tmp_path / "into")
    assert done.added == 3
    assert any(
        "ends in the middle: cut off? (line 4); the 3 values before" in n for n in done.notes
    )


def test_a_cut_off_csv_gives_its_whole_rows(tmp_path: Path) -> None:
    text = (CASES / "llama-bench-2025.csv").read_text().rstrip()
    for cut in (1, 5, 40, 200):
        path, into = tmp_path / f"{cut}.csv", tmp_path / f"into-{cut}"
        path.write_text(text[:-cut])
        done = import_file("llama-bench", path, into)
        assert done.added == 1, cut
        assert any("line 3 is cut off; the 1 before are taken" in note for note in done.notes)


def test_a_cut_off_archive_gives_what_is_whole(tmp_path: Path) -> None:
    packed = gzip.compress(LINES.read_bytes() * 40, 0)
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2])
    done = import_file("llama-bench", path, tmp_path / "into")
    assert done.added > 0
    assert any("gzip stream is cut off" in note for note in done.notes)
    path.write_bytes(b"\x1f\x8b nonsense")
    with pytest.raises(InputError, match="is not a gzip file"):
        load(path)


def test_a_table_is_found_in_quotes_tabs_and_between_lines() -> None:
    rows = "| model | test | t/s |\n| - | - | - |\nnoise | here\n| a Q4_0 | pp512 | 5.0 |\n"
    for text in (rows, f"```\n{rows}```", "".join(f"> {line}\n" for line in rows.splitlines())):
        assert [cells for _, cells in tables(text, ("model", "test", "t/s"))] == [
            {"model": "a Q4_0", "test": "pp512", "t/s": "5.0"}
        ]
    tabs = "model\ttest\tt/s\na Q4_0\tpp512\t5.0\n"
    assert [cells["test"] for _, cells in tables(tabs, ("model", "test", "t/s"))] == ["pp512"]


def test_what_a_terminal_was_told_is_left_out() -> None:
    text = "\x1b[1m| model |\x1b[0m test | t/s |\n\x1b[?25l\x1b[K"
    assert decoded("a", text.encode()) == "| model | test | t/s |\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,043.22 ± 12.40", 1043.22),
        ("45,67 ± 0,10", 45.67),
        ("12,345", 12345.0),
        ("1,234,567", 1234567.0),
        ("0,5", 0.5),
        ("7", 7.0),
        ("-", None),
    ],
)
def test_numbers_of_tables(text: str, value: float | None) -> None:
    assert read_number(text) == value


def test_a_stream_of_ollama_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "stream.jsonl"
    last = {"done": True, "eval_count": 90, "eval_duration": 900_000_000, "prompt_eval_count": 26}
    parts = [{"model": "a", "done": False}, {"model": "a", "prompt_eval_duration": 10**8} | last]
    path.write_text("".join(json.dumps(one) + "\n" for one in parts))
    assert import_file("auto", path, tmp_path / "into").added == 1


def test_a_prompt_that_all_sequences_share_has_no_rate(tmp_path: Path) -> None:
    given = Given(model="llama-3.1-8b", quant="q4_k_m")
    import_file("auto", CASES / "llama-batched-bench-shared.txt", tmp_path, given)
    (record,) = read(tmp_path).records
    known = speeds(record)
    assert known["decode_tok_s"] == pytest.approx(4 * 128 / 96.776)
    assert [known[name] for name in ("prefill_tok_s", "output_tok_s", "ttft_s")] == [None] * 3
    assert "share one prompt" in record.absent["prefill_tok_s"]


@pytest.mark.parametrize("name", ["llama " + "9" * 400 + "B", "a\0b", "org/" + "x" * 90])
def test_no_name_of_a_model_is_an_error_of_the_file_system(name: str) -> None:
    with pytest.raises(InputError):
        resolve_model(name)


def test_auto_says_that_a_value_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text(PLAIN.read_text()[:-40])
    with pytest.raises(InputError, match="ends in the middle: cut off"):
        import_file("auto", path, tmp_path / "into")


def test_a_folder_names_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden.json").write_text("{}")
    (folder / "deep" / "a.json").write_bytes(PLAIN.read_bytes())
    (folder / "notes.txt").write_text("It was fast.\n")
    (folder / "half.json").write_text(PLAIN.read_text()[:1500])
    assert main(["import", "auto", str(folder), "--into", str(tmp_path / "into")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("2 records added")
    assert "notes.txt: is not a known tool's result" in err
    assert "half.json: ends in the middle" in err or "half.json: is not a known tool" in err
    assert ".hidden" not in err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["import", "auto", str(empty), "--into", str(tmp_path / "other")]) == 2


def test_files_of_equal_arms_are_replicates_and_others_are_arms(tmp_path: Path) -> None:
    run = json.loads((CASES / "vllm-serve.json").read_text())
    paths = []
    for number, changes in enumerate(({}, {"date": "20260817-000000"}, {"max_num_seqs": 4})):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(run | changes))
    import_files("vllm", paths, tmp_path / "into")
    names = [record.variant["name"] for record in read(tmp_path / "into").records]
    assert names == [*["facebook/opt-125m/vllm/unknown"] * 2, f"{names[0]}/max_num_seqs=4"]


def test_one_bad_file_of_several_writes_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(InputError):
        import_files("llama-bench", [PLAIN, bad], tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_stdin_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.TextIOWrapper(io.BytesIO(gzip.compress(PLAIN.read_bytes())))
    monkeypatch.setattr("sys.stdin", packed)
    assert import_file("auto", Path("-"), tmp_path / "into").added == 2


def test_a_pipe_that_nobody_writes_to_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.exchange.reading.WAIT_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a pipe that nothing writes to"):
        load(tmp_path / "pipe")


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """As `bench import auto <(llama-bench ...)`: its writer may say nothing for minutes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb", buffering=0) as stream:
            for part in (PLAIN.read_bytes()[:100], PLAIN.read_bytes()[100:]):
                stream.write(part)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert load(pipe).text == PLAIN.read_text()
    writer.join(timeout=20)
