"""Talk to one worker process: a job in, events out, a time limit, no spinning.

Standard library only; the parent sleeps in `select` until the worker says something.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from typing import IO, Any

from bench.errors import InputError, UnsupportedError
from bench.fields import MOST_BYTES, parse_json, shown
from bench.models.weights import import_root, last_line
from bench.programs import own
from bench.worker import messages
from bench.worker.messages import Done, Event, Failed, Fit, Probed, Shaped, Told

Line = dict[str, Any]
LAST_BYTES = 1 << 16
"""Of what a worker wrote to stderr: its last words."""
WORKER = own("bench.worker")
END = (Done, Failed, Fit, Probed, Shaped)


def converse(job: Line, *, limit_s: float, command: Sequence[str] = WORKER) -> Generator[Line]:
    """Start a worker on `job` and yield what it says, as it was sent.

    However the worker ends, the last event says so: `done`, or `failed` with a code when it was
    killed (CRASH), ran out of memory (OOM) or out of time (TIMEOUT). The worker and whatever it
    started are gone when this generator ends, also when it is closed early.
    """
    deadline = time.monotonic() + limit_s
    with contextlib.ExitStack() as stack:
        try:
            errors = stack.enter_context(tempfile.TemporaryFile())
            worker = _started(command, errors)
        except OSError as error:  # too few file handles, no interpreter, no room in /tmp
            raise UnsupportedError(f"no worker can be started: {error.strerror}") from error
        stack.callback(_end, worker)
        assert worker.stdout is not None
        said = ""
        try:
            _tell(worker, json.dumps(job, default=str).encode() + b"\n", deadline)
            for line in _lines(worker.stdout, deadline):
                event, sense = _event(line)
                said = event["event"]
                yield event
                if not sense:  # what else it says is not listened to
                    return
            worker.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            yield _failed("TIMEOUT", f"exceeded its time limit of {limit_s:.0f} s")
            return
        told = {0: "done", 1: "failed"}.get(worker.returncode)
        if said != told:
            yield from _death(worker.returncode, errors)


def _started(command: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=import_root(),
        start_new_session=True,  # Ctrl-C is for the parent, which ends the worker itself
    )


def _tell(worker: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
    """Give the worker its job. Raises TimeoutError if it does not read it."""
    assert worker.stdin is not None
    with worker.stdin as stream, selectors.DefaultSelector() as selector:
        os.set_blocking(stream.fileno(), False)
        selector.register(stream, selectors.EVENT_WRITE)
        while data:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            try:
                data = data[os.write(stream.fileno(), data) :]
            except BrokenPipeError:  # it died: its end is told below
                return


def events(job: Told, *, limit_s: float, command: Sequence[str] = WORKER) -> Iterator[Event]:
    """As `converse`, typed; a line that is no event ends it as a crash."""
    with contextlib.closing(converse(messages.sent(job), limit_s=limit_s, command=command)) as said:
        for line in said:
            try:
                event = messages.event(line)
            except InputError as error:
                yield Failed(
                    code="CRASH",
                    message=f"the worker sent an invalid event: {'; '.join(error.problems)}",
                )
                return
            yield event


def last(said: Iterator[Event]) -> Event:
    """The event that answers a job of one answer: the first that is an end of its own."""
    for event in said:
        if isinstance(event, END):
            return event
    raise AssertionError("a conversation without an end")


def _lines(stream: IO[bytes], deadline: float) -> Iterator[bytes]:
    """Lines as they come, until the stream ends. Raises TimeoutError at the deadline."""
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):  # it may talk all the time
                raise TimeoutError
            data = os.read(stream.fileno(), 1 << 20)
            if not data:
                return
            *whole, buffer = (buffer + data).split(b"\n")
            yield from whole
            if len(buffer) > MOST_BYTES:  # a line that never ends would fill the memory
                yield buffer
                return


def _event(line: bytes) -> tuple[Line, bool]:
    """What a line says, and whether it is an event at all."""
    try:
        event: Line = parse_json(line)
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise InputError("no event")
    except InputError as error:
        said = shown(line[:80].decode(errors="replace"))
        return _failed("CRASH", f"the worker sent an invalid event ({error}): {said}"), False
    return event, True


def _death(code: int, errors: IO[bytes]) -> Iterator[Line]:
    """The event for a worker that ended without saying why."""
    if code < 0:
        name = _signal(-code)
        cause = "; often the system's out-of-memory killer" if name == "SIGKILL" else ""
        yield _failed("CRASH", f"the worker was killed by {name}{cause}")
        return
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - LAST_BYTES))
    said = last_line(errors.read().decode(errors="replace"))
    if said.startswith("out of memory: "):  # of a process that the worker had started
        yield _failed("OOM", said)
        return
    yield _failed("CRASH", f"the worker ended with exit code {code}: {said}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"


def _failed(code: str, message: str) -> Line:
    return {"event": "failed", "code": code, "message": message}


def _end(worker: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    if worker.stdout is not None:
        worker.stdout.close()
