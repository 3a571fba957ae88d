"""Reading and summarising many records.

scripts/test tests/perf --benchmark-enable -k records
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.comparison import Rules, compare
from bench.cost.throughput import throughputs
from bench.records import to_json
from bench.records.file import Results, read
from bench.summary import load, summarise
from tests.records.test_records import ENVIRONMENT, RECORD


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """100,000 records where benchmarks are on, else enough to see that it works."""
    n = 100_000 if request.config.getoption("--benchmark-enable") else 500
    path = tmp_path_factory.mktemp("many") / "records.jsonl"
    arm = {"model": "m", "engine": "transformers", "device": "cpu", "dtype": "float32"}
    variants = [arm | {"name": f"m/transformers/q{i}", "quant": f"q{i}"} for i in range(50)]
    with path.open("w") as stream:
        stream.write(to_json(ENVIRONMENT) + "\n")
        for i in range(n):
            record = replace(RECORD, key=f"{i:016x}", variant=variants[i % 50], replicate=i // 50)
            stream.write(to_json(record) + "\n")
    return path


@pytest.fixture(scope="module")
def copied(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same with its columnar copy made."""
    pytest.importorskip("pyarrow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        load(many, large=0)
        yield many


def test_load_the_columnar_copy(benchmark: BenchmarkFixture, copied: Path) -> None:
    rows = benchmark.pedantic(load, args=(copied,), kwargs={"large": 0}, rounds=3)
    assert len(rows) == 50


def test_compare_and_price_by_the_copy(benchmark: BenchmarkFixture, copied: Path) -> None:
    def both() -> tuple[int, int]:
        summary = load(copied, large=0)
        return len(compare(summary, Rules(), "q0")), len(throughputs(summary))

    compared, priced = benchmark.pedantic(both, rounds=3)
    assert compared > 49
    assert priced == 50


def test_read_records(benchmark: BenchmarkFixture, many: Path) -> None:
    results = benchmark.pedantic(read, args=(many,), rounds=3)
    assert len(results.records) % 500 == 0
    assert results.problems == []


def test_summarise_records(benchmark: BenchmarkFixture, many: Path) -> None:
    results: Results = read(many)
    rows = benchmark.pedantic(summarise, args=(results,), rounds=3)
    assert len(rows) == 50
