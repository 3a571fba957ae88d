"""Which device a name stands for on this machine, asked of torch; imports it inside functions."""

from __future__ import annotations

from dataclasses import replace

from bench import schemes
from bench.errors import InputError, UnsupportedError
from bench.experiment.devices import index_of, kind_of, members, number_of, spelled_out


def make_current(device: str) -> None:
    """Have torch compute, wait and mark time on this device: others than the first by name alone
    hold tensors, while events and kernels of Triton go to the current one."""
    if index := index_of(device):
        import torch

        torch.accelerator.set_device_index(index)


def resolve_device(name: str) -> schemes.Device:
    """The device of that name, or several; `auto` is the accelerator if there is one, else the CPU.

    Raises InputError for a name that cannot be, UnsupportedError for one that is not here.
    """
    each = [_resolve_one(one) for one in members(spelled_out(name))]
    known = [one.capability for one in each if one.capability]
    sms = [one.n_sm for one in each if one.n_sm]
    archs = {one.arch for one in each}
    return schemes.Device(
        name="+".join(one.name for one in each),
        kind=each[0].kind,
        capability=min(known, default=None),  # a scheme must run on each
        n_sm=min(sms, default=None),
        arch=archs.pop() if len(archs) == 1 else None,
    )


def _resolve_one(name: str) -> schemes.Device:
    import torch

    accelerator = None
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
    if name == "auto":
        name = "cpu" if accelerator is None else accelerator.type
    kind, index = kind_of(name), number_of(name)
    if kind == "cpu" and not index:
        return schemes.Device(name="cpu", kind="cpu")
    count = torch.accelerator.device_count() if accelerator and accelerator.type == kind else 0
    if index and not index.isdecimal():
        raise InputError(f"unknown device '{name}'; known: auto, cpu, cuda:0, cuda:0+cuda:1, ...")
    if int(index or 0) >= count:
        there = ["cpu"]
        if accelerator is not None:
            there += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
        said = f"; torch says: {why}" if kind == "cuda" and (why := why_no_cuda()) else ""
        raise UnsupportedError(
            f"no device '{name}' on this machine; there is: {', '.join(there)}{said}"
        )
    found = schemes.Device(name=f"{kind}:{index or 0}", kind=kind)
    if kind != "cuda":
        return found
    card = torch.cuda.get_device_properties(int(index or 0))
    if torch.version.hip:  # its capability is the chip's number, its SMs are compute units
        return replace(found, arch=card.gcnArchName.partition(":")[0])
    return replace(found, capability=(card.major, card.minor), n_sm=int(card.multi_processor_count))


def why_no_cuda() -> str | None:
    """What torch says of a CUDA that it cannot use, in a line; None if it can."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # it has no types
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def resolve_dtype(name: str, device: schemes.Device) -> str:
    """The dtype of weights that are not quantized."""
    return device.dtype if name == "auto" else name
