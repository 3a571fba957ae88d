"""Servers that are started for a replicate: fresh, on a free port, and gone when it is over.

`bench.keeper` holds the program on a leash, so that nothing of it outlives this process. A server
is ready when its /health (where it has one) and its /v1/models say so, on a port that a process of
its own listens to. What went wrong is told by the line of its log that decides it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench import hiding
from bench.devices.host import processes
from bench.engines.endpoint.settings import STARTING, ApiKey, EndpointSettings, settings
from bench.engines.registry import ENGINES, spec
from bench.errors import InputError, UnsupportedError
from bench.fields import parse_json
from bench.keeper import signal_group
from bench.models import Model, weights
from bench.programs import own
from bench.runner import venvs
from bench.text import one_line
from bench.worker.messages import Failed, Ready

if TYPE_CHECKING:
    from bench.experiment import Variant
    from bench.runner.arms import Arm

HOST: Final = "127.0.0.1"
POLL_S: Final = 0.1
ANSWER_S: Final = 5.0
"""Longest wait for an answer while the server starts."""
PORT_TRIES: Final = 3
"""A free port may be taken by another before the server has it."""
DYING_S: Final = 2.0
"""A server whose requests fail may be about to end: its end is waited for so long."""
MOST_ANSWER: Final = 1 << 20
TAIL_BYTES: Final = 1 << 18
LONGEST: Final = 300
"""Characters of a log's line that are kept."""
LONGEST_NAME: Final = 80

MEMORY: Final = re.compile(
    r"out of memory|OutOfMemory|not enough memory|cannot allocate memory|can't allocate memory"
    r"|failed to allocate|unable to allocate|No available memory for the cache",
    re.IGNORECASE,
)
TAKEN: Final = re.compile(r"address already in use|errno 98|couldn't bind|EADDRINUSE", re.I)
RAISED: Final = re.compile(r"\b(?:[A-Za-z_]+\.)*[A-Z]\w*(?:Error|Exception)\b(?:: |$)")
COMPLAINT: Final = re.compile(r"\b(?:error|fatal|failed|panic)\b", re.IGNORECASE)
CONSEQUENCE: Final = re.compile(r"See root cause above|Engine core initialization failed")
COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


