"""Columnar copies: the same figures as the records, and only of these very bytes."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from bench.cli import main
from bench.cost.throughput import throughputs
from bench.errors import InputError
from bench.exchange.copied import large_or_records, read_results
from bench.exchange.exporting import export
from bench.exchange.tabular import texts_of
from bench.records import Record, to_json
from bench.records.check import check_results
from bench.records.file import read
from bench.summary import Summary, checking, copies, load
from bench.summary import columns as kept_columns
from tests.comparison.test_machines import SUPER, TI
from tests.comparison.test_machines import machine as on_machine
from tests.report_results import environment, quality, record
from tests.slo_results import write_search
from tests.summary.test_reading import beyond_the_bound, machine

pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(copies, "_cores", lambda: 1)


def written(tmp_path: Path) -> Path:
    """Arms, a failure, one made up for later, a server's record, quality, and broken lines."""
    first = record("int8-weight-only", 1, 0)
    failed = replace(first, status="failed", reasons=("OOM",), message="no room", samples={})
    served: dict[str, Any] = {
        "prefill_s": [0.1 + i / 1000 for i in range(120)],
        "itl_s": [[0.001 * i] for i in range(120)],
        "e2e_s": [0.2 + i / 500 for i in range(120)],
        "wall_s": 0.5,
    }
    at_once = {**served, "e2e_s": served["prefill_s"]}
    server = record("none", 1, 7)
    lines = [
        to_json(environment()),
        to_json(failed),
        "{broken",
        *(to_json(record("none", 1, i, reasons=("DRIFT",) * (i == 2))) for i in range(9)),
        *(to_json(record("int8-weight-only", 1, i)) for i in range(1, 9)),
        "",
        to_json(first),
        to_json(replace(failed, message="later")),
        to_json(replace(first, key="noted", replicate=11, model=first.model | NOTED)),
        to_json(quality("none")),
        to_json(replace(server, samples=served, key="server", absent={"energy_j": "no counter"})),
        to_json(replace(server, samples=at_once, key="in one piece", replicate=8)),
        to_json(replace(first, key="silent", replicate=12, status="failed", samples={})),
        to_json(replace(first, key="elsewhere", environment="e-unknown", reasons=("NEVER_SEEN",))),
        to_json(first)[:40],
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


NOTED = {"notes": {"tokens_checked": 16, "tokens_as_eager": 12, "step": {"copies_weights": True}}}


def two_arms(tmp_path: Path, name: str = "pairs", n: int = 10, **changes: Any) -> Path:
    """Pairs of two arms, in parts if `small_parts` is there."""
    path = tmp_path / name / "records.jsonl"
    path.parent.mkdir()
    pairs = [(quant, i) for i in range(n) for quant in ("none", "int8-weight-only")]
    records = [replace(record(quant, 1, i), **changes) for quant, i in pairs]
    lines = [to_json(environment()), *map(to_json, records)]
    path.write_text("\n".join(lines) + "\n")
    return path


def of_machines(tmp_path: Path) -> Path:
    """A card of one machine and a card of three, with all that may speak against a figure."""
    cards = {"left": SUPER, "a": TI, "b": TI, "c": TI}
    window = {"energy_j": 90.0, "window_s": 1.2, "tokens": 6, "idle_power_w": 20.0, "scope": "gpu"}
    contradicted = {"cross_check_agrees": False, "cross_check_ratio": 1.2}
    rising = [0.4 + 0.01 * i for i in range(8)]
    drifting = {"prefill_s": [0.2] * 8, "itl_s": [[0.1] * 2] * 8, "e2e_s": rising}
    changes: dict[int, dict[str, Any]] = {
        0: {"reasons": ("THERMAL_THROTTLE",)},
        1: {"status": "failed", "reasons": ("OOM",), "message": "no room", "samples": {}},
        2: {"energy": {"decode": window | contradicted}},
        3: {"energy": {"decode": window | {"energy_j": 0.0}}},
        4: {"samples": drifting},
        5: {"memory": {"peak_host_bytes": 10**9}, "reasons": ("CV",)},
    }
    lines = []
    for name, gpu in cards.items():
        made = on_machine(name, gpu, n=12, speed=1.0 if gpu == SUPER else 0.8)
        lines += [to_json(one) for one in made.environments.values()]
        for index, one in enumerate(made.records):
            measured = replace(one, energy={"decode": window})
            lines.append(to_json(replace(measured, **changes.get(index, {}))))
    path = tmp_path / "machines" / "records.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    return path


def test_copies_of_a_file_that_is_gone_are_removed_when_others_are_made(tmp_path: Path) -> None:
    one, other = two_arms(tmp_path, "one", n=2), two_arms(tmp_path, "other", n=3)
    load(one, large=0)
    root = tmp_path / "cache" / "gpu-cost-bench" / "columns"
    (of_one,) = root.iterdir()
    unnamed, linked = root / "older", root / "linked"
    for folder in (unnamed, tmp_path / "mine"):
        folder.mkdir()
        (folder / "a.parquet").write_bytes(b"")
    linked.symlink_to(tmp_path / "mine")
    load(other, large=0)
    assert of_one.is_dir()
    assert unnamed.is_dir(), "another process may have made it just now"
    one.unlink()
    os.utime(unnamed, (0, 0))
    load(other, large=0)
    assert of_one.is_dir(), "nothing new was made"
    with other.open("a") as stream:
        stream.write(to_json(record("none", 1, 8)) + "\n")
    load(other, large=0)
    (of_other,) = {path.parent for path in root.glob("*/source")}
    assert set(root.iterdir()) == {of_other, linked}
    assert (tmp_path / "mine" / "a.parquet").exists()
    assert (of_other / "source").read_text() == str(other)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PART", 12_000)


def copies_there(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "gpu-cost-bench" / "columns").rglob("*.parquet"))


