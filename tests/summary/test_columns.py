"""The columnar copy: the same figures as the records, and only of these very bytes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.cost.throughput import throughputs
from bench.errors import InputError
from bench.records import to_json
from bench.summary import Summary, load
from bench.summary import columns as copies
from tests.report_results import environment, quality, record
from tests.summary.test_reading import beyond_the_bound, machine

pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(tmp_path: Path) -> Path:
    """Arms, a failure, one made up for later, a server's record, quality, and broken lines."""
    first = record("int8-weight-only", 1, 0)
    failed = replace(first, status="failed", reasons=("OOM",), message="no room", samples={})
    served = {"prefill_s": [0.1, 0.2], "itl_s": [[0.1], [0.2]], "e2e_s": [0.3, 0.4], "wall_s": 0.5}
    server = record("none", 1, 7)
    lines = [
        to_json(environment()),
        to_json(failed),
        "{broken",
        *(to_json(record("none", 1, i, reasons=("DRIFT",) * (i == 2))) for i in range(3)),
        "",
        to_json(first),
        to_json(replace(failed, message="later")),
        to_json(quality("none")),
        to_json(replace(server, samples=served, key="server")),
        to_json(first)[:40],
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def copy_of(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache" / "gpu-cost-bench" / "columns").iterdir()
    return found


PROPERTIES = (
    *copies.FLOATS,
    *copies.INTEGERS,
    *copies.FLAGS,
    *copies.PLAIN,
    *copies.TEXTS,
    "absent",
    "arm",
    "copies_weights",
    "doubts",
    "energy",
    "loaded",
    "record",
    "sizes",
    "valid",
)


def assert_same(one: Summary, other: Summary) -> None:
    assert [row.key for row in one] == [row.key for row in other]
    assert one.problems == other.problems
    assert one.hosts == other.hosts
    assert [each.record for each in one.qualities] == [each.record for each in other.qualities]
    for row, like in zip(one, other, strict=True):
        names = ("figures", "doubts", "weights", "absent", "label", "ceiling", "quality", "tails")
        for name in (*names, "n_failed", "spread", "noise", "tokens_checked", "energy_scope"):
            assert getattr(row, name) == getattr(like, name), name
        for mine, theirs in zip(row.replicates, like.replicates, strict=True):
            assert dict(mine.figures) == dict(theirs.figures)
            for name in PROPERTIES:
                assert getattr(mine, name) == getattr(theirs, name), name


def test_the_copy_has_what_the_records_have(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain, made, kept = load(path), load(path, large=0), load(path, large=0)
    assert len(plain.problems) == 2
    assert plain.problems[0].startswith(f"{path}:3: ")
    assert_same(plain, made)
    assert_same(plain, kept)
    assert throughputs(plain) == throughputs(kept)


def test_what_is_above_the_bound_is_so_in_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    lines = [to_json(machine()), *map(to_json, beyond_the_bound().records)]
    path.write_text("\n".join(lines) + "\n")
    plain, kept = load(path), load(path, large=0)
    assert any("ABOVE_BOUND" in row.reasons for row in kept)
    assert_same(plain, kept)


def test_another_byte_is_another_copy(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = load(path, large=0)
    with path.open("a") as stream:
        stream.write(to_json(record("none", 1, 9)) + "\n")
    after = load(path, large=0)
    assert sum(len(row.replicates) for row in after) == 1 + sum(
        len(row.replicates) for row in before
    )


def test_a_copy_is_the_users_own_and_a_link_is_not_followed(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain = load(path)
    load(path, large=0)
    copy = copy_of(tmp_path)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    other = tmp_path / "elsewhere.parquet"
    copy.rename(other)
    copy.symlink_to(other)
    assert copies._kept(copy) is None
    assert_same(plain, load(path, large=0))
    assert not copy_of(tmp_path).is_symlink(), "the link is replaced, not written through"
    assert other.is_file()
    copy.chmod(0o666)
    assert copies._kept(copy) is None, "others may have written it"


def test_a_copy_that_is_broken_is_made_again(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain = load(path, large=0)
    copy = copy_of(tmp_path)
    copy.write_bytes(copy.read_bytes()[:100])
    assert_same(plain, load(path, large=0))


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="needs a folder")
def test_without_a_cache_it_is_made_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert_same(load(path), load(path, large=0))


def test_a_record_is_read_again_from_its_place(tmp_path: Path) -> None:
    path = written(tmp_path)
    summary = load(path, large=0)
    path.write_text("\n" * 1000)
    with pytest.raises(InputError):
        _ = next(summary.replicates).record


@pytest.mark.parametrize("verb", [["compare"], ["cost", "--rent", "0.4"]])
def test_verbs_say_the_same_by_the_copy(
    tmp_path: Path,
    verb: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = written(tmp_path)

    def said() -> tuple[Any, str]:
        assert main([verb[0], str(path), *verb[1:], "-o", "json"]) == 0
        out, err = capsys.readouterr()
        return json.loads(out), err

    by_records = said()
    monkeypatch.setitem(load.__kwdefaults__, "large", 0)
    assert said() == by_records
    assert "records.jsonl:3: " in by_records[1]
