"""Keep one program, and let nothing of it outlive whoever asked for it. Standard library only.

    python -m bench.keeper GRACE_S LOG PROGRAM [ARGUMENT...]

Started in a session of its own by `bench.runner.servers`. The pipe on stdin is the leash: it ends
when the parent closes it or dies, kill -9 too. Then the program's process group gets SIGTERM, and
after GRACE_S seconds all that still descends from it SIGKILL. On Linux this process adopts orphans,
so that a child in a session of its own is found as well, and should this process itself be killed,
the kernel kills the program. Says JSON lines on stdout: `{"pid": N}`, then, if the program ends by
itself, `{"ended": CODE}` (negative: a signal); at the end `{"killed": N}`, how many took SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

SET_PDEATHSIG: Final = 1
SET_CHILD_SUBREAPER: Final = 36
"""Of prctl(2)."""
TURN_S: Final = 0.05
"""Between two looks at what is still there while it is being ended."""
LAST_S: Final = 5.0
"""Longest wait for the kernel to end what took SIGKILL."""


def descendants(pid: int, root: Path = Path("/")) -> list[int]:
    """Processes that a process started, and those that they did; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in root.glob("proc/[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        new = children.pop(todo.pop(), [])
        found += new
        todo += new
    return found


def prctl(option: int, value: int) -> None:
    """Ask Linux for it; elsewhere there is nothing of the kind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The program in a process group of its own, both of its outputs in the log."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: prctl(SET_PDEATHSIG, signal.SIGKILL),
        )


def watch(program: subprocess.Popen[bytes]) -> int | None:
    """Sleep until the parent is gone or the program has ended; its exit code then."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while (code := program.poll()) is None:
        ready, _, _ = select.select([0, woken], [], [])
        if 0 in ready and not os.read(0, 4096):
            return None
        if woken in ready:
            os.read(woken, 4096)
    return code


def end(program: subprocess.Popen[bytes], grace_s: float) -> int:
    """End all that the program is; how many of its processes did not go when asked."""
    signal_group(program.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while _left(program) and time.monotonic() < deadline:
        time.sleep(TURN_S)
    stubborn = len(_left(program))
    deadline = time.monotonic() + LAST_S
    while (left := _left(program)) and time.monotonic() < deadline:
        signal_group(program.pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(TURN_S)
    return stubborn


def _left(program: subprocess.Popen[bytes]) -> list[int]:
    """What is still there of it. Those that have ended are taken notice of."""
    running = program.poll() is None
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found = descendants(os.getpid())
    return found or ([program.pid] if running and program.poll() is None else [])


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if there is one."""
    with contextlib.suppress(OSError):
        os.killpg(pid, number)


def tell(**event: int | str) -> None:
    """One line to the parent, if it is there."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(event).encode() + b"\n")


def main() -> int:
    """Start it, watch it, end it."""
    prctl(SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The leash alone says when. A handler, as what is ignored stays so in the program.
        signal.signal(number, lambda *_: None)
    grace_s, log, *command = sys.argv[1:]
    try:
        program = start(command, Path(log))
    except OSError as error:
        tell(error=f"{command[0]}: {error.strerror}")
        return 1
    tell(pid=program.pid)
    if (code := watch(program)) is not None:
        tell(ended=code)
    tell(killed=end(program, float(grace_s)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
