#!/usr/bin/env python3
"""Other load generators beside this one, against a server whose times are known.

    scripts/compare_clients.py [--streams 64] [--bin FOLDER]

guidellm, aiperf and `vllm bench serve` are asked where their programs are found (on PATH, or in
FOLDER); those that are not are named. Each runs its own default of warm-up and window at so many
streams of 16 + 100 tokens; the server (tests/ticking_server.py) keeps its own stamps of that run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.api import summarise
from bench.cli import main as bench
from bench.records.file import read
from tests.ticking_server import ticking, truth

N_GEN = 100
Figures = tuple[float | None, float | None, str]
"""TTFT and time per token, seconds; what there is to say."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--bin", default="", help="folder with the programs")
    args = parser.parse_args()
    if args.bin:
        os.environ["PATH"] = f"{args.bin}{os.pathsep}{os.environ['PATH']}"
    print("| client | TTFT ms, server | client | per token ms, server | client | note |")
    print("|:--|--:|--:|--:|--:|:--|")
    for name, run in CLIENTS.items():
        print(line(name, run, args.streams), flush=True)


def line(name: str, run: Callable[[str, int, Path], Figures], streams: int) -> str:
    """One client's row."""
    program = name.split()[0]
    if program != "bench" and shutil.which(program) is None:
        return f"| {name} | - | - | - | - | not installed |"
    with ticking("tick", ttft=0.1, tpot=0.02) as url, tempfile.TemporaryDirectory() as folder:
        ttft, tpot, note = run(url, streams, Path(folder))
        told = truth(url)
    if not told["tpot_s"]:
        return f"| {name} | - | - | - | - | {note or 'it sent nothing'} |"
    cells = [median(told["ttft_s"]), ttft, median(told["tpot_s"]), tpot]
    shown = ("-" if one is None else f"{1e3 * one:.2f}" for one in cells)
    return f"| {name} | {' | '.join(shown)} | {note} |"


def ours(url: str, streams: int, folder: Path) -> Figures:
    flags = ["-p", "16", "-n", str(N_GEN), "-b", str(streams), "--pairs", "1"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        bench(["run", "--url", url, *flags, "--into", str(folder)])
    (row,) = summarise(read(folder))
    return row["ttft_s"], row["tpot_s"], ", ".join(row["reasons"])


def said(command: list[str]) -> str:
    """Run a program; the last line of what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else f"exit {done.returncode}: {lines[-1][:80]}"


def found(folder: Path, pattern: str) -> dict[str, Any]:
    file = next(iter(folder.rglob(pattern)), None)
    table: dict[str, Any] = {} if file is None else json.loads(file.read_text())
    return table


def guidellm(url: str, streams: int, folder: Path) -> Figures:
    data = json.dumps({"prompt_tokens": 16, "output_tokens": N_GEN})
    note = said(
        ["guidellm", "benchmark", "--target", url, "--profile", "concurrent", "--rate",
         str(streams), "--max-seconds", "20", "--data", data, "--output-dir", str(folder),
         "--outputs", "json"]
    )  # fmt: skip
    each = found(folder, "*.json").get("benchmarks") or [{}]
    metrics = each[0].get("metrics", {})
    return (
        _milliseconds(metrics, "time_to_first_token_ms"),
        _milliseconds(metrics, "time_per_output_token_ms"),
        note,
    )


def _milliseconds(metrics: dict[str, Any], name: str) -> float | None:
    value = metrics.get(name, {}).get("successful", {}).get("median")
    return None if value is None else float(value) / 1e3


def aiperf(url: str, streams: int, folder: Path) -> Figures:
    note = said(
        ["aiperf", "profile", "--model", "m", "--url", url, "--endpoint-type", "completions",
         "--streaming", "--concurrency", str(streams), "--request-count", str(4 * streams),
         "--isl", "16", "--osl", str(N_GEN), "--artifact-dir", str(folder)]
    )  # fmt: skip
    table = found(folder, "profile_export_aiperf.json")
    times = [table.get(n, {}).get("p50") for n in ("time_to_first_token", "inter_token_latency")]
    return *(None if one is None else float(one) / 1e3 for one in times), note  # type: ignore[return-value]


def vllm(url: str, streams: int, folder: Path) -> Figures:
    note = said(
        ["vllm", "bench", "serve", "--base-url", url, "--model", "m", "--skip-tokenizer-init",
         "--dataset-name", "random", "--random-input-len", "16", "--random-output-len", str(N_GEN),
         "--max-concurrency", str(streams), "--num-prompts", str(4 * streams), "--save-result",
         "--result-dir", str(folder)]
    )  # fmt: skip
    table = found(folder, "*.json")
    times = [table.get(name) for name in ("median_ttft_ms", "median_tpot_ms")]
    return *(None if one is None else float(one) / 1e3 for one in times), note  # type: ignore[return-value]


CLIENTS: dict[str, Callable[[str, int, Path], Figures]] = {
    "bench run": ours,
    "guidellm": guidellm,
    "aiperf": aiperf,
    "vllm bench serve": vllm,
}

if __name__ == "__main__":
    main()
