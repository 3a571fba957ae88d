"""The doctor's checks of an accelerator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.devices.figures import Unreadable
from bench.devices.gpu.amd import WHOLE, AmdCard
from bench.devices.gpu.card import describe
from bench.devices.gpu.nvidia import NvidiaCard
from bench.devices.gpu.reader import BRAKE, REST_LIMIT, THERMAL
from bench.devices.gpu.spill import spills_here
from bench.doctor import Check
from bench.experiment.devices import kind_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What a vendor's own program is called for."""

    look: str
    """Lists who uses the card."""
    limit: str
    """Sets the power limit; {} is its watts."""


TOOLS: Final[Mapping[str, Tool]] = {
    "nvidia": Tool(look="nvidia-smi", limit="sudo nvidia-smi -pl {:.0f}"),
    "amd": Tool(look="amd-smi process", limit="sudo amd-smi set --power-cap {:.0f}"),
}


def unread_check(device: str) -> Check:
    """A device that torch can use and no library here reads, by what torch tells of it."""
    why = "energy, temperature and clocks are null, other processes unseen"
    try:
        facts, _ = describe(device)
    except Unreadable as reason:
        return Check(
            check="gpu",
            state="warn",
            found="torch can use it, its counters are not read",
            meaning=f"{reason}: it is not identified; {why}",
            advice="install amdsmi of your ROCm: pip install /opt/rocm/share/amd_smi"
            if kind_of(device) == "cuda"
            else "",
        )
    found = (
        f"{facts['gpu']}, {facts['gpu_memory_bytes'] / (1 << 30):.1f} GiB, {facts['gpu_driver']}"
    )
    return Check(check="gpu", state="ok", found=found, meaning=f"as torch tells: {why}")


def gpu_checks(card: NvidiaCard | AmdCard) -> Iterator[Check]:
    """Every check of one card; gives the card back."""
    try:
        facts = dict(card.identity())
        facts |= card.state()
        facts |= card.health()
        sample = card.sample(0.0, thorough=True)
        missing = card.missing()
        yield Check(
            check="gpu",
            state="ok",
            found=f"{facts['gpu'] or 'no name'}, driver {facts['gpu_driver']}",
        )
        if "gpu_persistence" in facts:  # a thing of NVIDIA's driver
            yield persistence_check(facts)
        yield power_limit_check(facts, TOOLS[card.vendor])
        yield process_check(card)
        yield rest_check(sample.busy, missing)
        yield temperature_check(sample.temperature_c, facts.get("slowdown_c"), missing)
        yield event_check(sample.events, missing)
        yield energy_check(card)
        yield memory_check(sample.used_bytes, facts["gpu_memory_bytes"], TOOLS[card.vendor].look)
        yield from sharing_checks(facts)
    finally:
        card.close()


def persistence_check(facts: dict[str, Any]) -> Check:
    on = facts["gpu_persistence"]
    if on:
        return Check(check="persistence", state="ok", found="on")
    if on is None and spills_here():
        return Check(check="persistence", state="ok", found="Windows' driver, which stays loaded")
    return Check(
        check="persistence",
        state="warn",
        found="not shown" if on is None else "off",
        meaning="the driver unloads between processes: slow first steps, counters start anew",
        advice="sudo nvidia-smi -pm 1",
    )


def power_limit_check(facts: dict[str, Any], tool: Tool) -> Check:
    limit, usual = facts.get("gpu_power_limit_w"), facts.get("default_power_limit_w")
    enforced = facts.get("gpu_enforced_power_limit_w")
    if limit is None and enforced is not None:
        return Check(
            check="power limit",
            state="warn",
            found=f"{enforced:.0f} W now; the firmware moves it",
            meaning="a laptop: its speed depends on the charger, the profile and the lid",
            advice="plug it in, choose the profile for performance, leave it open",
        )
    if limit is None:
        return Check(
            check="power limit",
            state="warn",
            found="not shown",
            meaning="the power limit changes the speed",
        )
    if usual is None or limit >= usual:
        return Check(check="power limit", state="ok", found=f"{limit:.0f} W")
    return Check(
        check="power limit",
        state="warn",
        found=f"{limit:.0f} W, by default {usual:.0f} W",
        meaning="slower and often cheaper per token than the same card at its default",
        advice=f"{tool.limit.format(usual)}, or state it with the figures",
    )


