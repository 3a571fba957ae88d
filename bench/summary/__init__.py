"""Records -> one row a variant and workload: medians, spread, quality, validity. Docs: metrics.md.

A replicate's figure is the median over its requests, which single slow requests do not move; a
variant's is the geometric mean over its replicates, the centre of the intervals that `bench cost`
gives (logarithms, as ratios are what is compared).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean, median
from typing import Any

from bench.experiment.devices import cards, kind_of
from bench.records import Record
from bench.records.file import Results
from bench.summary.quality import Figures, all_figures
from bench.summary.served import batch_s, each_tpot_s, overlaps, serving

SPEEDS = (
    "prefill_tok_s",
    "decode_tok_s",
    "output_tok_s",
    "total_tok_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
)


def replicate_figures(record: Record) -> dict[str, float | None]:
    """Medians of one replicate, by the definitions of docs/metrics.md; None if it has none.

    Where an imported tool states a figure and not what it is made of, `samples` holds the figure
    under its own name. A figure that `absent` names is not made up from others.
    """
    n_prompt, n_gen, n_batch = (record.workload[k] for k in ("n_prompt", "n_gen", "n_batch"))
    samples = record.samples

    def known(name: str, made: float | None) -> float | None:
        if name in record.absent:
            return None
        return _median(samples[name]) if name in samples else made

    prefill, tpot = _median(samples.get("prefill_s", ())), _median(each_tpot_s(record))
    batch = batch_s(record) if samples.get("e2e_s") else None
    alone = None if overlaps(record) else prefill
    return {
        "ttft_s": known("ttft_s", prefill),
        "tpot_s": known("tpot_s", tpot),
        "e2e_s": known("e2e_s", None),
        "prefill_tok_s": known("prefill_tok_s", _rate(n_batch, n_prompt, alone)),
        "decode_tok_s": known("decode_tok_s", _rate(n_batch, 1, tpot)),
        "output_tok_s": known("output_tok_s", _rate(n_batch, n_gen, batch)),
        "total_tok_s": known("total_tok_s", _rate(n_batch, n_prompt + n_gen, batch)),
    }


def _rate(n_batch: int | None, tokens: int, seconds: float | None) -> float | None:
    """Tokens a second of all sequences; None where nothing is made or the batch is not known."""
    return n_batch * tokens / seconds if n_batch and tokens and seconds else None


def summarise(results: Results) -> list[dict[str, Any]]:
    """Rows with the keys that the contract gives `bench run`, in order of first appearance."""
    groups: dict[tuple[str, int, int, int], list[Record]] = {}
    for record in results.records:
        w = record.workload
        key = (record.variant["name"], w["n_prompt"], w["n_gen"], w["n_batch"])
        groups.setdefault(key, []).append(record)
    quality = quality_of(results)
    return [_row(group, quality.get(key[0])) for key, group in groups.items()]


def quality_of(results: Results) -> dict[str, Figures]:
    """Quality figures by the variant's name."""
    figures = all_figures(results.qualities)
    return {record.variant["name"]: figures[record.key] for record in results.qualities}


def _row(group: Sequence[Record], quality: Figures | None) -> dict[str, Any]:
    variant, good = group[0].variant, [record for record in group if record.status == "ok"]
    each = [replicate_figures(record) for record in good]
    reasons = sorted({reason for record in group for reason in record.reasons})
    absent = _absent(group, each)
    row: dict[str, Any] = {
        "variant": variant["name"],
        "model": variant["model"],
        "engine": variant["engine"],
        "quant": variant["quant"],
        "device": variant["device"],
        "cards": cards(variant),
        "mode": variant.get("mode", "eager"),
        "dtype": variant["dtype"],
        **group[0].workload,
        "n_replicates": len(good),
        "n_failed": len(group) - len(good),
    }
    for name in SPEEDS:
        row[name] = _centre(figures[name] for figures in each)
    row["decode_spread"] = _spread(figures["decode_tok_s"] for figures in each)
    row["decode_noise"] = _median(map(within, good))
    row["host_ratio"] = _median(map(host_ratio, good))
    row["early_share"] = max(map(early_share, good), default=0.0) or None
    row |= agreement(good)
    row |= memory_figures(good, absent)
    row |= energy_figures(good, absent)
    row |= _quality(quality, absent)
    row |= serving(good, absent)
    return row | {
        "usd_per_mtok": None,
        "valid": bool(good) and not reasons,
        "reasons": reasons,
        "absent": absent,
        "origin": group[0].origin,
    }


def host_ratio(record: Record) -> float | None:
    """Wall time on the host over the device's own time of the same requests; None without both."""
    host, device = record.samples.get("host_s"), record.samples.get("e2e_s")
    if not host or not device or len(host) != len(device):
        return None
    return sum(host) / sum(device)


def early_share(record: Record) -> float:
    """Share of the decoded tokens that were made while other prompts were still read (vLLM).

    They are in `decode_tok_s`, and their time in prefill's.
    """
    early: int = record.model.get("notes", {}).get("early_tokens", 0)
    if early == 0:
        return 0.0
    decoded: int = (record.workload["n_gen"] - 1) * record.workload["n_batch"]
    return early / decoded


def agreement(good: Sequence[Record]) -> dict[str, int | None]:
    """Tokens compared with eager mode when the workload started, and how many were alike first."""
    seen = [notes for r in good if "tokens_checked" in (notes := r.model.get("notes", {}))]
    return {
        name: min((notes[name] for notes in seen), default=None)
        for name in ("tokens_checked", "tokens_as_eager")
    }


def copies_weights(records: Sequence[Record]) -> bool | None:
    """Whether a compiled step writes weights out in floats; None where that is not known."""
    told = [(r.model.get("notes", {}).get("step") or {}).get("copies_weights") for r in records]
    return None if None in told or not told else any(told)


