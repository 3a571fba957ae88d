#!/usr/bin/env python3
"""Other load generators beside this one, against a server whose times are known.

    scripts/compare_clients.py [--streams 64] [--bin FOLDER[:FOLDER]] [--keep FOLDER]

guidellm, aiperf and `vllm bench serve` are run where their programs are found (on PATH, or in
FOLDER); those that are not are named. Each keeps so many streams of 16 + 100 tokens busy, with its
own default of warm-up; the server (tests/ticking_server.py) keeps its own stamps of that run.
Their files are read by `bench import`, so all figures are by the definitions of docs/serving.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.api import summarise
from bench.cli import main as bench
from bench.models import resolve_model, weights
from bench.records.file import read
from tests.ticking_server import ticking, truth

N_PROMPT, N_GEN = 16, 100
LIMIT_S = 300.0
MODEL = "smollm2-135m-instruct"
"""Whose tokenizer the others make their prompts with."""


@dataclass(frozen=True)
class Peer:
    """Another load generator."""

    program: str
    tool: str
    """Its name in `bench import`."""
    pattern: str
    """Of the file that it writes."""
    command: Callable[[str, int, Path, str], list[str]]
    """From address, streams, folder and tokenizer."""


PEERS = (
    Peer(
        "guidellm",
        "guidellm",
        "guidellm.json",
        lambda url, streams, folder, tokenizer: [
            "guidellm", "run",
            "--backend", f"kind=openai_http,target={url},model=m,request_format=/v1/completions",
            "--profile", f"kind=concurrent,streams={streams}",
            "--constraint", f"kind=max_requests,count={5 * streams}",
            "--tokenizer", f"kind=hf_auto,model={tokenizer}",
            "--data", f"kind=synthetic_text,prompt_tokens={N_PROMPT},output_tokens={N_GEN}",
            "--output", f"kind=json,path={folder / 'guidellm.json'}", "--disable-console",
        ],
    ),
    Peer(
        "aiperf",
        "aiperf",
        "profile_export_aiperf.json",
        lambda url, streams, folder, tokenizer: [
            "aiperf", "profile", "--model", "m", "--tokenizer", tokenizer, "--url", url,
            "--endpoint-type", "completions", "--streaming", "--concurrency", str(streams),
            "--request-count", str(5 * streams), "--isl", str(N_PROMPT), "--osl", str(N_GEN),
            "--extra-inputs", "ignore_eos:true", "--ui", "none", "--artifact-dir", str(folder),
        ],
    ),
    Peer(
        "vllm",
        "vllm",
        "*.json",
        lambda url, streams, folder, tokenizer: [
            "vllm", "bench", "serve", "--base-url", url, "--model", "m", "--tokenizer", tokenizer,
            "--dataset-name", "random", "--random-input-len", str(N_PROMPT),
            "--random-output-len", str(N_GEN), "--max-concurrency", str(streams),
            "--num-prompts", str(5 * streams), "--ignore-eos", "--save-result", "--save-detailed",
            "--result-dir", str(folder),
        ],
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--bin", default="", help="folders with the programs")
    parser.add_argument("--keep", type=Path, help="folder for what the clients wrote")
    args = parser.parse_args()
    if args.bin:
        os.environ["PATH"] = f"{args.bin}{os.pathsep}{os.environ['PATH']}"
    model = resolve_model(MODEL)
    weights.prepare(model, lambda text: print(text, file=sys.stderr))
    print(
        "| client | TTFT ms, server | client | per token ms, server | client | s in all | note |\n"
        "|:--|--:|--:|--:|--:|--:|:--|"
    )
    with contextlib.ExitStack() as stack:
        keep = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(row("bench run", lambda url: ours(url, args.streams, keep / "bench")), flush=True)
        for peer in PEERS:
            print(of_peer(peer, args.streams, keep / peer.program, str(weights.folder(model))))
            sys.stdout.flush()


def of_peer(peer: Peer, streams: int, folder: Path, tokenizer: str) -> str:
    """Another client's row."""
    if shutil.which(peer.program) is None:
        return f"| {peer.program} | - | - | - | - | - | not installed |"
    folder.mkdir(parents=True, exist_ok=True)

    def run(url: str) -> tuple[Path, str]:
        note = said(peer.command(url, streams, folder, tokenizer))
        file = next(iter(sorted(folder.rglob(peer.pattern))), None)
        into = folder / "imported"
        if file is not None:
            verbosely = ["import", peer.tool, str(file), "--into", str(into)]
            note = note or quietly(verbosely)
        return into, note

    return row(f"{peer.program} {version(peer.program)}", run)


def row(name: str, run: Callable[[str], tuple[Path, str]]) -> str:
    """A client's figures beside the server's own of the same requests."""
    with ticking("tick", ttft=0.1, tpot=0.02) as url:
        before = time.monotonic()
        results, note = run(url)
        seconds = time.monotonic() - before
        told = truth(url)
    rows = summarise(read(results)) if results.is_dir() else []
    if not rows or not told["tpot_s"]:
        return f"| {name} | - | - | - | - | {seconds:.0f} | {note or 'no result'} |"
    figures = rows[0]
    cells = [
        *(median(told["ttft_s"]), figures["ttft_s"]),
        *(median(told["tpot_s"]), figures["tpot_s"]),
    ]
    shown = ("-" if one is None else f"{1e3 * one:.2f}" for one in cells)
    reasons = ", ".join(figures["reasons"])
    return f"| {name} | {' | '.join(shown)} | {seconds:.0f} | {note or reasons or '-'} |"


def ours(url: str, streams: int, folder: Path) -> tuple[Path, str]:
    flags = ["-p", str(N_PROMPT), "-n", str(N_GEN), "-b", str(streams), "--pairs", "1"]
    return folder, quietly(["run", "--url", url, *flags, "--into", str(folder)])


def quietly(arguments: list[str]) -> str:
    """Run a verb; the last line of what it says where it fails."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = bench(arguments)
    return "" if code == 0 else f"{arguments[0]}: {errors.getvalue().strip().splitlines()[-1]}"


def said(command: list[str]) -> str:
    """Run a program; the last line of what it says where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no end after {LIMIT_S:.0f} s"
    lines = (done.stderr or done.stdout).strip().splitlines() or [""]
    return "" if done.returncode == 0 else f"exit {done.returncode}: {lines[-1][:120]}"


def version(program: str) -> str:
    """Of a program, by what it says."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.+]*", done.stdout + done.stderr)
    return found[0] if found else ""


if __name__ == "__main__":
    main()
