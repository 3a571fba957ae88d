"""llmfit (AlexsJones/llmfit): what its `bench` hands in to the community's results.

One request after another; `avgTps` is new tokens over the whole time of a request. The file does
not say how long the prompt is.
"""

from __future__ import annotations

from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import NOT_READ, SERVED, ForeignRun, Twice
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, count, expect, maybe, number, parse_time

TOOL: Final = "llmfit"
SCHEMA: Final = 1
ENGINES: Final = {"llamacpp": "llama.cpp", "llama-server": "llama.cpp", "mlx": "mlx-lm"}


def knows(source: SourceText) -> bool:
    """Whether a text looks like a result of this tool."""
    value = source.first()
    return isinstance(value, dict) and {"hardware", "results"} <= value.keys()


def read(source: SourceText) -> list[ForeignRun]:
    """Every model of a file. InputError in one line."""
    found: list[ForeignRun] = []
    for entry in source.entries():
        value = expect(source, TOOL, entry, ("hardware", "results"))
        schema = value.get("schemaVersion", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise InputError(f"{source}: schema {schema} of {TOOL} is newer than {SCHEMA}")
        found += [_found(source, value, one) for one in value["results"]]
    return found


def _found(source: SourceText, value: Json, one: Json) -> ForeignRun:
    run = expect(source, TOOL, one, ("model", "avgTps"))
    rate = number(source, "avgTps", run["avgTps"])
    n_out, whole = maybe(source, run, "avgOutputTokens"), maybe(source, run, "avgTotalMs", 1e-3)
    ttft = maybe(source, run, "avgTtftMs", 1e-3)
    absent = {**NOT_READ, **SERVED} | {"samples": "the file has only the mean of its runs"}
    samples: dict[str, list[float]] = {"output_tok_s": [rate]}
    if whole:
        samples["e2e_s"] = [whole]
    if ttft:
        samples["ttft_s"] = [ttft]
    if ttft and whole and n_out and n_out > 1 and whole > ttft:
        samples["tpot_s"] = [(whole - ttft) / (n_out - 1)]
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        if name not in samples:
            absent[name] = "the file does not have it"
            if name == "tpot_s":
                absent["decode_tok_s"] = absent[name]
    hardware = value["hardware"]
    card, n_cards = _card(source, hardware)
    moment = value.get("submittedAtUnix")
    provider = str(run.get("provider") or "").lower()
    twice = []
    if n_out and whole:
        of = "avgOutputTokens / avgTotalMs"
        twice.append(Twice(what="avgTps", stated=rate, made=n_out / whole, of=of, within=0.05))
    for name, low in (("minTps", True), ("maxTps", False)):
        end = maybe(source, run, name)
        if end and (end > rate * 1.001 if low else end < rate * 0.999):
            twice.append(Twice(what="avgTps", stated=rate, made=end, of=name, within=0.001))
    return ForeignRun(
        model=str(run["model"]),
        engine=ENGINES.get(provider, provider) or None,
        quant=run.get("quant") or run.get("quantization") or None,
        device="cpu" if card is None and hardware.get("hwClass") in ("CPU", "CPU_ONLY") else None,
        gpu=card,
        n_gpus=n_cards,
        n_gen=max(round(n_out), 1) if n_out else None,
        n_batch=1,
        mean_lengths=True,
        started_at=parse_time(source, "submittedAtUnix", moment) if moment else source.date,
        dated=bool(moment),
        samples=samples,
        absent=absent,
        twice=tuple(twice),
        identity={
            "cpu": hardware.get("cpu"),
            "os": hardware.get("os"),
            "llmfit": (value.get("tool") or {}).get("version"),
        },
        state={"requests": run.get("numRuns")},
    )


def _card(source: SourceText, hardware: Json) -> tuple[str | None, int | None]:
    """The card and how many, of hardware with one."""
    n: Any = hardware.get("gpuCount")
    name = hardware.get("hardwareName")
    if hardware.get("hwClass") in ("CPU", "CPU_ONLY") or n == 0:
        return None, None
    return (str(name) if name else None), (count(source, "gpuCount", n) if n else None)