class Leash:
    """A program and its keeper. Letting go ends both, and waits until they have."""

    def __init__(self, command: Sequence[str], log: Path, grace_s: float) -> None:
        self._keeper = subprocess.Popen(
            own("bench.keeper", str(grace_s), str(log), *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent alone
            env={**os.environ, "PATH": search_path()},
        )
        self.pid: int = 0
        """Of the program, which leads its process group."""
        self.code: int | None = None
        """Exit code of a program that ended by itself; negative: a signal."""

    def __enter__(self) -> Leash:
        try:
            event = self._event()
            if "pid" not in event:
                why = event.get("error", "its keeper ended")
                raise UnsupportedError(f"the server cannot be started: {why}", "NOT_LOADED")
            self.pid = int(event["pid"])
        except BaseException:  # Ctrl-C too
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait()
        except KeyboardInterrupt:  # the keeper ends it all the same: soon, and waited for
            self._keeper.wait()
            raise
        finally:
            if self._keeper.returncode and self.pid:  # it was killed itself
                signal_group(self.pid, signal.SIGKILL)
            self._keeper.stdout.close()

    def ended(self, wait_s: float = 0.0) -> bool:
        """Whether the program ended by itself, if need be within `wait_s`."""
        assert self._keeper.stdout is not None
        if self.code is None and select.select([self._keeper.stdout], [], [], wait_s)[0]:
            self.code = int(self._event().get("ended", -signal.SIGKILL))
        return self.code is not None

    def _event(self) -> dict[str, Any]:
        assert self._keeper.stdout is not None
        event: dict[str, Any] = json.loads(self._keeper.stdout.readline() or b"{}")
        return event


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """One that has said it is ready."""

    url: str
    startup_s: float
    """From its start until it was ready, to `POLL_S`."""
    memory: Mapping[str, Any]
    """What its processes held then; `absent` says why a figure is missing."""
    log: Path
    leash: Leash

    @property
    def facts(self) -> dict[str, Any]:
        """What the records say of it."""
        return {
            "startup_s": self.startup_s,
            "memory": dict(self.memory),
            "log": _told(self.log),
        }

    @property
    def has_ended(self) -> bool:
        return self.leash.ended()

    def cause(self, failed: Failed) -> Failed:
        """A failure of its requests, with what became of the server, if that has ended."""
        if not self.leash.ended(DYING_S):
            return failed
        return replace(
            failed,
            code="OOM" if _out_of_memory(self.log) else "CRASH",
            message=f"{failed.message}; {_end_of(self.leash, self.log)}",
        )


@contextlib.contextmanager
def serving(arm: Arm, folder: Path, name: str) -> Iterator[RunningServer | None]:
    """A fresh server for an arm that asks for one; None for any other arm.

    `folder`: of the results, with the server's log under the arm's scheme and `name`. Raises
    UnsupportedError where it does not become ready.
    """
    if not starts_server(arm.variant):
        yield None
        return
    asked = settings(arm.variant.options)
    mark = hashlib.sha256(arm.variant.name.encode()).hexdigest()[:6]
    log = _log(folder, f"{arm.variant.quant}-{mark}-{name}")
    with contextlib.ExitStack() as stack:
        yield _first_ready(asked, arm.model, log, stack)


class ServerOf:
    """The server of one replicate: started when it is first asked for, and anew if it has ended.

    Leaving the block ends it. Of an arm that starts none there is none.
    """

    def __init__(self, arm: Arm, folder: Path, name: str) -> None:
        self._arm, self._folder, self._name = arm, folder, name
        self._stack = contextlib.ExitStack()
        self._server: RunningServer | None = None

    def __enter__(self) -> ServerOf:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def running(self) -> RunningServer | None:
        """Raises UnsupportedError where it does not become ready."""
        if self._server is None or self._server.has_ended:
            self._stack.close()
            self._server = self._stack.enter_context(serving(self._arm, self._folder, self._name))
        return self._server


def starts_server(variant: Variant) -> bool:
    """Whether an arm's server is started for each of its replicates."""
    return spec(variant.engine).remote and bool(variant.options.get("serve"))


def with_server(loaded: Ready, server: RunningServer | None) -> Ready:
    """What the worker found, with what is known of the server's start."""
    if server is None:
        return loaded
    return replace(loaded, details={**loaded.details, "started": server.facts})


def failure_to_serve(error: UnsupportedError) -> Failed:
    """The event for a server that did not become ready."""
    return Failed(code=error.code, message=str(error))


def _first_ready(
    asked: EndpointSettings, model: Model, log: Path, stack: contextlib.ExitStack
) -> RunningServer:
    """The server, on another port where another process took the first."""
    for more in reversed(range(PORT_TRIES)):
        with contextlib.ExitStack() as attempt:
            port = free_port()
            began = time.monotonic()
            leash = attempt.enter_context(Leash(command_of(asked, model, port), log, asked.stop_s))
            try:
                _wait(leash, port, asked, log, began + asked.ready_s)
            except _PortTakenError:
                if more:
                    continue
                raise
            stack.enter_context(attempt.pop_all())
            return RunningServer(
                url=f"http://{HOST}:{port}",
                startup_s=time.monotonic() - began,
                memory=processes.memory(leash.pid),
                log=log,
                leash=leash,
            )
    raise AssertionError("the last try returns or raises")


class _PortTakenError(UnsupportedError):
    """Another process has the port that was free a moment ago."""


def _wait(leash: Leash, port: int, asked: EndpointSettings, log: Path, deadline: float) -> None:
    """Until the server is ready. Raises UnsupportedError with its log's decisive line."""
    headers = dict(ApiKey(asked.key_env).headers)
    while not _is_ready(port, headers):
        if leash.ended(POLL_S):
            said = _end_of(leash, log)
            if TAKEN.search(_tail(log)):
                raise _PortTakenError(said, "NOT_LOADED")
            raise UnsupportedError(said, "OOM" if _out_of_memory(log) else "NOT_LOADED")
        if time.monotonic() > deadline:
            raise UnsupportedError(
                f"the server was not ready after {asked.ready_s:.0f} s (option ready_s): "
                f"{decisive(_tail(log))}; its log: {_told(log)}",
                "NOT_LOADED",
            )
    if leash.ended() or processes.listens(leash.pid, port) is False:
        raise _PortTakenError(
            f"another process already uses port {port}; the server's log: {_told(log)}",
            "NOT_LOADED",
        )


def _is_ready(port: int, headers: Mapping[str, str]) -> bool:
    """Whether it is healthy, as far as it has a page for that, and lists a model."""
    try:
        health, _ = _get(port, "/health", headers)
        status, body = _get(port, "/v1/models", headers)
        models = parse_json(body) if status == 200 else None
    except (OSError, http.client.HTTPException, InputError):
        return False
    listed = models.get("data") if isinstance(models, dict) else None
    return health < 500 and bool(listed)


def _get(port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_S)
    try:
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read(MOST_ANSWER)
    finally:
        connection.close()


def free_port() -> int:
    """A port of this machine that nothing listens to now."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def for_worker(options: Mapping[str, Any], server: RunningServer | None) -> Mapping[str, Any]:
    """The options of an arm as its worker is told them: the address of what was started."""
    if server is None:
        return options
    left = {name: value for name, value in options.items() if name not in STARTING}
    return left | {"url": server.url}


def command_of(asked: EndpointSettings, model: Model, port: int | str = "PORT") -> list[str]:
    """The words of the command that starts a server. Raises InputError."""
    places: dict[str, Path | str | None] = {"{port}": str(port)}
    if "{model}" in asked.serve:
        places["{model}"] = weights.folder(model)
    if "{gguf}" in asked.serve:
        places["{gguf}"] = weights.gguf(model)
    words = shlex.split(asked.serve)
    for name, path in places.items():
        if path is None:
            raise InputError(f"options.serve: {model.ref} has no {name} that could be served")
        words = [word.replace(name, str(path)) for word in words]
    program = shutil.which(words[0], path=search_path())
    if program is None:
        raise InputError(
            f"options.serve: no program '{words[0]}' on the PATH, nor in an engine's environment "
            "(`bench engines`)"
        )
    return [program, *words[1:]]


def search_path() -> str:
    """PATH, then the programs of each engine's environment that is installed."""
    names = sorted({engine.environment for engine in ENGINES.values() if engine.environment})
    places = [place for name in names for place in venvs.homes(name)]
    found = [str(one.python.parent) for one in places if venvs.state(one) == "installed"]
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *found])


