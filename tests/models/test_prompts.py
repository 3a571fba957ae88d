"""Prompts are the same with torch and without."""

from __future__ import annotations

import pytest
import torch

from bench.models.prompts import random_tokens


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32 - 1])
@pytest.mark.parametrize(("vocabulary", "n_prompt", "n_batch"), [(49152, 700, 1), (128256, 5, 3)])
def test_tokens_are_those_that_torch_draws(
    seed: int, vocabulary: int, n_prompt: int, n_batch: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    expected = torch.randint(0, vocabulary, (n_batch, n_prompt), generator=draw).tolist()
    assert random_tokens(seed, vocabulary, n_prompt, n_batch) == expected
