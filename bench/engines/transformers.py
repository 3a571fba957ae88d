"""Hugging Face transformers: prefill and decode as steps of our own, no `generate()`.

Decoding is bound by reading the weights once a token, prefill by arithmetic over the whole prompt;
they are separate calls here so that they can be timed apart. Greedy: the next token is the argmax,
chosen on the device, so that no step waits for the host. How a step is executed is its mode:
`bench.engines.decoding` (eager) and `bench.engines.static` (compiled, cuda-graph).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bench import quantization
from bench.engines import Job, Loaded, spec
from bench.engines.decoding import Decoder, Eager
from bench.engines.static import Static
from bench.errors import InputError, UnsupportedError, unknown


class TransformersEngine:
    """A causal language model with its own key-value cache. See `bench.engines.Engine`."""

    def __init__(self) -> None:
        self._model: Any = None
        self._tokenizer: Any = None
        self._prompt: Any = None
        self._decoder: Any = None
        self._inference: Any = None
        self._device = "cpu"
        self._folder: Any = None
        self._seed = 0

    def load(self, job: Job) -> Loaded:
        # Nothing here may reach for a model hub: weights were prepared before.
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch

        device = resolve_device(job.device)
        if job.mode not in spec("transformers").modes:
            raise InputError(unknown("mode", job.mode, spec("transformers").modes))
        if reason := quantization.refusal(job.quant, device, job.mode, job.dtype):
            raise UnsupportedError(reason)
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self._inference = torch.inference_mode
        dtype = resolve_dtype(job.dtype, device)
        model = self._weights(job, device, dtype).eval()
        self._device, self._folder, self._seed = device.name, job.folder, job.seed
        applied = quantization.apply(job.quant, model, device, self.tokenize)
        self._model = applied.model
        self._decoder = self._decoder_for(job)
        return self._describe(job, device, dtype, applied)

    def _decoder_for(self, job: Job) -> Decoder:
        if job.mode == "eager":
            if job.options:
                raise InputError(unknown("option of mode eager", next(iter(job.options)), ()))
            return Eager(self._model)
        with self._inference():
            return Static(self._model, job.options, graph=job.mode == "cuda-graph")

    def _weights(self, job: Job, device: quantization.Device, dtype: str) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        settings = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
        if job.folder is not None:
            return AutoModelForCausalLM.from_pretrained(
                job.folder, local_files_only=True, use_safetensors=True,
                trust_remote_code=False, device_map={"": device.name}, **settings,
            )  # fmt: skip
        architecture = dict(job.architecture)
        config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
        config.initializer_range = job.initializer_range
        torch.manual_seed(job.random_seed)
        with torch.device(device.name):  # made where they will be used, once, in their own dtype
            return AutoModelForCausalLM.from_config(config, **settings)

    def _describe(
        self, job: Job, device: quantization.Device, dtype: str, applied: quantization.Applied
    ) -> Loaded:
        import torch

        held = quantization.held(self._model)
        chosen = quantization.scheme(job.quant)
        return Loaded(
            device=device.name,
            dtype=dtype,
            n_params=held.n_params,
            weights_bytes=held.weights_bytes,
            quantized_fraction=held.quantized_fraction,
            dynamic=chosen.dynamic,
            kernel=applied.kernel,
            details={
                "attention": self._model.config._attn_implementation,
                "threads": torch.get_num_threads(),
                "weights": "random" if job.folder is None else "loaded",
                **applied.details,
            },
        )

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        import torch

        config = self._model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and n_prompt + n_gen > limit:
            raise UnsupportedError(
                f"{n_prompt} + {n_gen} tokens are more than the model's context of {limit}"
            )
        draw = torch.Generator().manual_seed(self._seed)
        prompt = torch.randint(0, config.vocab_size, (n_batch, n_prompt), generator=draw)
        self._prompt = prompt.to(self._device)
        with self._inference():
            first = self._model(input_ids=self._prompt, use_cache=False, logits_to_keep=1).logits
            if not bool(torch.isfinite(first).all()):
                raise UnsupportedError("the model's logits are not finite", "NONFINITE")
            self._decoder.start(self._prompt, n_gen)

    def set_prompt(self, tokens: Sequence[int]) -> None:
        """Use these tokens as the prompt of one sequence, eagerly: for a look at the text."""
        import torch

        self._prompt = torch.tensor([list(tokens)], device=self._device)
        self._decoder = Eager(self._model)
        self._decoder.start(self._prompt, 1)

    def notes(self) -> Mapping[str, Any]:
        return dict(self._decoder.notes)

    def reset(self) -> None:
        with self._inference():
            self._decoder.reset()

    def prefill(self) -> None:
        with self._inference():
            self._decoder.prefill()

    def step(self) -> None:
        with self._inference():
            self._decoder.step()

    def rewind(self) -> None:
        with self._inference():
            self._decoder.rewind()

    def synchronize(self) -> None:
        if self._device != "cpu":
            import torch

            torch.accelerator.synchronize()

    def tokens(self) -> list[list[int]]:
        result: list[list[int]] = self._decoder.tokens().tolist()
        return result

    def log_probs(self, window: Sequence[int]) -> Any:
        import torch

        tokens = torch.tensor([list(window)], device=self._device)
        with self._inference():
            logits = self._model(input_ids=tokens, use_cache=False).logits
            return torch.log_softmax(logits[0, :-1].float(), dim=-1).cpu()

    def tokenize(self, text: str) -> list[int]:
        result: list[int] = self._tokens().encode(text, add_special_tokens=False)
        return result

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self._tokens().decode(list(tokens)))

    def _tokens(self) -> Any:
        if self._folder is None:
            raise UnsupportedError("random weights have no tokenizer, so quality is not measured")
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
        return self._tokenizer


def resolve_device(name: str) -> quantization.Device:
    """The device of that name; `auto` is the accelerator if there is one, else the CPU."""
    import torch

    accelerator = None
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
    if name == "auto":
        name = "cpu" if accelerator is None else accelerator.type
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return quantization.Device(name="cpu", kind="cpu")
    count = torch.accelerator.device_count() if accelerator and accelerator.type == kind else 0
    if index and not index.isdecimal():
        raise InputError(f"unknown device '{name}'; known: auto, cpu, cuda:0, ...")
    if int(index or 0) >= count:
        there = ["cpu"]
        if accelerator is not None:
            there += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
        raise UnsupportedError(f"no device '{name}' on this machine; there is: {', '.join(there)}")
    capability = torch.cuda.get_device_capability(int(index or 0)) if kind == "cuda" else None
    return quantization.Device(name=f"{kind}:{index or 0}", kind=kind, capability=capability)


def resolve_dtype(name: str, device: quantization.Device) -> str:
    """The dtype of weights that are not quantized."""
    if name == "auto":
        return "float32" if device.kind == "cpu" else "bfloat16"
    return name
