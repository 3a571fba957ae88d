"""Engines in this process: loaded from a job, and the tokens that they make step by step."""

from __future__ import annotations

from bench.engines.graph.engine import GraphEngine
from bench.engines.messages import Job
from bench.engines.transformers.engine import TransformersEngine


def load(job: Job) -> TransformersEngine:
    """The engine that runs the job's mode, with its model."""
    runs = TransformersEngine() if job.mode == "eager" else GraphEngine()
    runs.load(job)
    return runs


def generate(runs: TransformersEngine, n_gen: int) -> list[list[int]]:
    """The tokens of each sequence of one request."""
    runs.reset()
    runs.prefill()
    for _ in range(n_gen - 1):
        runs.step()
    return runs.tokens()
