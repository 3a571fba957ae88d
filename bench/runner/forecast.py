"""What a plan will take: memory, time, and what the roofline allows. Touches no device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any, Final

from bench.demand import demand
from bench.demand.limits import requests_of
from bench.demand.search import RAMP_SHARE
from bench.engines.registry import declines, refusal, spec
from bench.errors import UnsupportedError
from bench.experiment import Experiment, Variant, Workload
from bench.experiment.devices import REMOTE
from bench.experiment.plan import plan
from bench.experiment.selectors import short_names
from bench.models import Model, ModelCard, resolve_model, weights
from bench.records import OWN
from bench.records.file import Results
from bench.roofline import bound
from bench.runner.fits import needs
from bench.runner.here import Here
from bench.runner.naming import why_not
from bench.schemes.cache import asked
from bench.summary.limits import at_once

GUESSED_RATE: Final = 1.0
START_S = 12.0
"""Seconds for a worker to start and load a small model: 2-core machine, results/quickstart-cpu."""


def forecast(experiment: Experiment, place: Here, before: Results) -> list[dict[str, Any]]:
    """One row a variant and workload: refusal, replicates, memory, fit, bound, seconds.

    Seconds come from records of the same arm where there are some, else from the bound, else from
    the experiment's own rules; `estimate_basis` says which.
    """
    rows = []
    for variant in experiment.variants:
        for workload in experiment.workloads:
            rows.append(
                _about(variant, workload, place, experiment.quality.longest)
                | {
                    "n_prompt": workload.n_prompt,
                    "n_gen": workload.n_gen,
                    "n_batch": workload.n_batch,
                    "replicates": experiment.measuring.pairs,
                }
                | ({"requests": workload.requests} if workload.requests else {})
                | _limits(variant, workload, _peak(workload, experiment), place)
            )
            rows[-1] |= _time(experiment, rows[-1], before)
    return rows


def order(experiment: Experiment) -> list[str]:
    """Names of the replicates in the order in which they will be measured."""
    steps = plan(experiment.variants, experiment.measuring.pairs, experiment.seed)
    names = short_names([variant.name for variant in experiment.variants])
    return [f"{names[step.variant.name]} #{step.index + 1}" for step in steps]


def _about(variant: Variant, workload: Workload, place: Here, window: int) -> dict[str, Any]:
    return {
        "variant": variant.name,
        "model": variant.model,
        "engine": variant.engine,
        "quant": variant.quant,
        "device": REMOTE if spec(variant.engine).remote else place.name,
        "refusal": declines(variant, [workload], window) or _refusal(variant, place),
    }


def _refusal(variant: Variant, place: Here) -> str | None:
    if spec(variant.engine).remote:
        return None
    model = resolve_model(variant.model)
    return why_not(variant, model, place.device) or refusal(variant, place.device)


def _sized(variant: Variant, model: Model) -> str:
    """The scheme whose bytes are the arm's: of a GGUF file whose header is known its mean bits."""
    told = weights.header(model) if model.source == "gguf" else None
    return variant.quant if told is None else f"{told.mean_bits:.4f}bpw"


def _peak(workload: Workload, experiment: Experiment) -> Workload:
    """What memory must hold: the workload, or the longest of requests that differ."""
    if not workload.requests:
        return workload
    rules, spec = experiment.measuring, workload.requests
    seeds = (f"{experiment.seed}/{index}/{spec}" for index in range(rules.pairs))
    count = rules.iterations * workload.n_batch
    n_prompt, n_gen = demand(spec).peak_lengths(seeds, count, workload.n_batch)
    return replace(workload, n_prompt=n_prompt, n_gen=n_gen)


