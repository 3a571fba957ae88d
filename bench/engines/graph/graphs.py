"""CUDA graphs of a workload: captured on one stream into one pool, counted, and given back.

While a graph is replayed its tensors live in a private pool, which torch's allocator has freed by
then as far as its statistics go (pytorch#121932): a captured step would look smaller than an eager
one. So what a capture held at most is counted as it is captured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from bench.errors import UnsupportedError


class Graphs:
    """What was captured for one workload. Its graphs are never replayed at once, and read nothing
    that another left in the pool, so that they share it."""

    def __init__(self) -> None:
        self._captured: list[Any] = []
        self.n_bytes = 0
        """What a replay takes at most beyond what the allocator counts."""

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """What `function` launches, as one launch. It was called before, on every path it takes."""
        import torch

        torch.accelerator.synchronize()
        side = stream_of(torch.cuda.current_device())
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()  # workspaces of libraries belong to a stream
        torch.cuda.current_stream().wait_stream(side)
        torch.accelerator.synchronize()
        graph = torch.cuda.CUDAGraph()
        pool = self._captured[0].pool() if self._captured else None
        torch.cuda.reset_peak_memory_stats()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=side):
                function()
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise UnsupportedError(
                f"the step cannot be captured as a CUDA graph: {first}"
            ) from error
        held = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
        self.n_bytes = max(self.n_bytes, held)
        self._captured.append(graph)
        replay: Callable[[], None] = graph.replay
        return replay

    def release(self) -> None:
        """Give the graphs and their pool back; what `capture` returned must not be called again."""
        for graph in self._captured:
            graph.reset()
        self._captured.clear()
        self.n_bytes = 0


@cache
def stream_of(_device: int) -> Any:
    """The stream of all captures on a device: libraries keep a workspace for each they ever met."""
    import torch

    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # it has no types
