"""Results on disk: what is written is read back, and nothing that was written is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import InputError, UnsupportedError
from bench.records import FILE, SCHEMA, Environment, QualityRecord, Record, from_json, to_json
from bench.records.file import Writer, read

VARIANT = {
    "name": "m/transformers/none",
    "model": "m",
    "engine": "transformers",
    "quant": "none",
    "device": "cpu",
    "dtype": "float32",
}
RECORD = Record(
    key="0123456789abcdef",
    environment="e1",
    experiment="quickstart",
    variant=VARIANT,
    workload={"n_prompt": 8, "n_gen": 4, "n_batch": 1},
    replicate=0,
    position=0,
    started_at="2026-11-23T00:00:00+00:00",
    status="ok",
    reasons=("DRIFT",),
    samples={"prefill_s": [0.25], "itl_s": [[0.5, 0.5, 0.5]], "e2e_s": [1.75]},
)
ENVIRONMENT = Environment(id="e1", identity={"cpu": "x"}, state={"load": 0.5})
QUALITY = QualityRecord(
    key="q1",
    environment="e1",
    experiment="quickstart",
    variant=VARIANT,
    started_at="2026-11-23T00:00:00+00:00",
    status="ok",
    text={"name": "english"},
    nll=(1.5, 2.5),
    same_top1=(1, 0),
)


def write(folder: Path, *lines: Environment | Record | QualityRecord) -> Path:
    with Writer(folder) as writer:
        for line in lines:
            writer.append(line)
    return folder / FILE


@pytest.mark.parametrize("line", [RECORD, ENVIRONMENT, QUALITY])
def test_round_trip(line: Environment | Record | QualityRecord) -> None:
    assert from_json(to_json(line)) == line


def test_lines_of_each_kind_are_read(tmp_path: Path) -> None:
    write(tmp_path, ENVIRONMENT, RECORD, QUALITY)
    results = read(tmp_path)
    assert results.environments == {"e1": ENVIRONMENT}
    assert results.records == [RECORD]
    assert results.qualities == [QUALITY]
    assert results.problems == []


def test_a_truncated_last_line_costs_only_itself(tmp_path: Path) -> None:
    file = write(tmp_path, ENVIRONMENT, RECORD)
    with file.open("a") as stream:
        stream.write(to_json(replace(RECORD, key="cut"))[:50])
    before = file.read_bytes()
    write(tmp_path, replace(RECORD, key="next"))
    assert file.read_bytes().startswith(before)  # never rewritten
    results = read(tmp_path)
    assert [record.key for record in results.records] == [RECORD.key, "next"]
    assert len(results.problems) == 1
    assert results.problems[0].startswith(f"{file}:3: ")


def test_a_whole_last_line_without_its_newline_counts(tmp_path: Path) -> None:
    file = write(tmp_path, RECORD)
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    write(tmp_path, replace(RECORD, key="next"))
    assert [record.key for record in read(tmp_path).records] == [RECORD.key, "next"]


def test_success_wins_over_failure_of_the_same_key(tmp_path: Path) -> None:
    failed = replace(RECORD, status="failed", samples={}, message="killed")
    write(tmp_path, failed, RECORD, failed)
    assert read(tmp_path).records == [RECORD]


def test_of_two_failures_the_last_counts(tmp_path: Path) -> None:
    first = replace(RECORD, status="failed", message="first")
    write(tmp_path, first, replace(first, message="second"))
    assert read(tmp_path).records[0].message == "second"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"kind": "measurement"}', "schema: missing"),
        (json.dumps({"schema": SCHEMA + 1, "kind": "measurement"}), "newer than"),
        (json.dumps({"schema": SCHEMA, "kind": "price"}), "'price' is not one of"),
        (json.dumps({"schema": SCHEMA, "kind": "measurement", "key": "a"}), "missing keys"),
        (to_json(RECORD)[:-1] + ',"usd":1}', "unknown keys: usd"),
    ],
)
def test_a_foreign_line_is_named(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_json(text)


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path, replace(RECORD, samples={"prefill_s": [float("nan")]}))
    assert (tmp_path / FILE).read_bytes() == b""


def test_a_record_holds_no_price() -> None:
    assert "usd" not in to_json(RECORD)


def test_a_second_writer_is_refused_in_one_line(tmp_path: Path) -> None:
    with Writer(tmp_path), pytest.raises(InputError, match="another run is writing") as error:
        Writer(tmp_path).__enter__()
    assert len(error.value.problems) == 1
    write(tmp_path, RECORD)  # free again


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such results"):
        read(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--into"):
        Writer(tmp_path / "file" / "sub").__enter__()


def test_a_device_that_is_always_full_is_said(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / FILE).symlink_to("/dev/full")
    with Writer(tmp_path) as writer, pytest.raises(UnsupportedError, match="No space left"):
        writer.append(RECORD)


FULL_DISK = """
import sys
from pathlib import Path
from dataclasses import replace
from bench.errors import UnsupportedError
from bench.records.file import Writer, read
from tests.records.test_records import RECORD
folder = Path(sys.argv[1])
big = replace(RECORD, message="x" * 3000)
kept = 0
try:
    with Writer(folder) as writer:
        for number in range(1000):
            writer.append(replace(big, key=f"k{number}"))
            kept += 1
except UnsupportedError as error:
    assert "No space left" in str(error), error
results = read(folder)
assert [r.key for r in results.records] == [f"k{n}" for n in range(kept)], len(results.records)
assert 0 < kept < 1000
print("kept", kept, "broken", len(results.problems))
"""


def test_a_disk_that_fills_up_keeps_every_whole_line(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=64k none "{tmp_path}" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets no user mount a tmpfs of its own")
    done = subprocess.run(
        [*command, sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kept ")