def decisive(log: str) -> str:
    """The line of a log that says why: out of memory, else the first error that was raised, else
    the last complaint, else the last line."""
    plain = COLOUR.sub("", log)
    lines = [line for raw in plain.splitlines() if (line := one_line(raw))]
    if not lines:
        return "it said nothing"
    raised = [at for at in lines if RAISED.search(at) and not CONSEQUENCE.search(at)]
    complaints = [at for at in lines if COMPLAINT.search(at) and not CONSEQUENCE.search(at)]
    memory = [at for at in lines if MEMORY.search(at)]
    found = next((kind[0] for kind in (memory, raised) if kind), None)
    return (found or (complaints or lines)[-1])[:LONGEST]


def _end_of(leash: Leash, log: Path) -> str:
    """How a server ended, and its log's decisive line."""
    code = leash.code or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return f"the server {how}: {decisive(_tail(log))}; its log: {_told(log)}"


def _out_of_memory(log: Path) -> bool:
    return MEMORY.search(_tail(log)) is not None


def _tail(log: Path) -> str:
    """The end of a log, without keys."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
        return hiding.hide(stream.read().decode(errors="replace"))


def _log(folder: Path, name: str) -> Path:
    """A new file beside the records; those of earlier runs are kept."""
    place = folder / "logs"
    place.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-")[-LONGEST_NAME:]
    names = itertools.chain([slug], (f"{slug}-{number}" for number in itertools.count(2)))
    return next(log for one in names if not (log := place / f"{one}.log").exists())


def _told(log: Path) -> str:
    """Where it is, as seen from the results folder."""
    return f"{log.parent.name}/{log.name}"
