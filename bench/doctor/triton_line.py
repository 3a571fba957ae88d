"""One line of Triton, built and run on a device: a program of its own, started by the doctor.

    python -m bench.doctor.triton_line cuda:0       prints `ok`, or why not, in a line

Imports torch and triton when it is read, as a kernel's code needs them.
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl

from bench.toolchain import explained


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def add_one_kernel(x_ptr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # a kernel
    """x + 1, in place."""
    at = tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at) + 1)


def answer(device: str) -> str:
    """`ok` if the device counts up by a kernel that is built here and now, else why not."""
    try:
        x = torch.arange(16, dtype=torch.float32, device=device)
        add_one_kernel[(1,)](x, BLOCK=16)
        right = bool((x.cpu() == torch.arange(1.0, 17.0)).all())
    except Exception as error:  # whatever it is, the doctor says it
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        return explained(error) or f"{type(error).__name__}: {first.strip()}"
    return "ok" if right else "the kernel's result is wrong"


if __name__ == "__main__":
    sys.stdout.write(answer(sys.argv[1]) + "\n")
