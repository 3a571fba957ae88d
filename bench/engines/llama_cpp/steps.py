"""llama.cpp by single steps, through llama-cpp-python: its module of llama.h's own functions.

llama-cpp-python is compiled on the machine that installs it, so it uses this CPU's vector
instructions. A batch is n_batch sequences of one context: prefill is one `llama_decode` over all
prompts, a step one over the newest token of each. The next token is the argmax of the logits, on
the host, where llama.cpp's own samplers work too; reading the logits waits for the device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.engines.llama_cpp.common import (
    MOST_SEQUENCES,
    LlamaSettings,
    cannot_load,
    check_workload,
    describe,
    file_of,
    gpu_indices,
    gpu_layers,
    settings_of,
    shares,
    split_mode,
    threads_of,
)
from bench.engines.messages import Job, Loaded
from bench.errors import UnsupportedError
from bench.models.gguf import GgufFile
from bench.models.prompts import random_tokens
from bench.schemes.gguf import BY_NAME

FLASH_ATTENTION: Final = {"auto": -1, "off": 0, "on": 1}
"""`enum llama_flash_attn_type` of llama.h."""

Piece = tuple[int, int, int, bool]
"""A token of a batch: its number, position and sequence, and whether its logits are wanted."""


class Batch:
    """A `llama_batch` of pieces, made once and decoded many times."""

    def __init__(self, api: Any, pieces: Sequence[Piece]) -> None:
        self._api = api
        self.held = api.llama_batch_init(len(pieces), 0, 1)
        self.held.n_tokens = len(pieces)
        self.wanted = [i for i, piece in enumerate(pieces) if piece[3]]
        for i, (token, position, sequence, wanted) in enumerate(pieces):
            self.held.n_seq_id[i], self.held.seq_id[i][0] = 1, sequence
            self.held.logits[i] = wanted
            self.put(i, token, position)

    def put(self, i: int, token: int, position: int) -> None:
        """Another token, at another position, in place of piece `i`."""
        self.held.token[i], self.held.pos[i] = token, position

    def free(self) -> None:
        self._api.llama_batch_free(self.held)


class LlamaPythonEngine:
    """See `bench.engines.Engine`."""

    clock_device = "cpu"
    """Each step waits for its logits, so the host's clock sees all of it, on a GPU too."""
    most_sequences = MOST_SEQUENCES

    def __init__(self) -> None:
        self._api: Any = None
        self._model: Any = None
        self._vocab: Any = None
        self._context: Any = None
        self._job: Job | None = None
        self._file: GgufFile | None = None
        self._settings = LlamaSettings()
        self._prompts: list[list[int]] = []
        self._batches: list[Batch] = []
        """Of all prompts, then of the newest token of each sequence."""
        self._new: list[list[int]] = []

    def load(self, job: Job) -> Loaded:
        import llama_cpp

        self._api, self._job = llama_cpp.llama_cpp, job
        self._settings, self._file = settings_of(job.options), file_of(job)
        if job.device != "cpu" and not self._api.llama_supports_gpu_offload():
            raise UnsupportedError(
                f"llama-cpp-python was compiled without a GPU backend, so it cannot use "
                f"{job.device}; compile it with CMAKE_ARGS=-DGGML_CUDA=on"
            )
        self._api.llama_backend_init()
        params = self._api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers(self._settings, job.device)
        if gpus := gpu_indices(job.device):  # by default it is spread over all cards
            params.main_gpu = gpus[0]
            params.split_mode = self._split_mode(split_mode(job, self._settings))
            if len(gpus) > 1:
                count = self._api.llama_max_devices()
                # Held until the model is loaded: the parameters have its address alone.
                self._shares = (ctypes.c_float * count)(*shares(gpus, count))
                params.tensor_split = self._shares
        self._model = self._api.llama_model_load_from_file(str(job.gguf).encode(), params)
        if not self._model:
            raise cannot_load(self._file)
        self._vocab = self._api.llama_model_get_vocab(self._model)
        build = {
            "package": "llama-cpp-python",
            "version": llama_cpp.__version__,
            "system_info": self._api.llama_print_system_info().decode().strip(),
            "requests": "by single steps",
        }
        return describe(job, self._file, build)

    def _split_mode(self, split: str) -> int:
        mode = getattr(self._api, f"LLAMA_SPLIT_MODE_{split}", None)
        if mode is None:
            raise UnsupportedError(f"this llama-cpp-python does not know split = '{split.lower()}'")
        return int(mode)

    def _begin(self, prompts: list[list[int]], n_gen: int) -> None:
        """A context, and batches, for these prompts and as many new tokens of each."""
        self._open(len(prompts), max(map(len, prompts)) + n_gen)
        first = [
            (token, at, number, at == len(prompt) - 1)
            for number, prompt in enumerate(prompts)
            for at, token in enumerate(prompt)
        ]
        newest = [(0, 0, number, True) for number in range(len(prompts))]
        self._batches = [Batch(self._api, first), Batch(self._api, newest)]
        self._prompts = prompts
        self.reset()

    def _open(self, n_sequences: int, n_each: int) -> None:
        """A context for that many sequences of that many tokens."""
        assert self._job is not None
        self.close()
        params = self._api.llama_context_default_params()
        params.n_seq_max = n_sequences
        params.n_ctx = n_sequences * -(-n_each // 256) * 256
        params.n_batch, params.n_ubatch = params.n_ctx, self._settings.n_ubatch
        params.flash_attn_type = FLASH_ATTENTION[self._settings.flash_attn]
        # A build with a GPU backend would use it for large matrices and the cache even so.
        params.op_offload = params.offload_kqv = self._job.device != "cpu"
        params.type_k = tensor_type(self._settings.type_k)
        params.type_v = tensor_type(self._settings.type_v)
        params.n_threads = params.n_threads_batch = threads_of(self._job)
        self._context = self._api.llama_init_from_model(self._model, params)
        if not self._context:
            raise UnsupportedError("llama.cpp cannot make a context of that size", "OOM")

    def close(self) -> None:
        """Give the context's memory back, if there is one."""
        for batch in self._batches:
            batch.free()
        self._batches = []
        if self._context is not None:
            self._api.llama_free(self._context)
            self._context = None

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        assert self._job is not None
        check_workload(n_prompt + n_gen, self._api.llama_model_n_ctx_train(self._model), n_batch)
        vocabulary = self._api.llama_vocab_n_tokens(self._vocab)
        self._begin(random_tokens(self._job.seed, vocabulary, n_prompt, n_batch), n_gen)

    def set_prompt(self, tokens: Sequence[int]) -> None:
        """Use these tokens as the prompt of one sequence."""
        self._begin([list(tokens)], 256)

    def reset(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        self._new = [[] for _ in self._prompts]

    def prefill(self) -> None:
        self._choose(self._decode(self._batches[0]))

    def step(self) -> None:
        batch = self._batches[1]
        for number, (prompt, new) in enumerate(zip(self._prompts, self._new, strict=True)):
            batch.put(number, new[-1], len(prompt) + len(new) - 1)
        self._choose(self._decode(batch))

    def _choose(self, logits: Sequence[Any]) -> None:
        for new, row in zip(self._new, logits, strict=True):
            new.append(int(row.argmax()))

    def _decode(self, batch: Batch) -> list[Any]:
        """Logits [vocabulary] of the pieces that want them: views that the next call overwrites."""
        import numpy as np

        code = self._api.llama_decode(self._context, batch.held)
        if code != 0:
            raise UnsupportedError(f"llama_decode returned {code}", "OOM" if code == 1 else "CRASH")
        shape = (self._api.llama_vocab_n_tokens(self._vocab),)
        return [
            np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, i), shape=shape)
            for i in batch.wanted
        ]

    def rewind(self) -> None:
        memory = self._api.llama_get_memory(self._context)
        for number, prompt in enumerate(self._prompts):
            if not self._api.llama_memory_seq_rm(memory, number, len(prompt), -1):
                raise UnsupportedError("this model's cache cannot be rewound to the prompt's end")
        self._new = [new[:1] for new in self._new]

    def synchronize(self) -> None:
        if self._context is not None:
            self._api.llama_synchronize(self._context)

    def notes(self) -> Mapping[str, Any]:
        return {"context": self._api.llama_n_ctx(self._context)} if self._context else {}

    def tokens(self) -> list[list[int]]:
        return [list(new) for new in self._new]

    def log_probs(self, window: Sequence[int]) -> Any:
        import numpy as np

        self._open(1, len(window))
        batch = Batch(self._api, [(token, at, 0, True) for at, token in enumerate(window[:-1])])
        self._batches = [batch]
        rows = np.stack(self._decode(batch))
        for row in rows:
            most = row.max()
            row -= most + np.log(np.exp(row - most, dtype=np.float64).sum())
        return rows

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        made = (self._api.llama_token * (len(data) + 8))()
        count = self._api.llama_tokenize(
            self._vocab, data, len(data), made, len(made), False, False
        )
        if count < 0:
            raise UnsupportedError("llama.cpp cannot tokenize the text")
        return list(made[:count])

    def detokenize(self, tokens: Sequence[int]) -> str:
        import ctypes

        buffer = ctypes.create_string_buffer(512)
        pieces = []
        for token in tokens:
            size = self._api.llama_token_to_piece(self._vocab, token, buffer, 512, 0, True)
            pieces.append(buffer.raw[:size])
        return b"".join(pieces).decode(errors="replace")


def tensor_type(name: str) -> int:
    """Number of a type of the cache. Raises UnsupportedError for an unknown one."""
    if name not in BY_NAME:
        raise UnsupportedError(f"unknown type of the cache '{name}'; f16, q8_0, q4_0, ...")
    return BY_NAME[name].number