PROPERTIES = (
    *kept_columns.FLOATS,
    *kept_columns.NOTED,
    *kept_columns.INTEGERS,
    *kept_columns.FLAGS,
    *kept_columns.PLAIN,
    *kept_columns.TEXTS,
    "absent",
    "arm",
    "copies_weights",
    "doubts",
    "energy",
    "energy_scope",
    "loaded",
    "record",
    "sizes",
    "valid",
)
OF_ROWS = (
    *("figures", "doubts", "weights", "absent", "label", "ceiling", "quality", "tails"),
    *("n_failed", "spread", "noise", "host_ratio", "early_share", "tokens_checked"),
    *("tokens_as_eager", "energy_scope", "energy_disagreement", "systematic_error", "valid"),
)


def assert_same(one: Summary, other: Summary) -> None:
    assert [row.key for row in one] == [row.key for row in other]
    assert one.problems == other.problems
    assert one.hosts == other.hosts
    assert [each.record for each in one.qualities] == [each.record for each in other.qualities]
    for row, like in zip(one, other, strict=True):
        for name in OF_ROWS:
            assert getattr(row, name) == getattr(like, name), name
        for name in ("weights", "absent", "tails", "tokens_checked", "n_failed", "early_share"):
            assert repr(getattr(row, name)) == repr(getattr(like, name)), "as 1 and 1.0"
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


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("cores", [1, 2])
def test_parts_make_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(copies, "_cores", lambda: cores)
    path = written(tmp_path)
    assert_same(load(path), load(path, large=0))
    assert len(copies_there(tmp_path)) > 3


@pytest.mark.usefixtures("small_parts")
def test_what_a_reading_process_could_not_make_is_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_cores", lambda: 2)
    monkeypatch.setattr(copies, "own", lambda _: ("false",))
    path = written(tmp_path)
    assert_same(load(path), load(path, large=0))


def test_what_is_above_the_bound_is_so_in_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    lines = [to_json(machine()), *map(to_json, beyond_the_bound().records)]
    path.write_text("\n".join(lines) + "\n")
    plain, kept = load(path), load(path, large=0)
    assert any("ABOVE_BOUND" in row.reasons for row in kept)
    assert_same(plain, kept)


@pytest.mark.usefixtures("small_parts")
def test_several_files_are_read_as_their_records_are(tmp_path: Path) -> None:
    one, other = two_arms(tmp_path, "one"), two_arms(tmp_path, "other", n=12)
    later = "2026-12-24T00:00:00+00:00"
    third = two_arms(tmp_path, "third", environment="e2", started_at=later)
    for paths in ([one, other], [one, one], [other, third, one], [written(tmp_path), one]):
        assert_same(load(*paths), load(*paths, large=0))


def test_machines_origins_arms_and_sizes_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    kinds = [
        replace(
            one, environment=place, origin=origin, workload=one.workload | {"n_prompt": n_prompt}
        )
        for one in (record(q, 1, i) for i in range(2) for q in ("none", "int8-weight-only"))
        for place in ("e1", "e2", "e3", "e4")
        for origin in ("measured", "synthetic")
        for n_prompt in (8, 64, 512)
    ]
    lines = [replace(one, key=f"k{number}") for number, one in enumerate(kinds)]
    path.write_text("".join(to_json(one) + "\n" for one in lines))
    found = load(path, large=0)
    assert_same(load(path), found)
    assert [len(row.replicates) for row in found] == [2] * 48


def test_a_search_is_read_from_its_records(tmp_path: Path) -> None:
    path = write_search(tmp_path / "search", {"none": 0.5, "int8": 0.4}, replicates=2)
    plain, kept = load(path), load(path, large=0)
    assert any(row.level is not None for row in kept)
    assert [row.key for row in plain] == [row.key for row in kept]
    assert throughputs(plain) == throughputs(kept)


