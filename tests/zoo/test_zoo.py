"""Every architecture of transformers: right, or refused with a reason; never wrong tokens.

A third of them, all that many people run among it, is tried each time; `-m zoo` tries all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bench.engines.transformers.counting import count
from bench.roofline.memory import cache_bytes
from bench.schemes.cache import type_of
from tests.zoo import configs, table
from tests.zoo.trial import N_BATCH, N_GEN, N_PROMPT, attempt

pytestmark = pytest.mark.filterwarnings("ignore")

POPULAR = (
    "bloom", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "ernie4_5", "exaone4", "falcon",
    "falcon_h1", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma4", "glm", "glm4", "glm4_moe",
    "gpt2", "gpt_neox", "gpt_oss", "granite", "granitemoe", "jamba", "lfm2", "llama", "llama4",
    "mamba", "mamba2", "minimax", "ministral", "mistral", "mistral3", "mixtral", "nemotron",
    "olmo2", "olmoe", "opt", "phi", "phi3", "qwen2", "qwen2_5_vl", "qwen2_moe", "qwen3",
    "qwen3_moe", "qwen3_next", "qwen3_5", "qwen3_vl", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
NAMES = configs.names()
THIRD = sorted({*POPULAR, *NAMES[::5]} & set(NAMES))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, torch_level = torch.get_num_threads(), torch.is_grad_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(torch_level)


NOT_COUNTED = ("biogpt", "git", "jetmoe")
"""Whose steps depend on values, which the meta device has none of; whose layers call themselves
not causal."""


def check(name: str, engine: str) -> None:
    found = attempt(name, engine)
    assert found.outcome != "wrong", found.why
    if engine == "transformers" and found.outcome == "right" and name not in NOT_COUNTED:
        counted = count(configs.tiny(name))  # so it can be planned, as large as it is
        assert found.cache_bytes == N_BATCH * cache_bytes(
            counted, N_PROMPT + N_GEN - 1, type_of("float32")
        )
    said = table.told().get(name, {}).get(engine)
    if said is not None:  # an architecture that came with a newer transformers has no row yet
        assert said.partition(":")[0] == found.outcome, f"docs/models.md: {said}; {found.why}"


@pytest.mark.parametrize("name", THIRD)
def test_a_third_with_all_that_many_run(name: str) -> None:
    check(name, "transformers")


@pytest.mark.parametrize("name", [name for name in POPULAR if name in NAMES])
def test_the_popular_ones_with_a_static_cache(name: str) -> None:
    check(name, "graph")


@pytest.mark.zoo
@pytest.mark.parametrize("engine", ["transformers", "graph"])
@pytest.mark.parametrize("name", NAMES)
def test_every_one(name: str, engine: str) -> None:
    check(name, engine)


def test_enough_are_right_and_none_is_wrong_by_the_table() -> None:
    told = table.told()
    assert len(told) >= 100
    for engine, least in (("transformers", 85), ("graph", 60)):
        said = [row[engine].partition(":")[0] for row in told.values()]
        assert said.count("right") >= least
        assert set(said) == {"right", "refused"}
