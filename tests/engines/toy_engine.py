"""An engine in one file, as docs/engines.md says; `python -m tests.engines.toy_engine` is a worker
that knows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.engines import registry
from bench.engines.messages import Job, Loaded
from bench.engines.registry import Spec
from bench.errors import UnsupportedError

ROW = Spec(
    module="tests.engines.toy_engine:ToyEngine",
    packages=("pytest",),
    weights="none",
    devices=("cpu",),
)


class ToyEngine:
    """Sleeps; scheme `half` half as long."""

    def __init__(self) -> None:
        self._batch = self._made = 0
        self._step_s = 0.0

    def load(self, job: Job) -> Loaded:
        self._step_s = 0.004 if job.quant == "half" else 0.008
        why = "a toy has no weights"
        return Loaded(
            device=job.device,
            dtype="none",
            n_params=None,
            weights_bytes=None,
            quantized_fraction=None,
            dynamic=None,
            kernel="sleep",
            absent=dict.fromkeys(("n_params", "weights_bytes", "quantized_fraction"), why),
        )

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        self._batch = n_batch

    def reset(self) -> None:
        self._made = 0

    def prefill(self) -> None:
        self.step()

    def step(self) -> None:
        time.sleep(self._step_s)
        self._made += 1

    def rewind(self) -> None:
        self._made = 1

    def synchronize(self) -> None:
        pass

    def tokens(self) -> list[list[int]]:
        return [[0] * self._made] * self._batch

    def notes(self) -> Mapping[str, Any]:
        return {}

    def log_probs(self, window: Sequence[int]) -> Any:
        raise UnsupportedError("a toy has no logits")

    def tokenize(self, text: str) -> list[int]:
        raise UnsupportedError("a toy has no tokenizer")

    def detokenize(self, tokens: Sequence[int]) -> str:
        raise UnsupportedError("a toy has no tokenizer")


if __name__ == "__main__":
    from bench.worker import main

    registry.ENGINES["toy"] = ROW  # type: ignore[index]  # the entry, as a line of the table
    sys.exit(main())
