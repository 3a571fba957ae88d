"""Whatever stands in a file: good records or one line, and no figure that cannot be, unmarked.

500 seeded mutations of each importer's own file: a value of another type or size, a key or a line
taken away or doubled, a digit changed, the end cut off.
"""

from __future__ import annotations

import copy
import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError
from bench.exchange import TOOLS
from bench.exchange.exporting import export
from bench.exchange.foreign import Given
from bench.exchange.importing import import_file
from bench.records import Record
from bench.records.check import check_results
from bench.records.file import read
from bench.summary.replicate import speeds

DATA = Path(__file__).parents[1] / "data" / "imports"
CASES = DATA / "cases"
RESULTS = Path(__file__).parents[2] / "results" / "quickstart-cpu"
N = 500

FILES: dict[str, tuple[tuple[Path, dict[str, Any]], ...]] = {
    "llama-bench": (
        (CASES / "llama-bench-depth.jsonl", {}),
        (CASES / "llama-bench-2025.csv", {}),
        (CASES / "llama-bench-pasted.txt", {}),
        (CASES / "llama-bench-2023.json", {}),
    ),
    "llama-batched-bench": (
        (CASES / "llama-batched-bench.txt", {"model": "llama-3.1-8b"}),
        (CASES / "llama-sweep-bench.jsonl", {"model": "llama-3.1-8b"}),
    ),
    "vllm": (
        (DATA / "vllm" / "serve-detailed.json", {}),
        (CASES / "vllm-sweep.json", {}),
        (
            CASES / "vllm-throughput.json",
            {"model": "llama-3.1-70b", "n_prompt": 2048, "n_gen": 2048},
        ),
        (
            CASES / "vllm-latency.json",
            {"model": "llama-3.1-70b", "n_prompt": 2048, "n_gen": 2048, "n_batch": 32},
        ),
    ),
    "sglang": (
        (CASES / "sglang-serving.jsonl", {"model": "llama-3.1-8b"}),
        (CASES / "sglang-one-batch.jsonl", {"model": "llama-3.1-8b"}),
        (CASES / "sglang-one-batch-server.jsonl", {"model": "llama-3.1-8b"}),
        (CASES / "sglang-offline.txt", {"model": "llama-3.1-8b"}),
    ),
    "guidellm": (
        (CASES / "guidellm-warm-up.json", {}),
        (CASES / "guidellm-0.2-sampled.json", {}),
        (CASES / "guidellm-0.8-sampled.json", {}),
        (DATA / "guidellm" / "benchmarks.json", {}),
        (CASES / "guidellm.yaml", {}),
        (CASES / "guidellm.csv", {}),
        (CASES / "guidellm-0.3.csv", {}),
    ),
    "aiperf": (
        (CASES / "aiperf-0.1.json", {}),
        (CASES / "aiperf-energy.json", {}),
        (CASES / "aiperf.csv", {"model": "llama-3.1-8b", "n_batch": 4}),
        (CASES / "genai-perf.csv", {"model": "llama-3.1-8b"}),
        (DATA / "aiperf" / "profile_export_aiperf.json", {}),
    ),
    "inference-perf": ((CASES / "inference-perf-stage.json", {"model": "llama-3.1-8b"}),),
    "inferencex": ((CASES / "inferencex-agg.json", {}),),
    "llmperf": ((CASES / "llmperf-summary.json", {}),),
    "llmfit": ((CASES / "llmfit-two-cards.json", {"n_prompt": 64}),),
    "mlperf": ((CASES / "mlperf-offline.txt", {"model": "llama-3.1-70b", "n_prompt": 294}),),
    "ollama": ((CASES / "ollama-verbose.txt", {"model": "qwen3-4b", "quant": "q4_k_m"}),),
    "optimum-benchmark": (
        (CASES / "optimum-benchmark-llm-perf.csv", {}),
        (DATA / "optimum-benchmark" / "benchmark.json", {}),
    ),
    "pytest-benchmark": (),
}

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 10**30, -0.5, 1e-300, 1e300, float("nan"), float("inf"), "",
    "x", "1", "nan", "9" * 5000, "\ud800", [], [1], [[]], {}, {"a": 1}, [None] * 3,
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each node of a JSON value."""
    if at:
        yield at
    pairs: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        pairs = list(enumerate(value))[:3]
    for key, inner in pairs:
        yield from places(inner, (*at, key))


def in_table(chance: random.Random, table: Any) -> Any:
    """One value of a JSON table changed, or two."""
    table = copy.deepcopy(table)
    ways = list(places(table))
    for place in chance.sample(ways, k=min(len(ways), chance.choice((1, 1, 1, 2)))):
        node = table
        try:
            for key in place[:-1]:
                node = node[key]
            old = node[place[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
        plain = isinstance(old, int | float) and not isinstance(old, bool)
        if plain and chance.random() < 0.6:
            node[place[-1]] = old * chance.choice((0.1, 0.5, 0.9, 1.1, 2, 3, 10, 1000))
        elif isinstance(node, dict) and chance.random() < 0.3:
            del node[place[-1]]
        else:
            node[place[-1]] = chance.choice(ODD)
    return table


def in_text(chance: random.Random, text: str) -> str:
    """Digits, characters or lines of a text changed."""
    lines = text.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    numbers = list(re.finditer(r"\d+(?:\.\d+)?", text))
    what = chance.randrange(6)
    if what == 0:
        return text[: chance.randrange(1, len(text))]
    if what == 1:
        return "".join(lines[:at] + lines[at + 1 :]) or "x"
    if what == 2:
        return "".join([*lines[:at], lines[at], *lines[at:]])
    if what == 3:
        place = chance.randrange(len(text))
        return text[:place] + chance.choice('\x00"{}[],|:\n-%é') + text[place + 1 :]
    one = chance.choice(numbers)
    scale = chance.choice((0.0, 0.5, 2, 10, 1000, -1))
    new = f"{float(one[0]) * scale:g}" if what == 4 else chance.choice(("x", "", "9" * 400))
    return text[: one.start()] + new + text[one.end() :]


def mutations(tool: str) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Seeded, so that a failure comes again."""
    chance = random.Random(tool)
    files = FILES[tool] or ((RESULTS, {}),)
    texts = [
        export(read(path), tool).data.decode() if path.is_dir() else path.read_text()
        for path, _ in files
    ]
    for number in range(N):
        path, said = files[number % len(files)]
        text = texts[number % len(files)]
        if path.suffix in (".json", "") and chance.random() < 0.8:
            text = json.dumps(in_table(chance, json.loads(text)))
        elif path.suffix == ".jsonl" and chance.random() < 0.8:
            rows = [json.loads(line) for line in text.splitlines()]
            text = "".join(json.dumps(in_table(chance, row)) + "\n" for row in rows)
        else:
            text = in_text(chance, text)
        yield f"{tool} {number} {path.name}", text.encode("utf-8", "surrogatepass"), said


