"""A server program for tests of `--serve`: OpenAI's API, and the faults that servers have.

    python -m tests.served PORT [--FAULT ...]

Its process: one child, as serving engines have (`--child-apart`: in a session of its own).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.scripted_server import Exchange, ScriptedServer

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)", "served-child"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--raises", default="")
    parser.add_argument("--dies-at", type=int, default=0)
    parser.add_argument("--hangs-at", type=int, default=0)
    parser.add_argument("--ignores-sigterm", action="store_true")
    parser.add_argument("--child-apart", action="store_true")
    parser.add_argument("--step-s", type=float, default=0.02)
    parser.add_argument("--other-port", action="store_true")
    parser.add_argument("--pids", type=Path)
    return parser.parse_args()


async def serve(args: argparse.Namespace) -> None:
    async def answer(to: Exchange) -> None:
        if args.dies_at and to.number + 1 >= args.dies_at:
            print("RuntimeError: the kernel launch failed", flush=True)  # noqa: T201
            os._exit(3)
        if args.hangs_at and to.number + 1 >= args.hangs_at:
            await asyncio.sleep(600)
        await to.begin()
        for number in range(to.n_gen):
            await asyncio.sleep(args.step_s)
            await to.chunk(f" t{number}")
        await to.chunk("", "length")
        await to.usage(to.n_gen)
        await to.end()

    served = ScriptedServer(answer, models=() if args.never_ready else ("m",))
    port = 0 if args.other_port else args.port
    server = await asyncio.start_server(served.serve, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    args = arguments()
    if args.ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(SLEEPER, start_new_session=args.child_apart)
    if args.pids:
        with args.pids.open("a") as stream:
            stream.write(json.dumps([os.getpid(), child.pid]) + "\n")
    if args.raises:
        time.sleep(0.2)
        raise RuntimeError(args.raises)
    asyncio.run(serve(args))


if __name__ == "__main__":
    main()
