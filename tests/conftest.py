"""Models that tests load: a tiny one made on the spot, and the embedded one."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    # Ignored in a suite that a shell runs in the background or under nohup, and so in what it runs.
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

BEGAN = time.monotonic()
COUNTS = os.environ.pop("TEST_COUNTS", None)
"""The file in which scripts/test collects a line of each pass; not for what tests start."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What became of a pass, in the words of pytest's last line."""
    if COUNTS is not None:
        parts, _ = terminalreporter.build_summary_stats_line()
        line = ", ".join(text for text, _ in parts)
        with Path(COUNTS).open("a", encoding="utf-8") as file:
            file.write(f"  {line} in {time.monotonic() - BEGAN:.0f} s\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Beside each other: files with slow tests first, then those with many, so that all processes
    end at about one time."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        size = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path not in slow, -size[item.path]))


TINY = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real llama of 2 layers with a tokenizer of bytes: a second to load, nothing to learn."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = AutoConfig.for_model(**TINY)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embedded_folder() -> Path:
    """SmolLM2-135M-Instruct, fetched and converted as for any user."""
    from bench.models import resolve_model
    from bench.models.weights import prepare

    folder = prepare(resolve_model("smollm2-135m-instruct"), print)
    assert folder is not None
    return folder


@pytest.fixture(scope="session")
def embedded_gguf() -> Path:
    """The file that SmolLM2-135M-Instruct comes as."""
    from bench.models import resolve_model
    from bench.models.weights import prepare_gguf

    return prepare_gguf(resolve_model("smollm2-135m-instruct"), print)
