"""The one reading stage: records -> typed figures, grouped by machine, arm and workload.

Everything that reads results reads a `Summary`: comparison, cost, claims, tables, page, exports,
the Python API and the pytest plugin. `replicate` reads one record, `metrics` lists every figure,
`rows` groups them, `limits` holds them against the device, `quality` reads what was lost.
docs/metrics.md.
"""

from __future__ import annotations

from bench.summary.arm import ArmSettings, Host, Sizes
from bench.summary.loading import load
from bench.summary.metrics import METRICS, SPEEDS, Metric
from bench.summary.replicate import Doubt, Replicate
from bench.summary.rows import Figure, Row, RowKey, Summary, replicate, summarise

__all__ = [
    "METRICS",
    "SPEEDS",
    "ArmSettings",
    "Doubt",
    "Figure",
    "Host",
    "Metric",
    "Replicate",
    "Row",
    "RowKey",
    "Sizes",
    "Summary",
    "load",
    "replicate",
    "summarise",
]
