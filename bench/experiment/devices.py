"""Names of devices, as torch has them, and of several that hold one model: `cuda:0+cuda:1`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from bench.errors import InputError


def members(device: str) -> tuple[str, ...]:
    """The devices of a group; of one device, itself."""
    return tuple(device.split("+"))


def kind_of(device: str) -> str:
    """`cpu`, `cuda`, ...: of a group, that of its first."""
    return members(device)[0].partition(":")[0]


REMOTE: Final = "remote"
"""A server's device; `remote:cuda:0` is one that computes on that device of this machine."""


def on_cpu(device: str) -> bool:
    """Whether it is this machine's processor."""
    return kind_of(device) == "cpu"


def is_remote(device: str) -> bool:
    """Whether a server computes there."""
    return kind_of(device) == REMOTE


def behind(device: str) -> str:
    """The device of this machine that a server computes on; empty for one that is not told."""
    return device.partition(":")[2] if is_remote(device) else ""


def has_card(device: str) -> bool:
    """Whether a card of this machine computes, be it for a server on it."""
    computes = behind(device) if is_remote(device) else device
    return computes != "" and not on_cpu(computes)


def served_on(local: str | None) -> str:
    """The name of a server's device, which computes on `local` of this machine or elsewhere."""
    return f"{REMOTE}:{local}" if local else REMOTE


def index_of(device: str) -> int:
    """The number in `cuda:1`; without one, 0."""
    number = number_of(device)
    return int(number) if number.isdigit() else 0


def number_of(device: str) -> str:
    """What stands after the kind, as it was written; empty if nothing does."""
    return device.partition(":")[2]


def count(device: str) -> int:
    """How many devices a record was measured on; a server's name says nothing of it: 1."""
    return len(members(device))


def cards(variant: Mapping[str, Any]) -> int:
    """How many machines of one device worked as one: those that held the model, or as many as were
    said of a server. Each has its price."""
    told = (variant.get("options") or {}).get("n_devices")
    return max(count(str(variant.get("device", ""))), int(told or 1))


def spelled_out(device: str) -> str:
    """`cuda:0-3` as `cuda:0+cuda:1+cuda:2+cuda:3`; any other name as it is.

    Raises InputError for a range that holds nothing, or a group that has a device twice or devices
    of two kinds: a model is never spread over an accelerator and the host.
    """
    if found := re.fullmatch(r"([a-z]+):(\d+)-(\d+)", device):
        kind, first, last = found[1], int(found[2]), int(found[3])
        if last <= first:
            raise InputError(f"device '{device}': the last must be above the first")
        return "+".join(f"{kind}:{index}" for index in range(first, last + 1))
    each = members(device)
    if len(each) > 1:
        if len({(kind_of(one), index_of(one)) for one in each}) < len(each):
            raise InputError(f"device '{device}' names a device twice")
        if not all(re.fullmatch(r"[a-z]+:\d+", one) for one in each):
            raise InputError(f"device '{device}': each of several has a number, as cuda:0+cuda:1")
        if len({kind_of(one) for one in each}) > 1:
            raise InputError(
                f"device '{device}' mixes kinds; a model is spread over devices of one kind"
            )
    return device
