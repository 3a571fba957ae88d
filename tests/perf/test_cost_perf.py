"""How long it takes to price many rows: shown by pytest-benchmark, never asserted.

pytest tests/perf/test_cost_perf.py --benchmark-enable
"""

from __future__ import annotations

import random
from typing import Any

from bench.cost.pricing import Terms, price
from bench.cost.scenario import load_scenario
from bench.cost.throughput import Throughput

ROWS = 100_000


def many(count: int) -> list[Throughput]:
    """Throughputs of many variants and workloads, each with its own measured power."""
    draw = random.Random(0)
    return [
        Throughput(
            variant=f"v{i % 50}",
            n_prompt=128 * (1 + i % 7),
            n_gen=32 * (1 + i % 5),
            n_batch=2 ** (i % 6),
            total_tok_s=10 + 5000 * draw.random(),
            low=9.0,
            high=5200.0,
            n_replicates=8,
            prefill_s=0.001,
            power_w=100 + 300 * draw.random(),
            power_scope="gpu",
            device="RTX 4080",
            environment=str(i // 1000),
        )
        for i in range(count)
    ]


def test_pricing_100_000_rows_of_an_owned_card_with_a_band(benchmark: Any) -> None:
    items = many(ROWS)
    scenario = load_scenario("home-rtx4080-us")

    rows = benchmark.pedantic(price, args=(items, scenario, Terms()), rounds=3)

    assert len(rows) == ROWS
    assert all(row.usd_per_mtok > 0 and row.band_low < row.band_high for row in rows)
