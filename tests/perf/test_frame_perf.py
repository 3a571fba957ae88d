"""How long 100,000 records take as a DataFrame, and as lines. Shown, never asserted.

pytest tests/perf/test_frame_perf.py --benchmark-enable
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import read_results
from bench.exchange.exporting import export
from bench.exchange.frame import frame
from bench.records import to_json
from bench.records.file import Results, read
from tests.summary.test_summary import record

pytest.importorskip("pytest_benchmark")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """100,000 records if benchmarks are on, else enough to see that it works."""
    n = 100_000 if request.config.getoption("--benchmark-enable") else 300
    path = tmp_path_factory.mktemp("many") / "records.jsonl"
    one = record("none")
    with path.open("w") as stream:
        for i in range(n):
            variant = one.variant | {"name": f"m/transformers/q{i % 50}", "quant": f"q{i % 50}"}
            line = replace(one, key=f"{i:016x}", variant=variant, replicate=i // 50)
            stream.write(to_json(line) + "\n")
    return path


def test_read_results(benchmark: Any, many: Path) -> None:
    table = benchmark.pedantic(read_results, args=(many,), rounds=1)
    assert len(table) % 100 == 0


def test_frame_alone(benchmark: Any, many: Path) -> None:
    results: Results = read(many)
    assert len(benchmark.pedantic(frame, args=(results,), rounds=1)) == len(results.records)


def test_export_to_csv(benchmark: Any, many: Path) -> None:
    results: Results = read(many)
    assert benchmark.pedantic(export, args=(results, "csv"), rounds=1).data
