"""ONNX Runtime on a graph that Optimum exported and, for int8-dynamic, quantized.

The loop over tokens is ours, on the key-value cache that the graph returns. `bench.engines.
onnx_files` makes the files beforehand; this runs in the engine's own environment and needs numpy,
onnxruntime and tokenizers there, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.engines.messages import Job, Loaded
from bench.engines.onnxruntime.files import FACTS, MODEL, options
from bench.engines.onnxruntime.session import KEPT, Feed, OnnxSession, log_softmax
from bench.errors import UnsupportedError
from bench.models.prompts import random_tokens

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "optimum-onnx", "optimum", "onnx", "transformers")
"""Packages that made or run the graph."""


class OnnxRuntimeEngine:
    """A decoder in ONNX Runtime. See `bench.engines.Engine`."""

    clock_device = "cpu"
    """A step returns when the device has done it, so the host's clock times it."""

    def __init__(self) -> None:
        self._session: Any = None
        self._feed: Any = None
        self._prefilling: Any = None
        self._stepping: Any = None
        self._first: list[Any] = []
        self._cache: Sequence[Any] = ()
        self._new: list[Any] = []
        self._tokenizer: Any = None
        self._folder: Path | None = None
        self._config: Mapping[str, Any] = {}
        self._seed = 0

    def load(self, job: Job) -> Loaded:
        options(job.options)
        if job.folder is None or job.made is None:
            raise UnsupportedError("engine 'onnxruntime' loads an exported model")
        self._folder, self._seed = job.folder, job.seed
        self._config = json.loads((job.folder / "config.json").read_text(encoding="utf-8"))
        facts = json.loads((job.made / FACTS).read_text(encoding="utf-8"))
        device = "cuda:0" if job.device == "cuda" else job.device
        self._session = OnnxSession(job.made / MODEL, device=device, threads=job.threads)
        quantized = job.quant != "none"
        return Loaded(
            device=device,
            dtype=facts["dtype"],
            n_params=facts["n_params"],
            weights_bytes=facts["weights_bytes"],
            quantized_fraction=facts["quantized_fraction"],
            dynamic="activations" if quantized else None,
            kernel=kernel(facts["operators"]),
            details={
                "provider": self._session.providers[0],
                "providers": self._session.providers,
                "threads": job.threads or "ONNX Runtime's default: one a physical core",
                "weights": "loaded",
                "cache": "grows by concatenation in the graph",
                "packages": packages(),
                "onnx": facts,
            },
        )

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        limit = self._config.get("max_position_embeddings")
        if limit is not None and n_prompt + n_gen > limit:
            raise UnsupportedError(
                f"{n_prompt} + {n_gen} tokens are more than the model's context of {limit}"
            )
        vocabulary = self._config["vocab_size"]
        self._begin(random_tokens(self._seed, vocabulary, n_prompt, n_batch), n_gen)
        self._feed.prompt(self._prefilling, kept=1)
        self._prefilling.bind_output("logits", self._session.kind, self._session.index)
        logits = self._session.run(self._prefilling)[0].numpy()
        if not self._session.np.isfinite(logits).all():
            raise UnsupportedError("the model's logits are not finite", "NONFINITE")
        self._prefilling.clear_binding_outputs()
        self.reset()

    def set_prompt(self, tokens: Sequence[int]) -> None:
        """Use these tokens as the prompt of one sequence; it may be continued up to the context."""
        limit = self._config.get("max_position_embeddings", 4096)
        self._begin([list(tokens)], max(0, min(limit, 4096) - len(tokens)))

    def _begin(self, prompt: list[list[int]], n_gen: int) -> None:
        self._feed = Feed(self._session, self._session.np.array(prompt), n_gen)
        self._prefilling, self._stepping = self._session.binding(), self._session.binding()
        self._stepping.bind_cpu_input(KEPT, self._session.np.ones(1, "int64"))
        self.reset()

    def reset(self) -> None:
        self._first, self._cache, self._new = [], (), []

    def prefill(self) -> None:
        self._feed.prompt(self._prefilling, kept=1)
        self._run(self._prefilling)
        self._first = [*self._cache]

    def step(self) -> None:
        length = self._feed.n_prompt + len(self._new) - 1
        self._feed.step(self._stepping, self._new[-1], self._cache, length)
        self._run(self._stepping)

    def _run(self, binding: Any) -> None:
        """Run what is bound; outputs go to new memory, as their length is new at each step."""
        session = self._session
        for name in ("next_tokens", *session.present):
            binding.bind_output(name, session.kind, session.index)
        chosen, *self._cache = session.run(binding)
        self._new.append(chosen)

    def rewind(self) -> None:
        self._cache = self._first
        del self._new[1:]

    def synchronize(self) -> None:
        """Nothing runs after a step has returned."""

    def tokens(self) -> list[list[int]]:
        if not self._new:
            return [[] for _ in range(self._feed.n_batch)]
        made = self._session.np.concatenate([value.numpy() for value in self._new], axis=1)
        result: list[list[int]] = made.tolist()
        return result

    def notes(self) -> Mapping[str, Any]:
        """Nothing beyond what was said on loading."""
        return {}

    def log_probs(self, window: Sequence[int]) -> Any:
        tokens = self._session.np.array([list(window)])
        return log_softmax(self._session.logits(tokens)[0, :-1])

    def tokenize(self, text: str) -> list[int]:
        result: list[int] = self._tokens().encode(text, add_special_tokens=False).ids
        return result

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self._tokens().decode(list(tokens), skip_special_tokens=False))

    def _tokens(self) -> Any:
        """The tokenizer's own file, read as it is: older versions of transformers change it."""
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            assert self._folder is not None
            file = self._folder / "tokenizer.json"
            if not file.exists():
                raise UnsupportedError(f"{file}: no such file, so quality is not measured")
            self._tokenizer = Tokenizer.from_file(str(file))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        return self._tokenizer


def kernel(operators: Mapping[str, int]) -> str:
    """The operators that multiply, as the runtime has fused them."""
    found = [f"{count} {name}" for name, count in operators.items() if "MatMul" in name]
    return ", ".join(found)


def packages() -> dict[str, str]:
    """Versions of what can change a figure of this engine."""
    from importlib import metadata

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
