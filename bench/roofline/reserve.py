"""What a device keeps from a model: driver, libraries, allocator, display, operating system.

- context, 512 MiB: "about 300 MB" with lazily loaded kernels (pytorch/pytorch#107667), and a margin
  for those that are loaded while it runs;
- workspace, 64 MiB, 128 from Hopper on: cuBLAS 8,519,680 bytes and cuBLASLt 1 to 4 MiB, each
  32 MiB from Hopper on (pytorch/pytorch#120925), for two streams;
- allocator, 192 MiB: segments of 20 MiB, large blocks rounded up to 2 MiB
  (c10/cuda/CUDACachingAllocator.cpp); an estimate;
- display, 512 MiB: an estimate; desktops with and without a browser take 0.2 to 1.1 GB
  (ValveSoftware/steam-for-linux#9516). Where the card is here, what it really holds;
- Windows and WSL2, 5%: WDDM gives a process less than the card has, 7.60 of 8 GiB on an RTX 3070
  (Joakimpalm-Zen/xyntetik-runner#105), 60.8 of 64 GiB (ggml-org/llama.cpp#16832).

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.roofline.gpus import Gpu

MIB: Final = 2**20

CONTEXT: Final = 512 * MIB
WORKSPACE: Final = 64 * MIB
WORKSPACE_HOPPER: Final = 128 * MIB
ALLOCATOR: Final = 192 * MIB
DISPLAY: Final = 512 * MIB
WDDM_SHARE: Final = 0.05
WITH_DISPLAY: Final = frozenset({"consumer", "laptop", "workstation"})
"""Kinds of cards that drive a display, as far as nothing else is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Bytes of one device that no model can have."""

    context_bytes: int = CONTEXT
    workspace_bytes: int = WORKSPACE
    allocator_bytes: int = ALLOCATOR
    display_bytes: int = 0
    """The display and other programs."""
    system_bytes: int = 0
    """What the operating system keeps for others."""

    @property
    def total_bytes(self) -> int:
        return (
            self.context_bytes
            + self.workspace_bytes
            + self.allocator_bytes
            + self.display_bytes
            + self.system_bytes
        )


def reserve_of(gpu: Gpu | None, *, wddm: bool = False, used_bytes: int | None = None) -> Reserve:
    """The reserve of a card; `gpu` None: of one that is not catalogued, or of a CPU.

    `wddm`: whether Windows shares the card out, as it does to WSL2. `used_bytes`: what other
    programs hold on the card, where it is here and was asked.
    """
    if gpu is None:
        return Reserve(display_bytes=used_bytes or 0)
    shown = DISPLAY if gpu.kind in WITH_DISPLAY else 0
    hopper = tuple(map(int, (gpu.compute_capability or "0.0").split("."))) >= (9, 0)
    return Reserve(
        workspace_bytes=WORKSPACE_HOPPER if hopper else WORKSPACE,
        display_bytes=shown if used_bytes is None else used_bytes,
        system_bytes=int(WDDM_SHARE * gpu.vram_bytes) if wddm else 0,
    )
