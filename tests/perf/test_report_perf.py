"""A page of 100,000 records.

scripts/test tests/perf/test_report_perf.py --benchmark-enable
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.report.page import assemble
from bench.report.page.webpage import to_html
from tests.report_results import environment, record, write

ARMS = ("none", "int8-weight-only", "fp8-dynamic")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """100,000 records where benchmarks are on, else enough to see that it works."""
    n = 100_000 if request.config.getoption("--benchmark-enable") else 600
    lines = [environment()]
    for i in range(n):
        arm, work, replicate = ARMS[i % 3], i // 3 % 400, i // 1200
        base = record(arm, 1, replicate)
        sizes = base.workload | {"n_prompt": 8 * (1 + work)}
        lines.append(record(arm, 1, replicate, workload=sizes, key=f"{i:016x}"))
    return write(tmp_path_factory.mktemp("report"), lines)


def test_page_of_many_records(benchmark: BenchmarkFixture, many: Path) -> None:
    page = benchmark.pedantic(lambda: to_html(assemble([many])), rounds=1)
    benchmark.extra_info["page_mb"] = len(page.encode()) / 1e6
    benchmark.extra_info["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    assert len(page.encode()) < 10e6
