"""A model's layers on several devices, one after the other (split `layer`).

transformers loads each weight onto its device by a device map. The hooks that accelerate adds for
it run before every linear layer, some thousand times a token, so they are taken off again, and only
the first layer on a device moves what it is given; masks and rotations are brought there once a
pass, for all layers that ask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.errors import UnsupportedError
from bench.experiment.devices import index_of, kind_of

Map = Mapping[str, str]
"""Module -> device."""


def layer_map(model: Any, devices: Sequence[str], shares: Sequence[float]) -> dict[str, str]:
    """Each device gets layers in their order, for its share of the bytes; the model may be `meta`.

    The embedding and what else comes before the layers goes to the first device, the final norm
    and the head to the last; a head that is the embedding stays with it. Raises UnsupportedError
    for a model of another form, or of fewer layers than devices.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    layers = getattr(decoder, "layers", None)
    if layers is None or getattr(decoder, "norm", None) is None or head is None:
        raise UnsupportedError(f"{type(model).__name__} cannot be spread: its layers are not known")
    if len(layers) < len(devices):
        raise UnsupportedError(f"{len(layers)} layers cannot be spread over {len(devices)} devices")
    name_of = {module: name for name, module in model.named_modules()}
    if all(child is not decoder for child in model.children()):
        raise UnsupportedError(
            f"{type(model).__name__} cannot be spread: it is more than a decoder"
        )
    tied = head.weight is model.get_input_embeddings().weight
    places = {
        name_of[module]: devices[0]
        for parent in (model, decoder)
        for module in parent.children()
        if module not in (decoder, layers, decoder.norm, head)
    }
    before = size(model) - sum(map(size, layers)) - (0 if tied else size(head))
    where = cut([size(layer) for layer in layers], shares, before, size(model))
    places |= {name_of[x]: devices[index] for x, index in zip(layers, where, strict=True)}
    places[name_of[decoder.norm]] = devices[-1]
    places[name_of[head]] = devices[0 if tied else -1]
    return places


def size(module: Any) -> int:
    """Bytes of a module's weights, those that are shared once."""
    return sum(p.numel() * p.element_size() for p in set(module.parameters()))


def cut(sizes: Sequence[int], shares: Sequence[float], before: int, total: int) -> list[int]:
    """The device of each layer: that in whose share of `total` bytes its middle lies.

    `before` bytes of the first device are taken already. Every device gets a layer.
    """
    ends = [sum(shares[: i + 1]) / sum(shares) * total for i in range(len(shares))]
    at = float(before)
    found: list[int] = []
    for number, one in enumerate(sizes):
        index = sum(end <= at + one / 2 for end in ends[:-1])
        # Not more than one device further on, and layers enough left for the devices to come.
        index = min(index, found[-1] + 1 if found else 0)
        found.append(max(index, len(shares) - (len(sizes) - number)))
        at += one
    return found


def memory_of(device: str) -> int:
    """All memory of an accelerator, for its share of the layers; 1 for what has no figure."""
    import torch

    read: Any = getattr(getattr(torch, kind_of(device), None), "mem_get_info", None)
    return 1 if read is None else int(read(device)[1])


def make_random(model: Any, places: Map) -> None:
    """Random weights for a `meta` model, each made where it will be used."""
    for name, device in places.items():
        model.get_submodule(name).to_empty(device=device)
    model.init_weights()


def shards(model: Any) -> Iterator[tuple[str, int]]:
    """Weights that are split over ranks, and what is shared out: rows, or columns."""
    for name, weight in model.named_parameters():
        for place in getattr(weight, "placements", ()):
            if (dim := getattr(place, "dim", None)) is not None:
                # Weights fused into one are each split.
                yield name, weight.shape[dim] // getattr(place, "split_factor", 1)


def uneven(model: Any, n: int) -> str | None:
    """A weight that is split over `n` ranks into parts of unlike sizes; None if there is none.

    Code compiled for one part is taken for another's, as the whole is the same.
    """
    return next((name for name, size in shards(model) if size % n), None)


def strip_hooks(model: Any) -> None:
    """Take off the hooks of accelerate that a device map brings."""
    from accelerate.hooks import (  # type: ignore[import-untyped]  # it has no stubs
        remove_hook_from_submodules,
    )

    remove_hook_from_submodules(model)


def check_places(model: Any, devices: Sequence[str]) -> None:
    """Refuse a model of which a part is elsewhere: on the host, on disk, or nowhere."""
    known = set(devices)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if wrong := [(name, t.device) for name, t in tensors if str(t.device) not in known]:
        name, where = wrong[0]
        raise UnsupportedError(
            f"{len(wrong)} tensors of the model are not on {' or '.join(devices)} "
            f"({name} is on {where}): it is not measured half on the host"
        )


def place(model: Any, places: Map, devices: Sequence[str]) -> None:
    """Let each module be given what it needs on its own device. May be called again."""
    head = model.get_output_embeddings()
    kept: dict[str, Kept] = {}
    for name, device in places.items():
        module = model.get_submodule(name)
        if (device != devices[0] or module is head) and not hasattr(module.forward, "placed_on"):
            begins = device not in kept
            there = kept.setdefault(device, Kept(device))
            module.forward = on_device(module.forward, there, begins=begins)


class Kept:
    """What was brought to a device in this pass."""

    def __init__(self, device: str) -> None:
        from torch import is_tensor

        self.device = device
        self._is_tensor = is_tensor
        self._pairs: list[tuple[Any, Any]] = []

    def bring(self, value: Any, *, keep: bool = True) -> Any:
        """The value with its tensors on the device; those kept are not moved again."""
        if type(value) in (tuple, list):
            return type(value)(self.bring(one, keep=keep) for one in value)
        if not self._is_tensor(value) or str(value.device) == self.device:
            return value
        for source, moved in self._pairs:
            if source is value:
                return moved
        moved = value.to(self.device, non_blocking=True)
        if keep:
            self._pairs.append((value, moved))
        return moved

    def forget(self) -> None:
        """A new pass begins."""
        self._pairs.clear()


def on_device(forward: Callable[..., Any], kept: Kept, *, begins: bool) -> Callable[..., Any]:
    """`forward` with its tensors brought to the device, which is torch's current one meanwhile.

    `begins`: whether it is the first of a pass on this device.
    """

    def placed(*args: Any, **options: Any) -> Any:
        if begins:
            kept.forget()
        with current(kept.device):
            moved = {name: kept.bring(value) for name, value in options.items()}
            # What is given by place is what layers hand on: no other asks for it.
            return forward(*(kept.bring(value, keep=False) for value in args), **moved)

    placed.placed_on = kept.device  # type: ignore[attr-defined]  # so that it is not wrapped twice
    return placed


def current(device: str) -> contextlib.AbstractContextManager[Any]:
    """Torch's current device meanwhile: kernels of Triton are launched there."""
    if device in ("cpu", "meta"):
        return contextlib.nullcontext()
    import torch

    return torch.accelerator.device_index(index_of(device))