def refused(tool: str, path: Path, into: Path, said: dict[str, Any]) -> str | None:
    """The message of a refusal; None if there is none."""
    try:
        import_file(tool, path, into, Given(**said))
    except InputError as error:
        return str(error)
    return None


def impossible(record: Record) -> list[str]:
    """The figures of a record that cannot be, by rules written here anew."""
    known = {name: value or 0.0 for name, value in speeds(record).items()}
    prompt, new, batch = (record.workload[key] for key in ("n_prompt", "n_gen", "n_batch"))
    output, decode, total = (known[f"{name}_tok_s"] for name in ("output", "decode", "total"))
    found = [name for name, value in known.items() if not 0 <= value < float("inf")]
    if output and decode and batch and new > 1 and output > 1.12 * decode * new / (new - 1):
        found.append("more made than decoded")
    if output and total and total < 0.9 * output * (prompt + new) / max(new, 1) - 1e-9 and new > 9:
        found.append("less in all than its parts")
    if known["ttft_s"] and known["e2e_s"] and known["e2e_s"] < 0.98 * known["ttft_s"]:
        found.append("the first token after the last")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_no_mutation_is_a_traceback_or_an_unmarked_impossibility(tool: str) -> None:
    good = marked = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        for name, data, said in mutations(tool):
            path.write_bytes(data)
            into = Path(folder) / name.replace(" ", "-")
            if (refusal := refused(tool, path, into, said)) is not None:
                assert len(refusal.splitlines()) == 1, name
                assert not into.exists(), name
                continue
            assert check_results(into).problems == (), name
            for record in read(into).records:
                if "CONTRADICTION" in record.reasons:
                    assert record.absent["self_check"], name
                    marked += 1
                else:
                    assert impossible(record) == [], name
                    good += 1
    assert good > 20, "mutations that change nothing that matters are read"
    assert marked > 0, "and those that contradict are marked"
