"""The processes that hold a part of each layer (split `tensor`), one a device.

The worker's process is rank 0 and leads; the others (`bench.worker.rank`) are told each call of the
engine before rank 0 makes it itself, by a line in a pipe, and meet it in the collectives of
torch.distributed. A process that fails ends all of them, as the others would wait for ever.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from queue import Queue
from typing import Any, Final, NoReturn, TypeVar

from bench.engines import Engine, others_of
from bench.engines.messages import Job
from bench.errors import BenchError, UnsupportedError
from bench.experiment.devices import index_of, kind_of
from bench.models.weights import import_root
from bench.programs import own

TELL_S: Final = 1.0
"""Time for a rank that has failed to say why."""

GRACE_S: Final = 5.0
"""Time for this process to fail by itself after another has."""

BACKENDS: Final = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}

Call = TypeVar("Call", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One process's place among the ranks."""

    rank: int
    devices: tuple[str, ...]
    port: int
    """Of this machine, by which the processes find one another."""

    def take(self) -> None:
        """Join the others; returns when all are there."""
        import torch
        from torch import distributed

        device = self.devices[self.rank]
        # transformers binds the process to the device of this number.
        os.environ["LOCAL_RANK"] = str(index_of(device))
        kind = kind_of(device)
        if kind not in BACKENDS:
            raise UnsupportedError(f"split = 'tensor' is not known on {kind} devices")
        if kind != "cpu":
            torch.accelerator.set_device_index(index_of(device))
        elif torch.accelerator.is_available():
            raise UnsupportedError(
                "split = 'tensor' on a CPU needs a machine without accelerators, because "
                "transformers would use them; name them, such as -d cuda:0+cuda:1"
            )
        n = len(self.devices)
        distributed.init_process_group(
            BACKENDS[kind],
            store=_store(self.port, world_size=n),
            rank=self.rank,
            world_size=n,
            device_id=torch.device(device) if kind == "cuda" else None,
        )


class Ranks:
    """Rank 0's hold on the others; also the `Others` of `bench.devices.several`."""

    def __init__(self, job: Job, devices: Sequence[str], engine: str) -> None:
        """`engine`: the name of the one that each of them runs."""
        self._ended, self._told = threading.Event(), threading.Event()
        self._why = self._code = ""
        # On any free port: nothing is left behind, however the processes end.
        self._store = _store(0, is_master=True, wait_for_workers=False)
        seats = [
            Seat(rank=rank, devices=tuple(devices), port=self._store.port)
            for rank in range(len(devices))
        ]
        self.seat = seats[0]
        self.own = self.seat.devices[:1]
        self._answers = [Queue[Any]() for _ in seats[1:]]
        self._processes = [_start(seat, job, engine) for seat in seats[1:]]
        for process, answers in zip(self._processes, self._answers, strict=True):
            threading.Thread(target=self._listen, args=(process, answers), daemon=True).start()
        atexit.register(self.close)

    @property
    def broken(self) -> bool:
        """Whether a call failed: the processes are ended then, and no other can be made."""
        return self._ended.is_set()

    def tell(self, call: str, *arguments: Any, **options: Any) -> None:
        """Have the others make this call."""
        line = json.dumps([call, arguments, options]).encode() + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            os.write(process.stdin.fileno(), line)

    def ask(self, call: str) -> list[Any]:
        """What each of the others answers, which may be loading still: one that ends instead ends
        this process (`_listen`), and one that hangs meets the parent's time limit."""
        self.tell(call)
        return [answers.get() for answers in self._answers]

    def begin(self) -> None:
        self.tell("memory_begin")

    def end(self) -> Sequence[Mapping[str, int]]:
        return self.ask("memory_end")

    def room(self) -> Sequence[int]:
        return self.ask("room_bytes")

    def together(
        self, method: Callable[..., Any], engine: Any, *arguments: Any, **options: Any
    ) -> Any:
        """A call of the engine on every rank; one that fails here ends the others."""
        if self.broken:
            raise UnsupportedError("the ranks were ended when a call failed", "CRASH")
        try:
            self.tell(method.__name__, *arguments, **options)
            return method(engine, *arguments, **options)
        except BenchError:
            self.close()
            raise
        except Exception as error:  # a collective, perhaps, whose other end has gone
            told = self._told.wait(TELL_S)
            self.close()
            if told and not isinstance(error, MemoryError):
                raise UnsupportedError(self._why, self._code) from error
            raise

    def close(self) -> None:
        """End the others."""
        self._ended.set()
        for process in self._processes:
            process.kill()
            process.wait()

    def _listen(self, process: subprocess.Popen[bytes], answers: Queue[Any]) -> None:
        """Pass on what a rank answers. One that ends by itself ends this process, which may hang in
        a collective; its last line on stderr is then what the parent reads."""
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "failed" in told:
                self._why, self._code = told["failed"], told["code"]
                self._told.set()
                break
            answers.put(told["answer"])
        # What fails on every rank fails on this one too, which says it better.
        if self._ended.wait(GRACE_S):
            return
        for other in self._processes:
            other.kill()
        why = self._why or f"a rank ended with exit code {process.wait()}"
        sys.stderr.write(f"{why}\n")
        sys.stderr.flush()
        os._exit(os.EX_SOFTWARE)


def _store(port: int, **options: Any) -> Any:
    """What the processes find one another by."""
    from torch import distributed

    return distributed.TCPStore("127.0.0.1", port, **options)  # type: ignore[attr-defined]  # torch exports it without __all__


def _start(seat: Seat, job: Job, engine: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        own("bench.worker.rank"),
        cwd=import_root(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    first = {"engine": engine, "seat": asdict(seat), "load": asdict(job)}
    process.stdin.write(json.dumps(first, default=str).encode() + b"\n")
    return process


def is_broken(runs: Engine) -> bool:
    """Whether the engine's other processes were ended by a failure: it can do no more."""
    others = others_of(runs)
    return others is not None and others.broken


def leave(code: int) -> NoReturn:
    """End this process; at once if it is one of several that hold a model.

    NCCL, as it is taken down, waits for graphs that hold its collectives, and for peers.
    """
    torch = sys.modules.get("torch")
    if (
        torch is not None
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
    ):
        atexit._run_exitfuncs()  # as multiprocessing does before `os._exit`
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def on_all_ranks(method: Call) -> Call:
    """A method of an engine that every rank must call; `self.others` are those beside this one."""

    @functools.wraps(method)
    def called(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.others is None:
            return method(self, *arguments, **options)
        return self.others.together(method, self, *arguments, **options)

    return called  # type: ignore[return-value]  # the same signature
