"""Shows how long verdicts take; asserts no time."""

from __future__ import annotations

import pytest

from bench.claims.files import load_claims
from bench.claims.findings import findings

pytest.importorskip("pytest_benchmark")


def test_the_article(benchmark) -> None:
    file = load_claims("hawk-insight-2025")

    assert len(benchmark(findings, file)) > 40
