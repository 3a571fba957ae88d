#!/usr/bin/env python3
"""The client's figures against a server whose times are known: for docs/serving.md.

    scripts/client_truth.py [--streams 16,64,200,400] [--n-gen 100] [--clients 1,2]

A server of its own process gives each request its first token after 100 ms and one each 20 ms, and
keeps its own stamps (tests/ticking_server.py): 50 chunks a second a stream. The server and each
client process should have a core to themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cli import main as bench
from bench.records.file import read
from bench.summary.replicate import each_tpot_s
from tests.ticking_server import ticking, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="16,64,200,400")
    parser.add_argument("--n-gen", type=int, default=100)
    parser.add_argument("--clients", default="1", help="client processes")
    args = parser.parse_args()
    print(
        "| streams | client processes | chunks/s | TTFT ms, server | client | per token ms, server "
        "| client | stamps late ms, mean | 95th | cores | marked |\n" + "|--:" * 10 + "|:--|"
    )
    for streams in map(int, args.streams.split(",")):
        for clients in map(int, args.clients.split(",")):
            print(line(streams, args.n_gen, clients), flush=True)


def line(streams: int, n_gen: int, clients: int) -> str:
    """One row: a window of a closed loop of so many streams, read by so many processes."""
    with ticking("tick", ttft=0.1, tpot=0.02) as url, tempfile.TemporaryDirectory() as folder:
        flags = ["-p", "16", "-n", str(n_gen), "-b", str(streams), "--pairs", "1"]
        flags += ["--option", f"clients={clients}"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            bench(["run", "--url", url, *flags, "--into", folder])
        told = truth(url)
        (record,) = read(Path(folder)).records
    if record.status != "ok":
        return f"| {streams} | {clients} |" + " - |" * 8 + f" {record.message} |"
    late = record.device["client"]
    ttft, tpot = median(record.samples["prefill_s"]), median(each_tpot_s(record))
    cells = [
        f"{late['chunks_s']:,.0f}",
        *(f"{1e3 * s:.2f}" for s in (median(told["ttft_s"]), ttft)),
        *(f"{1e3 * s:.3f}" for s in (median(told["tpot_s"]), tpot)),
        *(f"{1e3 * late[name]:.2f}" for name in ("stamp_late_mean_s", "stamp_late_p95_s")),
        f"{late['cpu_share']:.2f}",
        ", ".join(record.reasons) or "-",
    ]
    return f"| {streams} | {clients} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
