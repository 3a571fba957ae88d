"""Results on disk: what is written is read back, and nothing that was written is lost."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import records
from bench.errors import InputError, UnsupportedError
from bench.records import (
    EPOCH,
    FILE,
    SCHEMA,
    Environment,
    QualityRecord,
    Record,
    file,
    from_json,
    to_json,
    utc_now,
)
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


TWICE = {"prefill_s": [0.25] * 2, "itl_s": [[0.5] * 3] * 2, "e2e_s": [1.75] * 2}
SERVED = TWICE | {"wall_s": 4.0}


def changed(line: Record | QualityRecord, keys: dict[str, Any]) -> str:
    """A line with some keys of its table as given, None for left out; `a.b`: of an inner table."""
    table = json.loads(to_json(line))
    for path, value in keys.items():
        *outer, last = path.split(".")
        inner = table
        for name in outer:
            inner = inner[name]
        inner |= {last: value}
        if value is None:
            del inner[last]
    return json.dumps(table)


@pytest.mark.parametrize(
    ("line", "keys", "words"),
    [
        (RECORD, {"workload.n_gen": 0}, "workload.n_gen: expected a whole number of at least 1"),
        (RECORD, {"workload.n_prompt": 0, "status": "failed"}, "workload.n_prompt: expected"),
        (RECORD, {"workload.speed": 1}, "workload: unknown keys: speed"),
        (RECORD, {"replicate": -1}, "replicate: "),
        (RECORD, {"reasons": [""]}, "reasons"),
        (RECORD, {"started_at": "2026-11-23"}, "started_at: not a time"),
        (RECORD, {"started_at": "2026-13-45T00:00:00Z"}, "started_at: not a time"),
        (RECORD, {"started_at": "1969-12-31T00:00:00Z"}, "started_at: not a time"),
        (QUALITY, {"started_at": "yesterday"}, "started_at: not a time"),
        (RECORD, {"samples": {}}, "one entry for each iteration"),
        (RECORD, {"samples": TWICE | {"e2e_s": [1.75]}}, "one entry for each iteration"),
        (RECORD, {"samples": TWICE | {"itl_s": [[0.5] * 3]}}, "one entry for each iteration"),
        (RECORD, {"samples": TWICE | {"itl_s": [[0.5] * 3, [0.5] * 2]}}, "n_gen - 1 gaps"),
        (RECORD, {"samples": SERVED | {"itl_s": [[0.5] * 3, [0.5] * 4]}}, "n_gen - 1 gaps"),
        (RECORD, {"samples": TWICE | {"n_gen": [4, 3]}}, "n_gen - 1 gaps"),
        (RECORD, {"samples": TWICE | {"n_prompt": [8]}}, "samples.n_prompt: must hold one entry"),
        (RECORD, {"samples": TWICE | {"n_prompt": [8, None]}}, "samples.n_prompt"),
        (RECORD, {"samples": TWICE | {"e2e_s": [1.75, 0.0]}}, "samples.e2e_s"),
        (RECORD, {"samples": TWICE | {"itl_s": [[0.5, 0.5, 0.0]] * 2}}, "samples.itl_s"),
        (RECORD, {"samples": SERVED | {"wall_s": 0.0}}, "samples.wall_s"),
        (RECORD, {"energy": {"decode": 5.0}}, "energy.decode: expected a table"),
        (RECORD, {"energy": {"decode": {"energy_j": 5.0}}}, "energy.decode.tokens: missing"),
        (
            RECORD,
            {"energy": {"prefill": {"energy_j": 5.0, "tokens": 8, "idle_power_w": 1.0}}},
            "energy.prefill.window_s: missing",
        ),
        (RECORD, {"energy": {"host": {"energy_j": -5.0}}}, "energy.host.energy_j"),
        (RECORD, {"origin": "tool", "samples": {}}, "samples: there are none"),
        (RECORD, {"origin": "tool", "samples": {"decode_tok_s": []}}, "decode_tok_s: is empty"),
        (RECORD, {"origin": "tool", "samples": {"decode_tok_s": [0.0]}}, "samples.decode_tok_s"),
        (
            RECORD,
            {"origin": "tool", "samples": SERVED | {"e2e_s": [1.75]}},
            "prefill_s and e2e_s must hold one entry for each request",
        ),
        (
            RECORD,
            {"origin": "tool", "samples": {"wall_s": 4.0, "decode_tok_s": [9.0]}},
            "prefill_s and e2e_s must hold one entry for each request",
        ),
        (QUALITY, {"kld": [0.1]}, "kld, nll: not of one length"),
        (QUALITY, {"same_top1": [1, 2]}, "same_top1"),
        (
            QUALITY,
            {"figures": {"continuations": [{"new_tokens": 3}]}},
            r"figures.continuations\[0\].agreed_tokens: missing",
        ),
    ],
)
def test_what_readers_cannot_compute_with_is_refused_by_its_key(
    line: Record | QualityRecord, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        from_json(changed(line, keys))


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (RECORD, {"started_at": "2026-11-23T00:00:00.5Z"}),
        (RECORD, {"status": "failed", "samples": {}}),
        (RECORD, {"samples": TWICE}),
        (RECORD, {"samples": TWICE | {"n_gen": [4, 3], "itl_s": [[0.5] * 3, [0.5] * 2]}}),
        (RECORD, {"samples": TWICE | {"n_cached": [8, None]}}),
        (RECORD, {"samples": SERVED | {"itl_s": [[0.0, 0.5, 0.5], [0.5]]}}),
        (RECORD, {"energy": {"host": {"energy_j": 5.0}}}),
        (RECORD, {"energy": {"decode": {"absent": {"energy_j": "no counter"}}}}),
        (RECORD, {"energy": {"decode": {"energy_j": 5.0, "tokens": 8}}}),
        (RECORD, {"origin": "tool", "status": "failed", "samples": {}}),
        (RECORD, {"origin": "tool", "samples": {"decode_tok_s": [9.0], "itl_s": [[0.0]]}}),
        (RECORD, {"origin": "tool", "samples": SERVED, "workload.n_gen": 0}),
        (QUALITY, {"kld": None, "same_top1": None, "figures": None}),
        (QUALITY, {"figures": {"continuations": [{"new_tokens": 3, "agreed_tokens": 0}, {}]}}),
    ],
)
def test_what_readers_can_do_without_is_accepted(
    line: Record | QualityRecord, keys: dict[str, Any]
) -> None:
    assert isinstance(from_json(changed(line, keys)), type(line))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (datetime.datetime(1969, 7, 20, tzinfo=datetime.UTC), EPOCH.isoformat()),
        (OverflowError("year 10000 is out of range"), "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_a_clock_that_stands_wrong_still_gives_a_time(
    told: datetime.datetime | OverflowError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, _: object = None) -> Any:
            if isinstance(told, OverflowError):
                raise told
            return told

    clock = SimpleNamespace(datetime=Clock, UTC=datetime.UTC)
    monkeypatch.setattr(records, "datetime", clock)
    assert utc_now() == said


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path, replace(RECORD, samples={"prefill_s": [float("nan")]}))
    assert (tmp_path / FILE).read_bytes() == b""


def test_a_record_holds_no_price() -> None:
    assert "usd" not in to_json(RECORD)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda file: file.unlink(), "was removed"),
        (lambda file: (file.unlink(), file.write_bytes(b"")), "was replaced"),
        (lambda file: file.write_bytes(b""), "was cut short"),
    ],
)
def test_a_file_that_somebody_takes_away_is_started_again_with_its_machine(
    harm: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    said: list[str] = []
    with Writer(tmp_path, said.append) as writer:
        writer.append(ENVIRONMENT)
        writer.append(RECORD)
        harm(tmp_path / FILE)
        writer.append(replace(RECORD, key="next"))
        writer.append(replace(RECORD, key="last"))
    assert said == [f"{tmp_path / FILE} {words} during the run; a new one was started"]
    results = read(tmp_path)
    assert results.environments == {"e1": ENVIRONMENT}
    assert [record.key for record in results.records] == ["next", "last"]


def test_a_line_that_is_too_long_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MOST_BYTES", 20)
    path = tmp_path / FILE
    path.write_bytes(b"first\n" + b"x" * 20 * 3 + b"\n" + b"y" * 20 + b"\n\nlast")
    found = [(number, begin, text[:5]) for number, begin, text in file.placed_lines(path)]
    assert found == [(1, 0, b"first"), (2, 6, b"xxxxx"), (3, 67, b"yyyyy"), (5, 89, b"last")]
    assert [number for number, _, _ in file.placed_lines(path, 6, 88)] == [1, 2]
    assert list(file.placed_lines(path, 6, 6)) == []


def test_a_pipe_holds_no_results(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(InputError, match="Illegal seek"):
        Writer(tmp_path).__enter__()


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
