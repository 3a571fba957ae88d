"""One ONNX Runtime session over an exported decoder, and the state of one generation.

The graph takes the new tokens and the keys and values so far, and returns keys and values with the
new ones appended (it concatenates: each step copies the cache once, inside the graph). They are
bound as they came out, so that nothing leaves the runtime between two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.errors import UnsupportedError
from bench.experiment.devices import kind_of, number_of

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
KEPT: Final = "logits_to_keep"
EXTERNAL: Final = "session.optimized_model_external_initializers_file_name"


class OnnxSession:
    """A loaded graph. numpy and onnxruntime are imported when one is made."""

    def __init__(
        self, path: Path, *, device: str, threads: int | None = None, optimized: Path | None = None
    ) -> None:
        """Load `path`; `optimized` keeps the graph as the runtime has changed it for the device."""
        import numpy as np
        import onnxruntime

        self.np, self.ort = np, onnxruntime
        kind, index = kind_of(device), number_of(device)
        self.kind, self.index = kind, int(index or 0)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        if threads is not None:
            settings.intra_op_num_threads = threads
        if optimized is not None:
            settings.optimized_model_filepath = str(optimized)
            settings.add_session_config_entry(EXTERNAL, "weights")  # above 2 GB they must be
        wanted = PROVIDERS[kind]
        if wanted not in onnxruntime.get_available_providers():
            raise UnsupportedError(f"this build of ONNX Runtime has no {wanted}")
        if kind == "cuda":
            onnxruntime.preload_dlls()  # CUDA and cuDNN from the environment's own packages
        options = [{"device_id": self.index}] if kind == "cuda" else [{}]
        self._session = onnxruntime.InferenceSession(
            path, settings, providers=[wanted], provider_options=options
        )
        # A provider that cannot start is dropped by the runtime with a warning, for the CPU.
        self.providers: list[str] = self._session.get_providers()
        if self.providers[0] != wanted:
            raise UnsupportedError(f"{wanted} did not start: {', '.join(self.providers)} is left")
        inputs = {one.name: one for one in self._session.get_inputs()}
        self.takes = frozenset(inputs)
        self.past = [name for name in inputs if name.startswith("past_key_values.")]
        self.present = [name.replace("past_key_values.", "present.") for name in self.past]
        self._shapes = [inputs[name].shape for name in self.past]
        self._float = np.float16 if "float16" in inputs[self.past[0]].type else np.float32

    def value(self, array: Any) -> Any:
        """An array as a value of the runtime, on the session's device."""
        return self.ort.OrtValue.ortvalue_from_numpy(array, self.kind, self.index)

    def no_past(self, n_batch: int) -> list[Any]:
        """Keys and values of no tokens, for `n_batch` sequences."""
        return [
            self.value(self.np.zeros((n_batch, heads, 0, width), self._float))
            for _, heads, _, width in self._shapes
        ]

    def binding(self) -> Any:
        """A new binding of inputs and outputs to memory."""
        return self._session.io_binding()

    def run(self, binding: Any) -> list[Any]:
        """Run what is bound; outputs in the order in which they were bound.

        Returns when the device has done it. Raises MemoryError where memory could not be had.
        """
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the runtime has no exception of its own for this
            if "allocate memory" in str(error) or "out of memory" in str(error):
                raise MemoryError(str(error).strip().splitlines()[0]) from error
            raise
        outputs: list[Any] = binding.get_outputs()
        return outputs

    def logits(self, tokens: Any) -> Any:
        """Logits [batch, length, vocabulary], float32 on the host, of tokens [batch, length]."""
        binding, feed = self.binding(), Feed(self, tokens, 0)
        feed.prompt(binding, kept=tokens.shape[1])
        binding.bind_output("logits", self.kind, self.index)
        (found,) = self.run(binding)
        return found.numpy().astype(self.np.float32, copy=False)


class Feed:
    """The inputs of a workload: made once, on the device, and bound at each step.

    A mask of ones has the same bytes at every length, and the positions of one step stand in a
    row, so each step's mask and positions are parts of arrays that are there from the start. They
    are bound by their address: this must outlive every run of what it has bound.
    """

    def __init__(self, session: OnnxSession, tokens: Any, n_gen: int) -> None:
        np = session.np
        self._session = session
        self.n_batch, self.n_prompt = tokens.shape
        places = np.arange(self.n_prompt + n_gen, dtype=np.int64)
        self._tokens = session.value(np.ascontiguousarray(tokens, np.int64))
        self._ones = session.value(np.ones((self.n_batch, len(places)), np.int64))
        self._columns = session.value(np.tile(places[: self.n_prompt], (self.n_batch, 1)))
        self._rows = session.value(np.repeat(places[:, None], self.n_batch, axis=1))
        self._nothing = session.no_past(self.n_batch)

    def prompt(self, binding: Any, kept: int) -> None:
        """Bind the prompt, nothing before it; its last `kept` positions get logits."""
        session = self._session
        binding.bind_ortvalue_input("input_ids", self._tokens)
        self._bind(binding, "attention_mask", self.n_prompt, self._ones.data_ptr())
        self._bind(binding, "position_ids", self.n_prompt, self._columns.data_ptr())
        self._bind_past(binding, self._nothing)
        binding.bind_cpu_input(KEPT, session.np.array([kept], session.np.int64))

    def step(self, binding: Any, tokens: Any, past: Sequence[Any], length: int) -> None:
        """Bind one more token a sequence, `tokens` [batch, 1], after `length` tokens in `past`."""
        binding.bind_ortvalue_input("input_ids", tokens)
        self._bind(binding, "attention_mask", length + 1, self._ones.data_ptr())
        row = 8 * self.n_batch * length
        self._bind(binding, "position_ids", 1, self._rows.data_ptr() + row)
        self._bind_past(binding, past)

    def _bind_past(self, binding: Any, past: Sequence[Any]) -> None:
        for name, value in zip(self._session.past, past, strict=True):
            binding.bind_ortvalue_input(name, value)

    def _bind(self, binding: Any, name: str, width: int, pointer: int) -> None:
        """An input [batch, width] of 64-bit integers that is in the device's memory already."""
        session = self._session
        if name in session.takes:
            shape = (self.n_batch, width)
            binding.bind_input(name, session.kind, session.index, session.np.int64, shape, pointer)


def log_softmax(logits: Any) -> Any:
    """Natural logarithms of the softmax over the last axis, float32."""
    import numpy as np

    shifted = logits.astype(np.float32) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)).astype(
        np.float32
    )
