"""What the peak of memory consists of: weights, key-value cache, and the rest.

On a device torch's allocator tells what was held after loading, before any workload, and what was
held at most in the window; the engine knows the tensors of its cache; what is left is workspace:
activations, logits, what kernels need, copies that a growing cache makes. On a host the kernel's
peak is of the whole process, so what is left there is the interpreter and its libraries too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.devices.figures import Figures, Unreadable
from bench.devices.gpu.torch_memory import allocated_bytes
from bench.experiment.devices import REMOTE, kind_of, members, on_cpu

ELSEWHERE = (REMOTE, "synthetic")
"""Devices of which nothing here holds anything."""


def after_loading(device: str) -> Figures:
    """`device_loaded_bytes`: to be asked once, between loading and the first workload.

    Of several devices the sum; absent where other processes hold a part.
    """
    found = Figures()
    if kind_of(device) not in ("cpu", *ELSEWHERE):
        found.read("device_loaded_bytes", lambda: sum(map(allocated_bytes, members(device))))
    return found


def parts(
    device: str,
    memory: Mapping[str, Any],
    loaded: Figures,
    *,
    weights_bytes: int | None,
    cache_bytes: int | None,
) -> Figures:
    """Parts of the peaks in `memory`, in bytes.

    `cache_bytes` of the key-value cache at its fullest; of a device `device_loaded_bytes` and
    `device_workspace_bytes`; of a host that computes `host_other_bytes`.
    """
    found = Figures(dict(loaded.values), dict(loaded.absent))
    if kind_of(device) in ELSEWHERE:
        return found
    if cache_bytes is None:
        found.absent["cache_bytes"] = "the engine does not report the size of its cache"
    else:
        found.values["cache_bytes"] = cache_bytes
    if "peak_device_bytes" in memory:
        found.read(
            "device_workspace_bytes",
            lambda: _rest(
                memory["peak_device_bytes"], loaded.values.get("device_loaded_bytes"), cache_bytes
            ),
        )
    elif on_cpu(device) and "peak_host_bytes" in memory:
        found.read(
            "host_other_bytes", lambda: _rest(memory["peak_host_bytes"], weights_bytes, cache_bytes)
        )
    return found


def _rest(peak: int, weights: int | None, cache: int | None) -> int:
    """What is neither weights nor cache. Raises Unreadable."""
    if weights is None or cache is None:
        what = "weights" if weights is None else "cache"
        raise Unreadable(f"the size of the {what} is unknown")
    if peak < weights + cache:
        raise Unreadable("the peak is below weights and cache: some were not touched or moved")
    return peak - weights - cache