ACCELERATORS = ("cuda", "mps", "xpu")


def peak_memory(record: Record) -> int | None:
    """Peak bytes on the device; on a CPU, of the process.

    None for an accelerator whose own peak was not read: its process on the host says nothing of it.
    """
    if on_device := record.memory.get("peak_device_bytes"):
        return int(on_device)
    kind = kind_of(str(record.variant.get("device", "")))
    return None if kind in ACCELERATORS else record.memory.get("peak_host_bytes")


def memory_figures(good: Sequence[Record], absent: dict[str, str]) -> dict[str, Any]:
    """Peak memory on the device, or of the process on a CPU, and what the weights hold."""
    peak = _median([peak for r in good if (peak := peak_memory(r))])
    if peak is not None:
        absent.pop("peak_memory_bytes", None)
    elif good:
        reason = absent.get("peak_device_bytes", "the device's own peak was not read")
        absent.setdefault("peak_memory_bytes", reason)
    held = good[0].model if good else {}
    allocation = held.get("details", {}).get("allocation", {})
    return {
        "peak_memory_bytes": None if peak is None else int(peak),
        "weights_bytes": held.get("weights_bytes"),
        "packed_bytes": allocation.get("packed_bytes", held.get("weights_bytes")),
        "quantized_fraction": held.get("quantized_fraction"),
        "dynamic": held.get("dynamic"),
        "kernel": held.get("kernel"),
        "warning": held.get("details", {}).get("warning"),
        "copies_weights": copies_weights(good),
    }


ENERGY = {"energy_per_output_token_j": "decode", "energy_per_prompt_token_j": "prefill"}


def energy_figures(good: Sequence[Record], absent: dict[str, str]) -> dict[str, Any]:
    """Joules a token, everything in the counter's scope; net of idle where that was measured."""
    figures: dict[str, Any] = {}
    for name, phase in ENERGY.items():
        known = [w for r in good if (w := r.energy.get(phase)) and w.get("energy_j") is not None]
        figures[name] = _centre(w["energy_j"] / w["tokens"] for w in known)
        figures[f"net_{name}"] = _centre(
            net / w["tokens"]
            for w in known
            if w.get("idle_power_w") is not None
            and (net := w["energy_j"] - w["idle_power_w"] * w["window_s"]) > 0
        )
        if figures[name] is None:
            told = (r.energy.get(phase, {}).get("absent", {}) | r.absent for r in good)
            absent[name] = next((a["energy_j"] for a in told if "energy_j" in a), "no counter read")
            absent[f"net_{name}"] = absent[name]
        elif figures[f"net_{name}"] is None:
            told = (w.get("absent", {}) | r.absent for r in good if (w := r.energy.get(phase)))
            absent[f"net_{name}"] = next(
                (a["idle_power_w"] for a in told if "idle_power_w" in a),
                "no more was drawn than at rest",
            )
    windows = [w for r in good for w in r.energy.values() if isinstance(w, Mapping)]
    # The whole window's figures stand beside the phases'.
    scopes = {scope for w in windows if (scope := w.get("scope"))}
    scopes = scopes or {r.energy.get("scope") for r in good}
    checks = [w["cross_check_ratio"] for w in windows if w.get("cross_check_agrees") is False]
    return figures | {
        "energy_scope": scopes.pop() if len(scopes) == 1 else None,
        "energy_disagreement": max((abs(ratio - 1) for ratio in checks), default=None),
    }


def _quality(figures: Figures | None, absent: dict[str, str]) -> dict[str, Any]:
    """Values and, for the perplexity ratio, its interval; `bench.summary.quality` has the rest."""
    names = ("ppl", "ppl_ratio", "mean_kld", "same_top1")
    if figures is None:
        absent.update(dict.fromkeys(names, "quality was not measured"))
        return dict.fromkeys(names)
    absent.update(figures.absent)
    return {
        name: None if getattr(figures, name) is None else getattr(figures, name).value
        for name in names
    }


def _absent(group: Sequence[Record], each: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for record in group:
        found |= record.absent
    if not each:
        why = str(next((r.message for r in reversed(group) if r.message), "not measured"))
        found |= dict.fromkeys((*SPEEDS, "peak_memory_bytes", "weights_bytes"), why)
    if each and any(overlaps(record) for record in group):
        found["prefill_tok_s"] = "requests overlap: a server's prompts are not timed alone"
    if each and each[0]["tpot_s"] is None and group[0].workload["n_gen"] == 1:
        found |= dict.fromkeys(("tpot_s", "decode_tok_s"), "n_gen is 1: there are no gaps")
    for name in SPEEDS:
        if each and name not in found and all(figures[name] is None for figures in each):
            found[name] = "the records do not hold it"
    return found


def _centre(values: Iterable[float | None]) -> float | None:
    """Geometric mean of what is known."""
    known = [value for value in values if value is not None]
    return geometric_mean(known) if known else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def within(record: Record) -> float | None:
    """Noise within one process: half the range of its requests' decode times over their median,
    leaving out the tenth at each end. None for fewer than 2 requests or no decoding."""
    times = sorted(each_tpot_s(record))
    cut = len(times) // 10
    kept = times[cut : len(times) - cut]
    return (kept[-1] - kept[0]) / 2 / median(kept) if len(kept) > 1 else None


def _spread(values: Iterable[float | None]) -> float | None:
    """Half the range over the centre: what replicates differ by. None for fewer than 2."""
    known = [value for value in values if value is not None]
    return (max(known) - min(known)) / 2 / geometric_mean(known) if len(known) > 1 else None
