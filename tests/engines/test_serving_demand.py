"""`bench run` with requests that differ, and the search for a rate, against a ticking server."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.cli import main
from bench.demand import limits
from bench.demand.search import bracket
from bench.experiment import Workload
from bench.records import Record
from bench.records.file import read
from bench.runner.search import Searches, search
from bench.summary import summarise
from tests import slo_results
from tests.ticking_server import ticking


def experiment(
    folder: Path, *, pairs: int = 1, slo: str = "", n_gen: int = 1, more: str = ""
) -> str:
    """An experiment that takes no longer than it must."""
    path = folder / "experiment.toml"
    path.write_text(
        f"""
name = "asked"
question = "How many at a time?"
baseline = "as-served"
level = "quick"
slo = "{slo}"
[grid]
model = ["served"]
engine = ["endpoint"]
quant = ["as-served"]
n_prompt = [8]
n_gen = [{n_gen}]
{more}
[measure]
pairs = {pairs}
iterations = 6
window_s = 0.0
warmup_window = 2
warmup_max_s = 0.2
[quality]
text = ""
"""
    )
    return str(path)


def records(folder: Path) -> list[Record]:
    return read(folder).records


SESSIONS = "prompt=uniform:30:60 gen=uniform:3:6 turns=3 system=32"


def test_sessions_are_asked_alike_and_their_hits_are_no_fault(tmp_path: Path) -> None:
    with ticking("tick", ttft=0.02, tpot=0.01) as url:
        for name in ("a", "b"):
            path = experiment(tmp_path, more="n_batch = [2]")
            into = str(tmp_path / name)
            flags = ["--requests", SESSIONS, "--into", into, "--option", "allow_failed=0.5"]
            assert main(["run", path, "--url", url, *flags]) == 0
    (first,), (second,) = records(tmp_path / "a"), records(tmp_path / "b")
    assert first.workload["requests"] == SESSIONS
    lengths = [
        sorted(zip(r.samples["n_gen"], r.samples["n_shared"], strict=True)) for r in (first, second)
    ]
    assert set(lengths[0]) & set(lengths[1])
    samples = first.samples
    assert len(set(samples["n_prompt"])) > 3
    shared = [n for n in samples["n_shared"] if n]
    assert shared
    # The server's cache holds whole blocks of 16: of what may be shared all but part of one.
    pairs = list(zip(samples["n_shared"], samples["n_cached"], strict=True))
    assert all(may - 16 < hit <= may for may, hit in pairs)
    assert "PREFIX_CACHED" not in first.reasons
    row = summarise(read(tmp_path / "a")).rows[0]
    tokens = sum(samples["n_prompt"]) + sum(samples["n_gen"])
    assert row.value("total_tok_s") == pytest.approx(tokens / samples["wall_s"])


def test_a_search_probes_until_it_is_held_and_goes_on_from_its_records() -> None:
    """Probes of a simulated queue: what is measured in real time is in scripts/."""
    arm: Any = SimpleNamespace(variant=SimpleNamespace(name="m/endpoint/none"))
    work = slo_results.made("m/endpoint/none", 1.0, 0, 0, None).workload
    base, taken = Workload(**work), []

    def probing(searches: Searches) -> Any:
        def measured(_: Any, step: Any, workload: Workload) -> None:
            record = slo_results.made("m/endpoint/none", 1.0, step.index, 0, workload.rate)
            taken.append(record)
            searches.add(record)

        return measured

    searches = Searches()
    for index in range(2):
        step: Any = SimpleNamespace(index=index)
        search(searches, arm, step, base, probing(searches))
    probes = searches.probes[arm.variant.name, base]
    assert all(bracket(probes[index], (0.95, 0.95)).done for index in (0, 1))
    rates = [record.workload.get("rate") for record in taken]
    assert rates.count(None) == 1  # one request at a time comes first, once
    again = Searches()
    again.known(taken, {record.key for record in taken})
    done = len(taken)
    search(again, arm, step, base, probing(again))
    assert len(taken) == done


def test_limits_that_nothing_keeps_leave_a_reason(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(limits.REQUESTS, "quick", 72)
    path, into = experiment(tmp_path, slo="ttft_p95=0.001"), tmp_path / "r"
    with ticking("queue", service=0.004) as url:
        assert main(["run", path, "--url", url, "--into", str(into)]) == 0
    (row,) = summarise(read(into)).rows
    said = capsys.readouterr().err
    assert re.search(r"replicate 1, [0-9.]+ requests/s: 0\.0% within ttft_p95=0\.001", said)
    assert row.level is not None
    assert "even " in row.level.absent
    assert row.value("requests_s") is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--slo", "ttft=1"], "FIGURE_pNN"),
        (["--slo", "ttft_p95=1", "-b", "1,2"], "use -b 1"),
        (["--slo", "ttft_p95=1", "--option", "rate=2"], "the search sets the rate"),
        (["--requests", "chats"], "chats"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--url", "http://127.0.0.1:9", *flags]) == 2
    assert words in capsys.readouterr().err
