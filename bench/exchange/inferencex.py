"""InferenceX, before InferenceMAX (SemiAnalysisAI): the aggregate of a run, one or a list.

Throughputs are of one card; the number of cards is that of its parallelism. Times are seconds of
vLLM's or SGLang's client, as served. Lengths are those that were asked for.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from bench.exchange.foreign import NOT_READ, SERVED, UNKNOWN, ForeignRun, Twice, out_of_place
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, count, expect, maybe, number, typed

TOOL: Final = "inferencex"
KEYS: Final = ("hw", "tput_per_gpu", "output_tput_per_gpu", "conc")
ENGINES: Final = {"trt": "tensorrt-llm", "trtllm": "tensorrt-llm"}
MILLION: Final = 1_000_000
UNQUANTIZED: Final = frozenset({"bf16", "fp16"})
TIMES: Final = (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("e2e_s", "e2el"))


def knows(source: SourceText) -> bool:
    """Whether a text looks like an aggregate of this project."""
    value = source.first()
    return isinstance(value, dict) and {"hw", "tput_per_gpu"} <= value.keys()


def read(source: SourceText) -> list[ForeignRun]:
    """Every aggregate of a file. InputError in one line."""
    return [_found(source, expect(source, TOOL, one, KEYS)) for one in source.entries()]


def _found(source: SourceText, run: Json) -> ForeignRun:
    n_all, n_decode = _cards(source, run)
    output = number(source, "output_tput_per_gpu", run["output_tput_per_gpu"]) * n_decode
    total = number(source, "tput_per_gpu", run["tput_per_gpu"]) * (n_all or 1)
    samples: dict[str, list[float]] = {"output_tok_s": [output], "total_tok_s": [total]}
    absent = {**NOT_READ, **SERVED} | {
        "samples": "an aggregate has no single requests, only medians"
    }
    for name, key in TIMES:
        if value := maybe(source, run, f"median_{key}"):
            samples[name] = [value]
        else:
            absent[name] = f"no median_{key} in the file"
    precision, engine = str(run.get("precision") or ""), str(run.get("framework") or "")
    n_gen = count(source, "osl", run["osl"]) if run.get("osl") else None
    if energy := _energy(source, run, total):
        absent.pop("energy_j")
    conc = count(source, "conc", run["conc"])
    return ForeignRun(
        model=str(run["model"]) if run.get("model") else None,
        engine=ENGINES.get(engine, engine) or None,
        quant=("none" if precision in UNQUANTIZED else precision) or None,
        device="cpu" if str(run["hw"]) == "cpu" else None,
        gpu=_names(run),
        n_gpus=n_all,
        options=_options(run),
        n_prompt=count(source, "isl", run["isl"]) if run.get("isl") else None,
        n_gen=n_gen,
        n_batch=conc or None,
        mean_lengths=True,
        started_at=source.date,
        dated=False,
        samples=samples,
        absent=absent,
        twice=tuple(_twice(source, run, output, n_gen, conc)),
        energy=energy,
        identity={"image": run.get("image")},
    )


def _card(name: str) -> str:
    """`mi355x`, `b200-trt` or `h100-sxm` as MI355X, B200, H100 SXM; a driver's name as it is."""
    from bench.roofline.gpus import match

    if " " in name or name in ("cpu", UNKNOWN):
        known = match(name)
        return known.title if known else name
    first = re.split(r"[-_]", name)[0]  # behind it stands who rents it, or the framework
    known = match(name) or match(first)
    return known.title if known else first.upper()


def _names(run: Json) -> str | None:
    """The cards' names: runs of several machines may prefill on one kind and decode on another."""
    names = [str(run[key]) for key in ("prefill_hw", "decode_hw") if run.get(key)]
    cards = dict.fromkeys(map(_card, names or [str(run["hw"])]))
    return " + ".join(card for card in cards if card not in ("cpu", UNKNOWN)) or None


def _cards(source: SourceText, run: Json) -> tuple[int | None, int]:
    """Cards of the whole run, None where it does not say; and those that its output rate is
    divided by. Where prefill and decode have cards of their own, there are as many as both."""

    def size(key: str) -> int:
        return count(source, key, typed(str(run.get(key) or 0)))

    prefill, decode = size("num_prefill_gpu"), size("num_decode_gpu")
    if run.get("disagg") in (True, "true") and prefill and decode:
        return prefill + decode, decode
    if not run.get("tp"):
        n = decode or prefill
        return n or None, n or 1
    n = math.prod(size(key) or 1 for key in ("tp", "pp", "dp", "pcp_size"))
    return n, n


def _energy(source: SourceText, run: Json, total: float) -> Json:
    """Joules of a million tokens, prompt and new, where the power of all cards was read."""
    each = maybe(source, run, "joules_per_total_token")
    if each is None or run.get("power_valid", 1) not in (1, True, "true", "1"):
        return {}
    return {
        "energy_j": each * MILLION,
        "window_s": MILLION / total,
        "tokens": MILLION,
        "scope": "device",
        "source": "mean power",
    }


def _options(run: Json) -> dict[str, Any]:
    """What makes another arm of the same model and cards."""
    found: dict[str, Any] = {}
    for key in ("spec_decoding", "mtp", "dp_attention", "disagg", "ep"):
        value = run.get(key)
        value = typed(value) if isinstance(value, str) else value
        plain = isinstance(value, str | int | float) and value not in (False, "none", "off", 0)
        if plain and (value is True or value != 1):  # True == 1, which says nothing of `ep`
            found[key] = value
    return found


def _twice(
    source: SourceText, run: Json, output: float, n_gen: int | None, conc: int
) -> list[Twice]:
    found: list[Twice] = []
    if not run.get("disagg") and (prompts := maybe(source, run, "input_tput_per_gpu")):
        made = prompts + run["output_tput_per_gpu"]
        of = "input + output"
        found.append(Twice(what="tput_per_gpu", stated=run["tput_per_gpu"], made=made, of=of))
    tpot, rate = maybe(source, run, "median_tpot"), maybe(source, run, "median_intvty")
    if tpot and rate:
        of = "1 / median_tpot"
        found.append(Twice(what="median_intvty", stated=rate, made=1 / tpot, of=of))
    for _, key in TIMES:
        middle, mean, std, high = (
            maybe(source, run, f"{name}_{key}") for name in ("median", "mean", "std", "p99")
        )
        found += out_of_place(f"median_{key}", middle, mean=mean, std=std, high=high)
    means = [maybe(source, run, f"mean_{key}") for _, key in TIMES]
    ttft, each, whole = means
    if ttft and each and whole and n_gen:
        of = "mean ttft + mean tpot x (osl - 1)"
        made = ttft + each * (n_gen - 1)
        found.append(Twice(what="mean_e2el", stated=whole, made=made, of=of, within=0.35))
    if whole and n_gen and conc and output / n_gen * whole > conc:
        of = "requests a second x mean_e2el"
        made = output / n_gen * whole
        found.append(Twice(what="conc", stated=conc, made=made, of=of, within=0.25))
    return found
