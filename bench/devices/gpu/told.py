"""What torch alone tells of a device: Intel's cards and Apple's, which no library here reads.

    python -m bench.devices.gpu.told DEVICE        JSON on stdout

A process of its own, so that whoever asks does not import torch; it takes some seconds.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from bench.devices.figures import Unreadable
from bench.devices.gpu.nvml import short_hash
from bench.errors import InputError
from bench.experiment.devices import index_of, kind_of
from bench.fields import parse_json
from bench.programs import own


@cache
def facts(device: str, timeout_s: float = 120.0) -> Mapping[str, Any]:
    """Name, memory, driver of a device of one of `KINDS`, in the words of `card_identity`; None
    where torch does not say. Raises Unreadable."""
    try:
        done = subprocess.run(
            own("bench.devices.gpu.told", device),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreadable(f"torch did not describe {device} in {timeout_s:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["torch ended without a message"]
        raise Unreadable(f"{device}: {lines[-1][:200]}")
    try:
        found = parse_json(done.stdout.strip().rpartition("\n")[2])
    except InputError as error:
        raise Unreadable(f"{device}: {error}") from None
    if not isinstance(found, dict):
        raise Unreadable(f"{device}: unexpected answer from torch: {found!r}")
    return found


def of_intel(torch: Any, index: int) -> dict[str, Any]:
    """A device of `torch.xpu.get_device_properties`."""
    card = torch.xpu.get_device_properties(index)
    uuid = getattr(card, "uuid", None)
    return {
        "gpu": str(card.name),
        "gpu_id": None if uuid is None else short_hash(str(uuid)),
        "gpu_memory_bytes": int(card.total_memory),
        "gpu_driver": str(card.driver_version),
        "gpu_cores": int(card.gpu_eu_count),
    }


def of_apple(torch: Any, _index: int) -> dict[str, Any]:
    """A Mac's graphics cores. Its memory is the computer's, of which Metal recommends a part; chips
    of one name are sold with fewer cores, and then some have a catalog entry of their own."""
    from bench.roofline.gpus import match

    name, cores = str(torch.backends.mps.get_name()), int(torch.backends.mps.get_core_count())
    fewer = f"{name} ({cores} GPU cores)"
    return {
        "gpu": fewer if match(fewer) else name,
        "gpu_memory_bytes": int(torch.mps.recommended_max_memory()),
        "gpu_driver": f"macOS {platform.mac_ver()[0]}",
        "gpu_cores": cores,
    }


KINDS: Final[Mapping[str, Callable[[Any, int], dict[str, Any]]]] = {
    "xpu": of_intel,
    "mps": of_apple,
}


def main(device: str) -> int:
    """Ask, and print."""
    import torch

    if kind_of(device) == "mps" and not torch.backends.mps.is_available():
        raise SystemExit("torch cannot use Metal here")  # what it would be asked is not built in
    found = KINDS[kind_of(device)](torch, index_of(device))
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