@pytest.mark.parametrize(
    ("n_batch", "more"), [(None, {}), (1, {"tpot_s": [0.01, 0.02]}), (None, {"tpot_s": [0.01]})]
)
def test_another_tools_server_may_say_little(
    tmp_path: Path, n_batch: int | None, more: dict[str, Any]
) -> None:
    one = record("none", 1, 0)
    samples = {"prefill_s": [0.1, 0.2], "e2e_s": [0.3, 0.4], "wall_s": 1.0} | more
    work = one.workload | {"n_batch": n_batch}
    said = replace(one, origin="vllm", samples=samples, workload=work)
    path = tmp_path / "records.jsonl"
    path.write_text(to_json(environment()) + "\n" + to_json(said) + "\n")
    plain, kept = load(path), load(path, large=0)
    assert plain.problems == ()
    assert_same(plain, kept)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each part begins that is read from now on."""
    begun: list[int] = []
    reads = kept_columns.part_as_columns

    def part_as_columns(file: Path, begin: int, end: int) -> bytes:
        begun.append(begin)
        return reads(file, begin, end)

    monkeypatch.setattr(copies, "part_as_columns", part_as_columns)
    return begun


@pytest.mark.usefixtures("small_parts")
def test_of_a_file_that_has_grown_only_the_end_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two_arms(tmp_path, n=11)
    begun = counted(monkeypatch)
    load(path, large=0)
    n_parts, before = len(begun), copies_there(tmp_path)
    assert n_parts > 3
    begun.clear()
    with path.open("a") as stream:
        stream.write(to_json(replace(record("none", 1, 0), status="failed", message="no")) + "\n")
        stream.write("{broken\n")
        stream.write(to_json(record("none", 1, 99)) + "\n")
    assert_same(load(path), load(path, large=0))
    assert 1 <= len(begun) <= 2
    assert min(begun) > 0
    gone = set(before) - set(copies_there(tmp_path))
    assert len(gone) == 1, "the copy of the old end is removed"
    begun.clear()
    load(path, large=0)
    assert begun == []


@pytest.mark.usefixtures("small_parts")
def test_another_byte_is_another_copy_of_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two_arms(tmp_path)
    load(path, large=0)
    before = copies_there(tmp_path)
    begun = counted(monkeypatch)
    path.write_text(path.read_text().replace('"e2e_s":[0.', '"e2e_s":[9.', 1))
    assert_same(load(path), load(path, large=0))
    assert begun == [0]
    assert len(copies_there(tmp_path)) == len(before)


def test_a_copy_is_the_users_own_and_a_link_is_not_followed(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain = load(path)
    load(path, large=0)
    (copy,) = copies_there(tmp_path)
    (part,) = copies.parts_of(path)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    other = tmp_path / "elsewhere.parquet"
    copy.rename(other)
    copy.symlink_to(other)
    assert copies._copy(part, copy) is None
    assert_same(plain, load(path, large=0))
    (copy,) = copies_there(tmp_path)
    assert not copy.is_symlink(), "the link is replaced, not written through"
    assert other.is_file()
    copy.chmod(0o666)
    assert copies._copy(part, copy) is None, "others may have written it"


def test_a_copy_that_is_broken_is_made_again(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain = load(path, large=0)
    (copy,) = copies_there(tmp_path)
    copy.write_bytes(copy.read_bytes()[:100])
    assert_same(plain, load(path, large=0))


def test_a_copy_that_goes_while_it_is_read_is_made_again(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain, kept = load(path), load(path, large=0)
    for copy in copies_there(tmp_path):
        copy.unlink()
    assert_same(plain, kept)


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


def test_how_far_it_is_is_said_where_it_takes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two_arms(tmp_path)
    monkeypatch.setattr(copies, "PART", 4000)
    monkeypatch.setattr(copies, "QUIET_S", 0.0)
    said: list[str] = []
    load(path, large=0, say=said.append)
    assert said[-1] == f"{path}: read once into columns: 100%"
    said.clear()
    load(path, large=0, say=said.append)
    assert said == []


@pytest.mark.parametrize("form", ["csv", "parquet", "md", "pytest-benchmark", "pytorch-hud"])
@pytest.mark.usefixtures("small_parts")
def test_exports_are_the_same_by_the_copy(tmp_path: Path, form: str) -> None:
    path = written(tmp_path)
    plain, kept = export(read(path), form), export(load(path, large=0), form)
    data = b"".join((kept.data, *kept.more))
    assert plain.dropped == kept.dropped
    if form == "parquet":
        frames = [pandas.read_parquet(io.BytesIO(each)) for each in (plain.data, data)]
        pandas.testing.assert_frame_equal(*frames)
    elif form == "pytest-benchmark":
        made = [json.loads(each) for each in (plain.data, data)]
        assert [one.pop("datetime", None) is not None for one in made]
        assert made[0]["benchmarks"] == made[1]["benchmarks"]
    else:
        assert plain.data.decode() == data.decode()


def test_floats_are_written_as_repr_writes_them() -> None:
    draw = random.Random(5)
    odd = [0.0, -0.0, 1.0, 1e-4, 1e-5, 9.99e-5, 1e10, 1e15, 1e16, 1e17, 5e-324, 1e308, 2.5, -7e-9]
    many = [draw.choice((-1, 1)) * 10 ** draw.uniform(-20, 20) for _ in range(20_000)]
    many += [float(draw.randrange(10**6)) for _ in range(1000)]
    values = np.array([*odd, *many, float("nan")])
    assert texts_of(values) == [*map(repr, odd), *map(repr, many), None]


@pytest.mark.usefixtures("small_parts")
def test_a_data_frame_is_the_same_by_the_copy(tmp_path: Path) -> None:
    paths = [written(tmp_path), two_arms(tmp_path)]
    plain, kept = read_results(*paths), read_results(*paths, large=0)
    pandas.testing.assert_frame_equal(plain, kept)
    assert plain.attrs == kept.attrs


@pytest.mark.usefixtures("small_parts")
def test_a_check_finds_the_same_in_the_copy(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain = check_results(path)
    assert len(plain.problems) == 5
    assert checking.check(path, large=0) == plain


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*verb: str) -> tuple[int, str, str]:
        code = main(list(verb))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def by_copies(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def always() -> None:
        for function in (load, large_or_records):
            monkeypatch.setitem(function.__kwdefaults__, "large", 0)
        monkeypatch.setattr(checking.check, "__defaults__", (0, None))

    return always


@pytest.mark.parametrize(
    "verb",
    [
        ["compare", "PAIRS", "-o", "json"],
        ["compare", "PAIRS", "-o", "md"],
        ["compare", "PAIRS", "AGAIN", "-o", "json"],
        ["compare", "ALL", "--pool", "-o", "json"],
        ["compare", "PAIRS", "ELSEWHERE", "--across", "machine", "-o", "json"],
        ["compare", "MACHINES", "--across", "machine", "--rent", "0.4", "-o", "json"],
        ["compare", "MACHINES", "--across", "machine", "--candidate", "a", "-o", "json"],
        ["compare", "AGAIN", "--against", "PAIRS", "-o", "json"],
        ["compare", "PAIRS", "--pareto", "-o", "json"],
        ["cost", "ALL", "PAIRS", "--rent", "0.4", "-o", "json"],
        ["cost", "ALL", "--own", "1200", "--years", "3", "--kwh", "0.2", "-o", "json"],
        ["claims", "PAIRS", "-o", "json"],
        ["validate", "ALL", "-o", "json"],
        ["export", "ALL", "PAIRS", "--to", "csv"],
        ["export", "ALL", "--to", "md"],
    ],
)
@pytest.mark.usefixtures("small_parts")
def test_verbs_say_the_same_by_the_copy(
    tmp_path: Path,
    verb: list[str],
    said: Callable[..., tuple[int, str, str]],
    by_copies: Callable[[], None],
) -> None:
    day = "2026-12-24T00:00:00+00:00"
    places = {
        "ALL": written(tmp_path),
        "PAIRS": two_arms(tmp_path),
        "AGAIN": two_arms(tmp_path, "again", started_at=day),
        "ELSEWHERE": two_arms(tmp_path, "elsewhere", environment="e9", started_at=day),
        "MACHINES": of_machines(tmp_path),
    }
    command = [str(places.get(word, word)) for word in verb]
    by_records = said(*command)
    by_copies()
    assert said(*command) == by_records
    assert copies_there(tmp_path)
    if "ALL" in verb:
        assert "records.jsonl:3: " in by_records[1] + by_records[2]


def test_a_report_is_the_same_by_the_copy(
    tmp_path: Path, said: Callable[..., tuple[int, str, str]], by_copies: Callable[[], None]
) -> None:
    path, pages = two_arms(tmp_path), [tmp_path / "a.md", tmp_path / "b.md"]
    assert said("report", str(path), "--to", str(pages[0]))[0] == 0
    by_copies()
    assert said("report", str(path), "--to", str(pages[1]))[0] == 0
    texts = [
        [line for line in page.read_text().splitlines() if "made" not in line.lower()]
        for page in pages
    ]
    assert texts[0] == texts[1]


def test_counts_are_whole_however_large(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    large: Record = record("none", 1, 0)
    large = replace(large, model=large.model | {"weights_bytes": (1 << 60) - 1})
    path.write_text(to_json(large) + "\n")
    (one,) = load(path, large=0).replicates
    assert one.loaded.weights_bytes == (1 << 60) - 1