def _limits(variant: Variant, workload: Workload, peak: Workload, place: Here) -> dict[str, Any]:
    names = ("memory_bytes", "loading_bytes", "fits", "fit", "bound_decode_tok_s")
    figures: dict[str, Any] = dict.fromkeys(names)
    if spec(variant.engine).remote:
        why = "the server's machine and what it has loaded are not known here"
        return figures | {"absent": dict.fromkeys(figures, why)}
    model = resolve_model(variant.model)
    card, sized = model.card, replace(variant, quant=_sized(variant, model))
    absent: dict[str, str] = {}
    try:
        found = needs(sized, peak, card, place)
    except UnsupportedError as error:
        absent["memory_bytes"] = str(error)
    else:
        figures |= {
            "memory_bytes": found.memory.running_bytes,
            "loading_bytes": found.memory.loading_bytes,
            "reserve_bytes": found.memory.reserve_bytes,
            "fit": found.fit,
            "fits": None if found.fit is None else found.fit in ("yes", "tight"),
        }
        if found.memory.loading_bytes is None:
            absent["loading_bytes"] = f"how {variant.engine} loads is not known beforehand"
        figures |= _bounds(sized, workload, card, place)
    if place.gpu is None:
        absent["bound_decode_tok_s"] = f"no data sheet of {place.name} in the catalog; try --gpu"
    return figures | {"absent": absent}


def _bounds(
    variant: Variant, workload: Workload, card: ModelCard, place: Here
) -> dict[str, float | None]:
    if place.gpu is None:
        return {}
    together = at_once(asdict(variant) | {"device": place.devices})
    limit = bound(
        card,
        place.gpu,
        variant.quant,
        dtype=place.dtype if variant.dtype == "auto" else variant.dtype,
        kv_dtype=asked(variant.engine, variant.options),
        n_devices=together,
        engine=variant.engine,
        n_prompt=workload.n_prompt,
        n_gen=workload.n_gen,
        n_batch=workload.n_batch,
    )
    return {
        "bound_decode_tok_s": limit.decode_tok_s,
        "bound_prefill_tok_s": limit.prefill_tok_s,
    }


def _time(experiment: Experiment, row: Mapping[str, Any], before: Results) -> dict[str, Any]:
    if row["refusal"]:
        return {"estimate_s": 0.0, "estimate_basis": "refused: nothing will run"}
    rules = experiment.measuring
    if experiment.slo:
        return _search_time(experiment, row, before)
    request = _measured_request_s(row, before)
    basis = "records"
    if request is None and row["bound_decode_tok_s"]:
        request = row["n_gen"] * row["n_batch"] / row["bound_decode_tok_s"]
        basis = "bound: at least this long"
    if request is None:
        one = START_S + rules.warmup_max_s / 2 + rules.window_s
        basis = "rules: half the longest warm-up, and the window"
    else:
        warmup = rules.warmup_window * request
        # Requests that differ are run twice each (bench.worker.differing).
        runs = 2 if "requests" in row and row["device"] != REMOTE else 1
        one = START_S + warmup + runs * max(rules.window_s, rules.iterations * request)
    return {"estimate_s": one * row["replicates"], "estimate_basis": basis}


PROBES: Final = (9, 5)
"""Of a search that knows nothing, and of one that begins at another replicate's answer:
scripts/slo_queues.py counts them."""
PROBE_START_S: Final = 4.0
"""Seconds of a probe beside its requests: a process, what the server tells, warm-up."""


def _search_time(experiment: Experiment, row: Mapping[str, Any], before: Results) -> dict[str, Any]:
    """A probe takes about as long as its requests at the rate that the server can take."""
    rates = [
        record.workload["rate"]
        for record in before.records
        if record.variant["name"] == row["variant"]
        and record.workload.get("slo") == experiment.slo
        and "rate" in record.workload
    ]
    n_probes = PROBES[0] + PROBES[1] * (row["replicates"] - 1)
    judged = requests_of(experiment.slo, experiment.level)
    sent = judged * (1 + RAMP_SHARE)
    rate = median(rates) if rates else GUESSED_RATE
    basis = (
        "rates of the probes that are there"
        if rates
        else (f"a guess: {GUESSED_RATE:g} request a second; a faster server finishes sooner")
    )
    return {
        "estimate_s": n_probes * (PROBE_START_S + sent / rate),
        "estimate_basis": f"a search of about {n_probes} probes of {judged} requests, {basis}",
    }


def _measured_request_s(row: Mapping[str, Any], before: Results) -> float | None:
    times = [
        record.samples["e2e_s"]
        for record in before.records
        if record.status == "ok"
        and record.origin in OWN
        and record.variant["name"] == row["variant"]
        and all(record.workload[name] == row[name] for name in ("n_prompt", "n_gen", "n_batch"))
    ]
    return median(second for one in times for second in one) if times else None


def total_s(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds for the whole plan."""
    return float(sum(row["estimate_s"] for row in rows))