def process_check(card: NvidiaCard | AmdCard) -> Check:
    look = TOOLS[card.vendor].look
    try:
        others = card.foreign(computing=False)
    except Unreadable as reason:
        return Check(
            check="other processes",
            state="warn",
            found="not shown",
            meaning=str(reason),
            advice=f"look with {look} outside the container",
        )
    if not others:
        return Check(check="other processes", state="ok", found="none")
    return Check(
        check="other processes",
        state="bad",
        found=f"{len(others)}",
        meaning="figures measured now would be marked FOREIGN_PROCESS",
        advice=f"stop them; {look} lists them",
    )


def rest_check(busy: float | None, missing: Mapping[str, str]) -> Check:
    """Whether anything keeps the card busy, also what the driver lists no process of."""
    if busy is None:
        return Check(
            check="card at rest",
            state="warn",
            found="not shown",
            meaning=missing.get(
                "busy", "programs that use the GPU for graphics would go unnoticed"
            ),
            advice="close games, videos and browsers",
        )
    found = f"busy {busy:.0%} of the last moments"
    if busy <= REST_LIMIT:
        return Check(check="card at rest", state="ok", found=found)
    return Check(
        check="card at rest",
        state="bad",
        found=found,
        meaning="figures measured now would be marked FOREIGN_PROCESS",
        advice="close games, videos and browsers; under WSL2 also those of Windows",
    )


def temperature_check(
    now: float | None, slowdown: float | None, missing: Mapping[str, str]
) -> Check:
    if now is None:
        return Check(
            check="thermal headroom",
            state="warn",
            found="not shown",
            meaning=missing.get("temperature_c", ""),
        )
    if slowdown is None:
        return Check(
            check="thermal headroom",
            state="ok" if now < 60 else "warn",
            found=f"{now:.0f} C, slowdown temperature not shown",
        )
    room = slowdown - now
    found = f"{room:.0f} C below slowdown at {slowdown:.0f} C"
    if room >= 25:
        return Check(check="thermal headroom", state="ok", found=found)
    return Check(
        check="thermal headroom",
        state="bad" if room < 10 else "warn",
        found=found,
        meaning="it will slow itself down under load",
        advice="let it cool; mind the airflow",
    )


def event_check(events: frozenset[str] | None, missing: Mapping[str, str]) -> Check:
    if events is None:
        return Check(
            check="clock events", state="warn", found="not shown", meaning=missing.get("events", "")
        )
    found = ", ".join(sorted(events)) or "none"
    if events & (THERMAL | BRAKE):
        return Check(
            check="clock events",
            state="bad",
            found=found,
            meaning="the clocks are held down right now",
            advice="cooling and power supply; look again when it is idle",
        )
    return Check(check="clock events", state="ok", found=found)


def energy_check(card: NvidiaCard | AmdCard) -> Check:
    if card.no_energy is None:
        return Check(check="energy counter", state="ok", found=card.counter)
    return Check(
        check="energy counter",
        state="warn",
        found="none",
        meaning=f"no energy per token: {card.no_energy}",
    )


def memory_check(used: int | None, total: int | None, look: str) -> Check:
    if used is None or total is None:
        return Check(
            check="gpu memory",
            state="warn",
            found="not shown",
            meaning="only loading a model shows whether it fits",
        )
    found = f"{(total - used) / (1 << 30):.1f} of {total / (1 << 30):.1f} GiB free"
    if used <= 0.1 * total:
        return Check(check="gpu memory", state="ok", found=found)
    return Check(
        check="gpu memory",
        state="warn",
        found=found,
        meaning="something else holds memory of this card",
        advice=f"stop it; {look} lists it",
    )


def sharing_checks(facts: dict[str, Any]) -> Iterator[Check]:
    """MIG, partitions, vGPU, ECC: only what is worth a word."""
    if (part := facts.get("gpu_partition")) is not None and part not in WHOLE:
        yield Check(
            check="partition",
            state="warn",
            found=part,
            meaning="other partitions share the card's power and memory bandwidth; "
            "no energy per token",
            advice="measure on a whole card (SPX), or state it with the figures",
        )
    if facts.get("gpu_mig"):
        yield Check(
            check="mig",
            state="warn",
            found="on",
            meaning="other instances share the card's power and memory bandwidth; "
            "no energy per token",
            advice="measure on a whole card, or state it with the figures",
        )
    if facts.get("gpu_virtualization") == "vgpu":
        yield Check(
            check="virtualization",
            state="warn",
            found="vGPU",
            meaning="others may use the same card unseen; no energy per token",
            advice="measure on a whole card",
        )
    if facts.get("gpu_ecc") is not None:
        yield Check(check="ecc", state="ok", found="on" if facts["gpu_ecc"] else "off")
