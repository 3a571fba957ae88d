"""Attention of a step over a static cache: the kernel without a GPU, and how it is launched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.triton_kernels import BUILD, BUILD_ALL, kernels


@pytest.mark.parametrize("which", ["attention", "narrow", "new"])
@pytest.mark.parametrize("task", ["interpret", BUILD, BUILD_ALL])
def test_the_gpu_kernels_without_a_gpu(which: str, task: str, tmp_path: Path) -> None:
    kernels(which, task, tmp_path)


@pytest.mark.parametrize("task", [BUILD, BUILD_ALL])
def test_the_kernel_is_built_for_amds_chips(task: str, tmp_path: Path) -> None:
    kernels("attention-amd", task, tmp_path)


def test_programs_for_all_of_a_card() -> None:
    pytest.importorskip("triton")
    from bench.engines.graph.attention_kernels import splits_for

    # Llama 8B has 8 key heads, an H200 132 SMs: few rows are one program's, many are shared out.
    assert [splits_for(8, length, 132) for length in (256, 512, 2048, 32768)] == [1, 2, 8, 32]
    assert splits_for(8 * 64, 32768, 132) == 1  # a batch of 64 is programs enough
    assert splits_for(1, 1 << 20, 132) == 64
