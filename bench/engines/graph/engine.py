"""The engine `graph`: transformers' weights and modules, stepped by this project's own code.

A static key-value cache, decoder layers compiled once, each step one CUDA graph where the mode says
so, and attention by a kernel of this project on a GPU: `bench.engines.graph.static`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import schemes
from bench.engines.graph.forms import refuse_form
from bench.engines.graph.static import Static
from bench.engines.messages import Job
from bench.engines.transformers import self_check
from bench.engines.transformers.eager import Decoder, Eager
from bench.engines.transformers.engine import TransformersEngine


class GraphEngine(TransformersEngine):
    """See `bench.engines.Steps`; everything but how a step is executed is that of transformers."""

    name = "graph"

    def _tolerance(self, prompt: Any) -> float:
        """Never infinite: the schemes that can be compiled scale each token."""
        return min(super()._tolerance(prompt), self_check.MOST_SCALED)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """Left to `compiling`, which knows the device."""

    def _refuse(self, shape: Any) -> None:
        refuse_form(shape)

    def _decoder_for(self, job: Job, options: Mapping[str, Any]) -> Decoder:
        needs = schemes.scheme(job.quant).inductor
        graph = job.mode == "cuda-graph"
        self._static = Static(self._model, options, graph=graph, needs=needs)
        return self._static

    def _eager(self) -> Eager:
        return self._static.eager()

    def _scored(self, tokens: Any) -> Any:
        return self._static.scored(tokens, self._full)
