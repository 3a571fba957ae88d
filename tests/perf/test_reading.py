"""Reading and summarising many records.

scripts/test tests/perf --benchmark-enable -k records
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.records import to_json
from bench.records.file import Results, read
from bench.summary import summarise
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


def test_read_records(benchmark: BenchmarkFixture, many: Path) -> None:
    results = benchmark.pedantic(read, args=(many,), rounds=3)
    assert len(results.records) % 500 == 0
    assert results.problems == []


def test_summarise_records(benchmark: BenchmarkFixture, many: Path) -> None:
    results: Results = read(many)
    rows = benchmark.pedantic(summarise, args=(results,), rounds=3)
    assert len(rows) == 50
