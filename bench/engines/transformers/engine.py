"""Hugging Face transformers: prefill and decode as steps of our own, no `generate()`.

Decoding is bound by reading the weights once a token, prefill by arithmetic over the whole prompt;
they are separate calls here so that they can be timed apart. Greedy: the next token is the argmax,
chosen on the device, so that no step waits for the host. Stock transformers in eager mode; this
project's own compiled steps and graphs on the same modules are the engine `graph`
(`bench.engines.graph.engine`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench import quantization, schemes
from bench.engines.messages import Job, Loaded
from bench.engines.registry import spec
from bench.engines.transformers import loading, placement, self_check, splitting
from bench.engines.transformers.eager import Decoder, Eager
from bench.engines.transformers.loading import LoadedModel
from bench.engines.transformers.ranks import Ranks, Seat, on_all_ranks
from bench.engines.transformers.resolving import make_current, resolve_device, resolve_dtype
from bench.engines.transformers.splitting import Split
from bench.errors import InputError, UnsupportedError, unknown
from bench.experiment.devices import kind_of
from bench.models import checkpoint
from bench.quantization import ready, streaming

SUMMED: Final = ("cache_bytes", "graph_bytes")
"""Notes that each rank has a part of."""


class TransformersEngine:
    """A causal language model with its own key-value cache. See `bench.engines.Engine`."""

    name = "transformers"
    """Of `bench.engines.registry.ENGINES`."""

    def __init__(self, seat: Seat | None = None) -> None:
        self.others: Ranks | None = None
        """The other processes that hold a part of each layer, where this one leads them."""
        self._seat = seat
        self._model: Any = None
        self._tokenizer: Any = None
        self._prompt: Any = None
        self._decoder: Any = None
        self._inference: Any = None
        self._device = "cpu"
        self._folder: Any = None
        self._seed = 0
        self._checked: Mapping[str, Any] = {}
        self._stays_plain = ExitStack()

    def load(self, job: Job) -> Loaded:
        # Nothing here may reach for a model hub: weights were prepared before.
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch

        device = resolve_device(job.device)
        split, options = splitting.split_of(job.options, device.name)
        if job.mode not in spec(self.name).modes:
            raise InputError(unknown("mode", job.mode, spec(self.name).modes))
        stated = ready.stated_in(job.folder)
        if reason := checkpoint.refusal(stated, job.quant, device, job.mode, job.dtype):
            raise UnsupportedError(reason)
        if reason := splitting.refusal_of(
            split, quant=job.quant, mode=job.mode, random=job.folder is None
        ):
            raise UnsupportedError(reason)
        self._check_options(options)
        if (threads := threads_of(job, split)) is not None:
            torch.set_num_threads(threads)
        self._inference = torch.inference_mode
        dtype = resolve_dtype(job.dtype, device)
        self._device, self._folder, self._seed = split.devices[0], job.folder, job.seed
        if split.how == "tensor":
            self._join(job, split)
        else:
            make_current(self._device)
        config = loading.config_of(job.folder, job.architecture)
        auto = loading.auto_class(config, job.folder)
        self._refuse(loading.on_meta(config, auto))
        found, places = self._weights(job, split, dtype, config, auto)
        model = found.model.eval()
        if places is not None:
            placement.place(model, places, split.devices)
        ready.keep_compressed(model, job.quant)
        self._check_float(model, job, dtype, whole=found.made is None)
        if (made := found.made) is not None:
            applied = quantization.watched(model, made.choice, made.shapes)
        else:
            applied = quantization.apply(job.quant, model, device, self.tokenize)
        self._model = applied.model
        if places is not None:  # a scheme may have put other modules in
            placement.place(self._model, places, split.devices)
        with self._inference():
            self._decoder = self._decoder_for(job, options)
        # What loading asked for at once, and quantizing has freed, is other programs' again.
        streaming.give_back(self._device)
        details = {**found.details, **loading.text_model_note(self._model)}
        return self._describe(job, device, dtype, applied, split, details)

    def _join(self, job: Job, split: Split) -> None:
        """Take this process's seat; the one that was not given any leads, and starts the others."""
        if self._seat is None:
            check_heads(job.folder, len(split.devices))
            self.others = Ranks(job, split.devices, self.name)
            self._seat = self.others.seat
        self._device = split.devices[self._seat.rank]
        self._seat.take()

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse an option, of those that are left, which the engine does not have."""
        splitting.check(options)

    def _decoder_for(self, job: Job, options: Mapping[str, Any]) -> Decoder:  # noqa: ARG002
        """What executes the steps, in inference mode."""
        return Eager(self._model)

    def _refuse(self, shape: Any) -> None:
        """Refuse a model that this engine cannot step, by its form (on the meta device)."""

    def _weights(
        self, job: Job, split: Split, dtype: str, config: Any, auto: Any
    ) -> tuple[LoadedModel, Mapping[str, str] | None]:
        """The model, each weight where it will be used; of layers on several devices, which is
        where. Which attention it has is transformers' own choice."""
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        kind = getattr(torch, dtype)
        settings: dict[str, Any] = {"dtype": kind}
        if split.how == "one" and streaming.streams(schemes.scheme(job.quant)):
            found = loading.streamed(job, auto, config, kind, self._device)
            if found is not None:
                return found, None
        settings |= ready.settings(job.quant, job.folder, resolve_device(job.device))
        if job.folder is not None and split.how == "one":
            device_map = {"": self._device}
            return loading.load(job.folder, auto, config, device_map=device_map, **settings), None
        if job.folder is not None and split.how == "tensor":
            model = self._tensor_parallel(job.folder, split, {**loading.FILES, **settings})
            if job.mode != "eager" and (name := placement.uneven(model, len(split.devices))):
                raise UnsupportedError(
                    f"mode {job.mode} needs parts of equal size: {name} does not divide by "
                    f"{len(split.devices)}"
                )
            return LoadedModel(model=model), None
        if job.folder is None:
            config.initializer_range = job.initializer_range
        torch.manual_seed(job.random_seed)
        if split.how == "one":
            return LoadedModel(model=loading.random(config, auto, kind, self._device)), None
        details: Mapping[str, Any] = {}
        with torch.device("meta"):
            model = auto.from_config(config, **settings)
        shares = [placement.memory_of(device) for device in split.devices]
        places = placement.layer_map(model, split.devices, shares)
        if job.folder is None:
            placement.make_random(model, places)
        else:
            found = loading.load(job.folder, auto, config, device_map=dict(places), **settings)
            model, details = found.model, found.details
            placement.strip_hooks(model)
        placement.check_places(model, split.devices)
        return LoadedModel(model=model, details=details), places

    def _tensor_parallel(self, folder: Path, split: Split, settings: Mapping[str, Any]) -> Any:
        """A part of each layer, by the plan that transformers has for the model."""
        from transformers import AutoModelForCausalLM
        from transformers.distributed import DistributedConfig

        parallel = DistributedConfig(tp_size=len(split.devices))
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, distributed_config=parallel, output_loading_info=True, **settings
            )
        except ValueError as error:  # transformers has no plan for this model
            raise UnsupportedError(f"this model cannot be split by tensor: {error}") from error
        if not any(placement.shards(model)):  # and does not say so before 5.2x
            raise UnsupportedError("this model cannot be split by tensor: there is no plan for it")
        loading.verified(folder, model, model.config, info)
        return model

    def _describe(
        self,
        job: Job,
        device: schemes.Device,
        dtype: str,
        applied: quantization.Applied,
        split: Split,
        details: Mapping[str, Any],
    ) -> Loaded:
        import torch

        held = quantization.held(self._model)
        weights_bytes = held.weights_bytes
        if self.others is not None:
            weights_bytes += sum(self.others.ask("weights_bytes"))
        spread = {"split": split.how, "ranks": len(split.devices)} if split.how != "one" else {}
        chosen = schemes.scheme(job.quant)
        return Loaded(
            device=device.name,
            dtype=dtype,
            n_params=held.n_params,
            weights_bytes=weights_bytes,
            quantized_fraction=held.quantized_fraction,
            dynamic=chosen.dynamic,
            kernel=applied.kernel,
            details={
                "attention": self._model.config._attn_implementation,
                "threads": torch.get_num_threads(),
                "weights": "random" if job.folder is None else "loaded",
                **details,
                **spread,
                **applied.details,
            },
        )

    @on_all_ranks
    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        import torch

        limit = self._context
        if limit is not None and n_prompt + n_gen > limit:
            raise UnsupportedError(
                f"{n_prompt} + {n_gen} tokens are more than the model's context of {limit}"
            )
        draw = torch.Generator().manual_seed(self._seed)
        prompt = torch.randint(0, self._vocabulary, (n_batch, n_prompt), generator=draw)
        self._prompt = prompt.to(self._device)
        with self._inference(), loading.refusing(type(self._model).__name__):
            self._decoder.start(self._prompt, n_gen)
            tolerance = self._tolerance(self_check.rows_of(self._prompt))
            self._checked = self._decoder.checked(self._full, tolerance).record()

    def _tolerance(self, prompt: Any) -> float:
        """What the logits of this arm's steps may differ by, as a share of their spread."""
        if self._scaled:
            return self_check.scaled_tolerance(self._full, prompt)
        return self_check.tolerance_for(self._dtype, self._full, prompt)

    def _full(self, tokens: Any, n: int) -> Any:
        """Logits of the last `n` places of a pass without a cache, as transformers computes it."""
        keep = {"logits_to_keep": n} if "logits_to_keep" in self._accepts else {}
        with self._decoder.plain():
            return self._model(input_ids=tokens, use_cache=False, **keep).logits[:, -n:]

    def _check_float(self, model: Any, job: Job, dtype: str, *, whole: bool = True) -> None:
        """Whether the model, before a scheme changes it, decodes what it computes.

        `whole`: whether it is there in floats; one that was quantized as it was loaded is not.
        """
        import torch

        self._model, self._decoder = model, Eager(model)
        self._accepts = inspect.signature(model.forward).parameters
        config = model.config.get_text_config()
        self._context = getattr(config, "max_position_embeddings", None)
        rows = model.get_input_embeddings().weight.shape[0]
        self._vocabulary = min(getattr(config, "vocab_size", None) or rows, rows)
        self._dtype, row = dtype, schemes.scheme(job.quant)
        self._scaled = row.dynamic == "activations"
        n = min(self_check.PROMPT, (self._context or self_check.PROMPT) - self_check.STEPS)
        draw = torch.Generator().manual_seed(self._seed)
        prompt = torch.randint(0, self._vocabulary, (1, max(n, 1)), generator=draw)
        prompt = prompt.to(self._device)
        with self._inference(), loading.refusing(type(model).__name__):
            if getattr(model, "hf_quantizer", None) is not None:
                self._full(prompt, 1)  # some formats unpack when they first compute
            elif self._scaled and self._seat is None and whole:
                self._decoder.start(prompt, 1)
                tolerance = self_check.tolerance_for(dtype, self._full, prompt)
                self._decoder.checked(self._full, tolerance)

    @on_all_ranks
    def set_prompt(self, tokens: Sequence[int]) -> None:
        """Use these tokens as the prompt of one sequence, eagerly: for a look at the text."""
        import torch

        self._prompt = torch.tensor([list(tokens)], device=self._device)
        self._stays_plain.enter_context(self._decoder.plain())
        self._decoder = self._eager()
        self._decoder.start(self._prompt, 1)

    def _eager(self) -> Eager:
        """What continues a given prompt."""
        return Eager(self._model)

    def _scored(self, tokens: Any) -> Any:
        """Logits of every place of a text, tokens [1, length]."""
        return self._full(tokens, tokens.shape[1])

    def notes(self) -> Mapping[str, Any]:
        found = {**self._decoder.notes, "self_check": self._checked}
        if chosen := quantization.tiles():
            found["tiles"] = chosen
        for name in SUMMED:
            if self.others is not None and name in found:
                found[name] += sum(self.others.ask(name))
        return found

    @on_all_ranks
    def reset(self) -> None:
        with self._inference():
            self._decoder.reset()

    @on_all_ranks
    def prefill(self) -> None:
        with self._inference():
            self._decoder.prefill()

    @on_all_ranks
    def step(self) -> None:
        with self._inference():
            self._decoder.step()

    def rewind(self) -> None:
        with self._inference():
            self._decoder.rewind()
        if self.others is not None:  # only now: a cache that cannot go back is no failed call
            self.others.tell("rewind")

    def synchronize(self) -> None:
        if self._device != "cpu":
            import torch

            torch.accelerator.synchronize()

    def tokens(self) -> list[list[int]]:
        result: list[list[int]] = self._decoder.tokens().tolist()
        return result

    @on_all_ranks
    def log_probs(self, window: Sequence[int]) -> Any:
        import torch

        if self._context is not None and len(window) > self._context:
            raise InputError(
                f"a window of {len(window)} tokens is more than the model's context of "
                f"{self._context}: give a smaller [quality] window"
            )
        if (highest := max(window)) >= self._vocabulary:
            raise InputError(
                f"the tokenizer makes token {highest}, and the model knows {self._vocabulary}: "
                "they do not belong to one model"
            )
        tokens = torch.tensor([list(window)], device=self._device)
        with self._inference():
            logits = self._scored(tokens)
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


def check_heads(folder: Path | None, n: int) -> None:
    """Refuse a model whose heads do not divide by `n` ranks. Raises UnsupportedError."""
    from transformers import AutoConfig

    shape = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    for name in ("num_attention_heads", "num_key_value_heads"):
        if (heads := getattr(shape, name, None) or n) % n:
            raise UnsupportedError(
                f"{name} = {heads} does not divide by {n}: this model cannot be split by tensor "
                "over so many"
            )


def threads_of(job: Job, split: Split) -> int | None:
    """CPU threads of this process, where they are stated or several processes share the cores."""
    if job.threads is not None or split.how != "tensor" or kind_of(split.devices[0]) != "cpu":
        return job.threads
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((usable or 1) // len(split.devices), 1)
