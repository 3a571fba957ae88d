"""The device that this machine would measure on, as far as it is known without touching it.

The driver and the operating system are asked for names and sizes; nothing is loaded or allocated.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Final

from bench.devices.figures import Unreadable
from bench.devices.gpu import card as drivers
from bench.devices.gpu.spill import spills_here
from bench.devices.host import machine
from bench.errors import UnsupportedError
from bench.experiment.devices import count, kind_of, members, spelled_out
from bench.roofline.gpus import Gpu, match, resolve_gpu
from bench.roofline.reserve import Reserve, reserve_of
from bench.schemes import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """A device and what fits on it."""

    name: str
    kind: str
    """`cpu`, `cuda`, `mps` or `xpu`."""
    memory_bytes: int | None
    gpu: Gpu | None = None
    """Its entry in the catalog; None for a CPU or a card that is not listed."""
    arch: str | None = None
    """AMD's name of the chip, where its driver tells it."""
    devices: str = ""
    """Several that hold one model, as torch names them; `memory_bytes` is of all."""
    elsewhere: bool = False
    """Whether it was named, and need not be in this machine."""
    reserve: Reserve = field(default_factory=Reserve)
    """What of each device's memory no model can have."""

    @property
    def dtype(self) -> str:
        """What `--dtype auto` means there."""
        return self.device.dtype

    @property
    def device(self) -> Device:
        """As schemes see it."""
        known = self.gpu.compute_capability if self.gpu else None
        major, _, minor = (known or "").partition(".")
        return Device(
            name=self.devices or self.name,
            kind=self.kind,
            capability=(int(major), int(minor)) if minor.isdigit() else None,
            n_sm=self.gpu.sms if self.gpu and minor.isdigit() else None,
            arch=self.arch,
            elsewhere=self.elsewhere,
        )


def here(device: str = "auto", gpu: str | None = None) -> Here:
    """The device that `device` means, or the catalogued card `gpu` that this machine need not have;
    as many of it as `device` names.

    Raises UnsupportedError for a GPU that the driver does not show.
    """
    if gpu is not None:
        card, devices = resolve_gpu(gpu), spelled_out(device)
        cards = count(devices)
        return Here(
            name=card.title if cards == 1 else f"{cards} x {card.title}",
            kind="cuda",
            memory_bytes=card.vram_bytes * cards,
            gpu=card,
            devices=devices if cards > 1 else "",
            elsewhere=True,
            reserve=reserve_of(card),
        )
    if device != "cpu":
        try:
            return _cards(spelled_out(drivers.meant(device)))
        except Unreadable as reason:
            if device != "auto":
                raise UnsupportedError(
                    f"no device '{device}' on this machine: {reason}; --gpu NAME plans for a card "
                    "that is not here"
                ) from reason
    try:
        name = machine.cpu_model()
    except Unreadable:
        name = "CPU"
    try:
        memory = machine.memory_bytes()
    except Unreadable:
        memory = None
    with contextlib.suppress(Unreadable, OSError, ValueError):
        if memory is not None and (limit := machine.memory_limit()) is not None:
            memory = min(memory, limit)
    return Here(name=name, kind="cpu", memory_bytes=memory)


def place_of(device: str) -> Here | None:
    """A resolved device of this machine without touching it; None where nothing is known of it."""
    if kind_of(device) not in ("cpu", *CARDS):
        return None
    try:
        return here(device)
    except UnsupportedError:
        return None


CARDS: Final = ("cuda", "mps", "xpu")
"""Kinds of devices that are not the host's processor."""


def _cards(device: str) -> Here:
    """The card of that name, or several that hold one model. Raises Unreadable."""
    each = [drivers.describe(one)[0] for one in members(device)]
    names = list(dict.fromkeys(str(facts["gpu"]) for facts in each))
    alike = len(names) == 1
    card = match(names[0]) if alike else None
    # Of an APU amdsmi tells what the firmware sets apart; a model may have the computer's memory.
    apart = card is not None and card.unified and kind_of(device) not in ("mps", "xpu")
    sizes: list[Any] = [None if apart else facts["gpu_memory_bytes"] for facts in each]
    kind = kind_of(device)
    return Here(
        name=f"{len(each)} x {names[0]}" if alike and len(each) > 1 else " + ".join(names),
        kind=kind if kind in CARDS else "cuda",
        memory_bytes=None if None in sizes else sum(sizes),
        gpu=card,
        arch=each[0].get("gpu_arch") if alike else None,
        devices=device if len(each) > 1 else "",
        reserve=reserve_of(card, wddm=spills_here(), used_bytes=_used(device)),
    )


def _used(device: str) -> int | None:
    """The most that other programs hold on one of the cards now; None where it is not known."""
    try:
        return max(map(drivers.used_bytes, members(device)))
    except Unreadable:
        return None
