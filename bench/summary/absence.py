"""Why figures of a row are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from bench.summary.metrics import SPEEDS
from bench.summary.pooling import apart, listed, once

if TYPE_CHECKING:
    from bench.summary.energy import EnergyWindow
    from bench.summary.replicate import Replicate
    from bench.summary.rows import Row

QUALITY: Final = ("ppl", "ppl_ratio", "mean_kld", "same_top1")
OVERLAP: Final = "a server's prompts and new tokens overlap; see energy_per_token_j"


def absent_of(row: Row) -> dict[str, str]:
    """Figure -> why it is missing, from the records' own words where they have some."""
    found = _of_speed(row)
    if row.value("peak_memory_bytes") is not None:
        found.pop("peak_memory_bytes", None)
    elif row.good:
        reason = found.get("peak_device_bytes", "the device's own peak was not read")
        found.setdefault("peak_memory_bytes", reason)
    for phase, name in (
        ("decode", "energy_per_output_token_j"),
        ("prefill", "energy_per_prompt_token_j"),
    ):
        found |= _of_energy(row, phase, name)
    if row.quality is None:
        found |= dict.fromkeys(QUALITY, "quality was not measured")
    else:
        found |= row.quality.absent
    return found | _of_server(row)


def _of_speed(row: Row) -> dict[str, str]:
    found: dict[str, str] = {}
    for said in _in_order(row):
        found |= said
    if not row.good:
        messages = (text for text in reversed(listed(row.replicates, "message")) if text)
        why = str(next(messages, "not measured"))
        return found | dict.fromkeys((*SPEEDS, "peak_memory_bytes", "weights_bytes"), why)
    if any(listed(row.replicates, "overlaps")):
        found["prefill_tok_s"] = "requests overlap: a server's prompts are not timed alone"
    if row.good[0].figures["tpot_s"] is None and row.sizes.n_gen == 1:
        found |= dict.fromkeys(("tpot_s", "decode_tok_s"), "n_gen is 1: there are no gaps")
    if row.level is not None:
        found["decode_tok_s"] = "a search gives the rate of requests that meets the limits"
    for name in SPEEDS:
        if name not in found and row.value(name) is None:
            found[name] = "the records do not hold it"
    return found


def _in_order(row: Row) -> Iterator[Mapping[str, str]]:
    """What the records say, so that of two that say it differently the last one counts."""
    each = listed(row.replicates, "absent")
    yield from once(row.replicates, "absent")
    last = {id(said): said for said in reversed(each)}
    yield from reversed(last.values())


def _of_energy(row: Row, phase: str, name: str) -> dict[str, str]:
    """Why joules a token, gross or net, are missing."""
    net = f"net_{name}"
    if row.value(name) is None:
        texts = (
            text
            for one in apart(row.good, "energy", "absent")
            if (text := _said(one, _window(one, phase), "energy_j")) is not None
        )
        why = next(texts, "no counter read")
        return {name: why, net: why}
    if row.value(net) is None:
        texts = (
            text
            for one in apart(row.good, "energy", "absent", f"{phase}.tokens")
            if _window(one, phase).tokens is not None
            and (text := _said(one, _window(one, phase), "idle_power_w")) is not None
        )
        return {net: next(texts, "power was no higher than at rest")}
    return {}


def _window(one: Replicate, phase: str) -> EnergyWindow:
    return one.energy.decode if phase == "decode" else one.energy.prefill


def _said(one: Replicate, window: EnergyWindow, key: str) -> str | None:
    absent: Mapping[str, str] = {**window.absent, **one.absent}
    return absent.get(key)


def _of_server(row: Row) -> dict[str, str]:
    if not any(listed(row.good, "served")):
        return {}
    found = dict(row.tails.absent)
    if row.value("energy_per_token_j") is None:
        each = once(row.good, "absent")
        said = (absent["energy_j"] for absent in each if "energy_j" in absent)
        found["energy_per_token_j"] = next(said, "no counter read")
    else:
        found |= dict.fromkeys(("energy_per_output_token_j", "energy_per_prompt_token_j"), OVERLAP)
    if row.value("goodput_req_s") is None:
        found["goodput_req_s"] = "no limit was given (ttft_limit_s, tpot_limit_s, e2e_limit_s)"
    return found
