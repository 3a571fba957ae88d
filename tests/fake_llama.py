"""llama.h as llama-cpp-python shows it, of a model that knows one rule.

The next token is (newest + 1 + sequences seen before it) modulo the vocabulary, told through a
cache that forgets and goes back as llama.cpp's does. Only what `llama_cpp.steps` calls.
"""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

VOCABULARY = 49152
CONTEXT = 64


class Cache:
    """Positions held of each sequence."""

    def __init__(self) -> None:
        self.held: dict[int, list[int]] = {}


class LlamaH(ModuleType):
    """The module `llama_cpp.llama_cpp`."""

    llama_token = ctypes.c_int32
    LLAMA_SPLIT_MODE_NONE = 0
    LLAMA_SPLIT_MODE_LAYER = 1
    LLAMA_SPLIT_MODE_ROW = 2

    def __init__(self) -> None:
        super().__init__("llama_cpp.llama_cpp")
        self.has_gpu = False
        self.model_params: Any = None
        self.params: Any = None
        self.freed = self.batches = 0
        self.rows: dict[int, Any] = {}

    def llama_backend_init(self) -> None: ...

    def llama_supports_gpu_offload(self) -> bool:
        return self.has_gpu

    def llama_max_devices(self) -> int:
        return 4

    def llama_print_system_info(self) -> bytes:
        return b"CPU : AVX = 1 | AVX2 = 0 | "

    def llama_model_default_params(self) -> Any:
        return SimpleNamespace(n_gpu_layers=99)

    def llama_context_default_params(self) -> Any:
        return SimpleNamespace()

    def llama_model_load_from_file(self, path: bytes, params: Any) -> str | None:
        self.model_params = params
        return path.decode()

    def llama_model_get_vocab(self, model: str) -> str:
        return model

    def llama_model_n_ctx_train(self, model: str) -> int:
        return CONTEXT

    def llama_vocab_n_tokens(self, vocab: str) -> int:
        return VOCABULARY

    def llama_init_from_model(self, model: str, params: Any) -> Cache:
        self.params = params
        return Cache()

    def llama_n_ctx(self, context: Cache) -> int:
        return int(self.params.n_ctx)

    def llama_free(self, context: Cache) -> None:
        self.freed += 1

    def llama_get_memory(self, context: Cache) -> Cache:
        return context

    def llama_memory_clear(self, memory: Cache, data: bool) -> None:
        memory.held = {}

    def llama_memory_seq_rm(self, memory: Cache, sequence: int, first: int, last: int) -> bool:
        del memory.held[sequence][first:]
        return True

    def llama_synchronize(self, context: Cache) -> None: ...

    def llama_batch_init(self, n_tokens: int, embedding: int, n_seq_max: int) -> Any:
        self.batches += 1
        names = ("token", "pos", "logits", "n_seq_id")
        arrays: dict[str, Any] = {name: [0] * n_tokens for name in names}
        return SimpleNamespace(n_tokens=0, seq_id=[[0] for _ in range(n_tokens)], **arrays)

    def llama_batch_free(self, batch: Any) -> None:
        self.batches -= 1

    def llama_decode(self, context: Cache, batch: Any) -> int:
        if batch.n_tokens > self.params.n_batch:
            return 1
        self.rows = {}
        for i in range(batch.n_tokens):
            held = context.held.setdefault(batch.seq_id[i][0], [])
            assert batch.pos[i] == len(held), "positions follow one another"
            held.append(batch.token[i])
            if batch.logits[i]:
                row = np.zeros(VOCABULARY, np.float32)
                row[(batch.token[i] + len(held)) % VOCABULARY] = 5.0
                self.rows[i] = row
        return 0

    def llama_get_logits_ith(self, context: Cache, i: int) -> Any:
        return self.rows[i].ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def llama_tokenize(
        self, vocab: str, text: bytes, size: int, made: Any, room: int, add: bool, parse: bool
    ) -> int:
        assert not add
        assert not parse
        for i, byte in enumerate(text):
            made[i] = byte
        return len(text)

    def llama_token_to_piece(
        self, vocab: str, token: int, buffer: Any, room: int, strip: int, special: bool
    ) -> int:
        buffer[0] = bytes([token])
        return 1


def package() -> ModuleType:
    """The package `llama_cpp`."""
    made: Any = ModuleType("llama_cpp")
    made.__version__ = "0.3.0"
    made.llama_cpp = LlamaH()
    return made
