"""A process that holds a part of each layer of a model and does what rank 0 tells it.

    python -m bench.worker.rank    seat and job as one JSON line on stdin, then calls, one a line

See `bench.engines.transformers.ranks`. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import IO, Any

from bench.devices.figures import Figures
from bench.devices.gpu.torch_memory import TorchMemory
from bench.devices.host import peak_bytes, reset_peak
from bench.devices.room import room_bytes
from bench.engines.messages import job_of
from bench.engines.registry import attribute, spec
from bench.engines.transformers.ranks import Seat, leave
from bench.experiment.devices import on_cpu
from bench.worker import claim_stdout, failure


class RankMemory:
    """What this process holds at most over a window: on its device, and on the host."""

    def __init__(self, device: str) -> None:
        self._device = None if on_cpu(device) else TorchMemory(device)

    def begin(self) -> None:
        """The window opens; nothing but calls is in it, as in rank 0's, which would wait for us."""
        gc.collect()
        gc.disable()
        reset_peak()
        if self._device:
            self._device.begin()

    def end(self) -> dict[str, int]:
        """Peaks by the names of `bench.devices.Reading.memory`; those that cannot be read lack."""
        gc.enable()
        found = self._device.end() if self._device else Figures()
        found.read("peak_host_bytes", peak_bytes)
        return dict(found.values)


def serve(first: dict[str, Any], calls: IO[str], tell: Any) -> None:
    """Load, then do what is told until there is nothing more."""
    seat = Seat(**(first["seat"] | {"devices": tuple(first["seat"]["devices"])}))
    engine = attribute(spec(first["engine"]).module)(seat)
    loaded = engine.load(job_of(first["load"]))
    device = seat.devices[seat.rank]
    memory = RankMemory(device)
    own = {
        "memory_begin": memory.begin,
        "memory_end": lambda: tell({"answer": memory.end()}),
        "room_bytes": lambda: tell({"answer": room_bytes(device)}),
        "weights_bytes": lambda: tell({"answer": loaded.weights_bytes}),
        "cache_bytes": lambda: tell({"answer": engine.notes()["cache_bytes"]}),
        "graph_bytes": lambda: tell({"answer": engine.notes()["graph_bytes"]}),
    }
    for line in calls:
        name, arguments, options = json.loads(line)
        (own.get(name) or getattr(engine, name))(*arguments, **options)


def main() -> int:
    """One rank's life."""
    tell = claim_stdout()
    try:
        serve(json.loads(sys.stdin.readline()), sys.stdin, tell)
    except Exception as error:  # told to rank 0, which ends the run
        why = failure(error)
        tell({"failed": why.message, "code": why.code})
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
