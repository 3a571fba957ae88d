"""Weights into a model, checked: the right class, every tensor from its file, nothing made up.

transformers fills a tensor that a folder does not hold with random numbers and logs it; a figure of
such a model is worth nothing. So what it reports is read, and a model that is not whole, is no
causal language model, or has an adapter beside it, is refused by name.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import schemes, toolchain
from bench.engines.messages import Job
from bench.errors import BenchError, InputError, UnsupportedError, is_out_of_memory
from bench.models import folders
from bench.quantization import streaming

FILES: Final[Mapping[str, Any]] = {
    "local_files_only": True,
    "use_safetensors": True,
    "trust_remote_code": False,
}
HEADS: Final = re.compile(r"(ForCausalLM\w*|LMHead\w*|ForConditionalGeneration\w*)$", re.IGNORECASE)
"""Ends of the names of classes that predict the next token."""

STEPS_BY: Final = "_supports_default_dynamic_cache"
"""What a model has that `generate()` steps token by token."""

SPARE: Final = re.compile(
    r"(^|\.)(mtp|mtp_\w+|nextn|eh_proj|enorm|hnorm|shared_head|rotary_emb|inv_freq|masked_bias|"
    r"attn\.bias|attention\.bias|vision\w*|visual|audio\w*|\w*projector|embed_vision|embed_audio|"
    r"position_ids)(\.|$)"
)
"""Tensors that a language model leaves out on purpose: multi-token heads, towers, constants."""

FEW: Final = 3
"""Names that are shown of many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in memory, and what is to be said of how it came there."""

    model: Any
    details: Mapping[str, Any] = field(default_factory=dict)
    made: streaming.Made | None = None
    """What was quantized while it was loaded; None: nothing yet."""


WHOLE_BYTES: Final = 2 << 30
"""Up to this size in floats a model is made whole before a scheme scales its activations, so that
its steps can be checked: afterwards they cannot (`self_check.PROMPT`)."""


def streamed(job: Job, auto: Any, config: Any, dtype: Any, device: str) -> LoadedModel | None:
    """The model quantized as it is loaded, a layer at a time, so that its floats are never all
    there; None for a small one that is better checked whole. Tensors that transformers renames or
    fuses go through the host's memory.

    A folder that was quantized before, or that only transformers can read onto a CPU, is loaded
    whole, for the scheme to be applied afterwards.
    """
    import torch

    if getattr(config, "quantization_config", None) is not None and job.folder is not None:
        return load(job.folder, auto, config, device_map={"": device}, dtype=dtype)
    pieces = None
    if job.folder is None:
        config.initializer_range = job.initializer_range
    with torch.device("meta"):
        model = auto.from_config(config, dtype=dtype)
    size = sum(one.numel() * one.element_size() for one in model.parameters())
    if schemes.scheme(job.quant).dynamic == "activations" and size <= WHOLE_BYTES:
        return None
    details: Mapping[str, Any] = {}
    if job.folder is not None:
        pieces = streaming.pieces(job.folder)
        if not streaming.matches(model, pieces):
            found = load(job.folder, auto, config, device_map={"": "cpu"}, dtype=dtype)
            if device == "cpu":
                return found
            model, details, pieces = found.model, found.details, None
    torch.manual_seed(job.random_seed)
    made = streaming.load(model.eval(), device, schemes.scheme(job.quant), pieces)
    return LoadedModel(model=made.model, details={**details, "loaded": "layer by layer"}, made=made)


def config_of(folder: Path | None, architecture: Mapping[str, Any]) -> Any:
    """The configuration as the library reads it. Raises InputError or UnsupportedError."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if folder is not None:
        folders.check(folder)
        kind = folders.config(folder).get("model_type")
    else:
        kind = architecture.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise UnsupportedError(unknown_type(kind))
    try:
        if folder is not None:
            return AutoConfig.from_pretrained(folder, local_files_only=True)
        apart = ("model_type", "quantization_config")  # made-up weights are floats
        rest = {name: value for name, value in architecture.items() if name not in apart}
        return AutoConfig.for_model(kind, **rest)
    except Exception as error:
        where = folder / "config.json" if folder is not None else f"model type {kind}"
        raise InputError(f"{where}: transformers cannot read it: {first_line(error)}") from error


def unknown_type(kind: Any) -> str:
    """Why a model type cannot be loaded."""
    import transformers

    return (
        f"model type '{kind}' is not one of transformers {transformers.__version__}; code from a "
        "model's folder is never run"
    )


def auto_class(config: Any, folder: Path | None) -> Any:
    """The class of transformers that makes this model a causal language model.

    Raises UnsupportedError for a model that is none, InputError for a folder of another head.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedError(f"model type '{kind}' is an encoder-decoder, not a decoder")
    known: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForImageTextToText)
    auto = next((one for one in known if type(config) in one._model_mapping), None)
    if auto is None:
        raise UnsupportedError(
            f"model type '{kind}' is not a causal language model in transformers"
        )
    written = list(getattr(config, "architectures", None) or ())
    made = auto._model_mapping[type(config)]
    classes = {one.__name__ for one in (made if isinstance(made, tuple) else (made,))}
    headless = not classes & set(written) and not any(HEADS.search(name) for name in written)
    if written and folder is not None and headless:
        raise InputError(
            f"{folder}/config.json: its weights are of {written[0]}, which has no head that "
            "predicts the next token"
        )
    return auto


@contextlib.contextmanager
def refusing(kind: str) -> Iterator[None]:
    """What a model cannot do in a step is refused in a line: it would fail each time."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        traceback.print_exception(error)
        if (why := toolchain.explained(error)) is not None:
            raise UnsupportedError(why, toolchain.CODE) from error
        raise UnsupportedError(
            f"{kind} cannot run one step here: {type(error).__name__}: {first_line(error)}"
        ) from error


def needs_more(model: Any) -> str | None:
    """What a model's pass needs beside tokens, so that it is no language model by itself."""
    found = inspect.signature(model.forward).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [one.name for one in found if one.kind in plain and one.default is one.empty]
    return next((name for name in needed if name != "input_ids"), None)


def on_meta(config: Any, auto: Any) -> Any:
    """The model without memory: its modules and their shapes."""
    import torch

    try:
        with torch.device("meta"):
            model = auto.from_config(config)
        if (more := needs_more(model)) is None and hasattr(model, STEPS_BY):
            return model
    except Exception as error:
        raise UnsupportedError(
            f"transformers cannot make a model of type '{config.model_type}' from this "
            f"configuration: {first_line(error)}"
        ) from error
    why = "does not generate token by token" if more is None else f"needs {more}"
    raise UnsupportedError(f"{type(model).__name__} {why}: it is not a plain language model")


def random(config: Any, auto: Any, dtype: Any, device: str) -> Any:
    """A model of random weights, made where they will be used, in their own dtype.

    Drawn in the order of `streaming`, so that a model quantized as it is made is the same.
    """
    import torch

    with torch.device("meta"):
        model = auto.from_config(config, dtype=dtype)
    for _ in streaming.placed(model, device, None):
        pass
    return model


def load(folder: Path, auto: Any, config: Any, **settings: Any) -> LoadedModel:
    """The model of a folder, its tensors checked. Raises InputError that names what is wrong."""
    try:
        model, info = auto.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **FILES, **settings
        )
    except (InputError, UnsupportedError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{folder}: cannot be loaded: {first_line(error)}") from error
    return LoadedModel(model=model, details=verified(folder, model, config, info))


def verified(folder: Path, model: Any, config: Any, info: Mapping[str, Any]) -> dict[str, Any]:
    """What was left out of the folder's tensors on purpose. Raises InputError for what was not."""
    kind = type(model).__name__
    if missing := sorted(info.get("missing_keys") or ()):
        raise InputError(
            f"{folder}: {len(missing)} tensors of {kind} are missing ({named(missing)}); "
            "transformers would fill them with random numbers"
        )
    if wrong := sorted(str(one[0]) for one in info.get("mismatched_keys") or ()):
        raise InputError(
            f"{folder}: {len(wrong)} tensors have other shapes than config.json says "
            f"({named(wrong)})"
        )
    if broken := info.get("conversion_errors") or info.get("error_msgs"):
        first = next(iter(broken.values() if isinstance(broken, dict) else broken), "")
        raise InputError(f"{folder}: tensors cannot be read: {str(first).splitlines()[0]}")
    extra = sorted(info.get("unexpected_keys") or ())
    if strange := [name for name in extra if not is_spare(name, config)]:
        raise InputError(
            f"{folder}: {len(strange)} tensors do not belong to {kind} ({named(strange)}): without "
            "them it would be a different model"
        )
    return {"left_out": {"count": len(extra), "tensors": extra[:FEW]}} if extra else {}


def is_spare(name: str, config: Any) -> bool:
    """Whether a language model goes without this tensor: also layers beyond its last."""
    if SPARE.search(name):
        return True
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    found = re.search(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.", name)
    return found is not None and n_layers is not None and int(found[1]) >= n_layers


def text_model_note(model: Any) -> dict[str, Any]:
    """What is said of a wrapper whose text model is stepped: what else of it holds weights."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None:
        return {}
    inside = {id(parameter) for parameter in decoder.parameters()}
    head = model.get_output_embeddings()
    inside |= {id(parameter) for parameter in (head.parameters() if head is not None else ())}
    other = [p for p in model.parameters() if id(p) not in inside]
    total = sum(p.numel() for p in model.parameters())
    size = sum(p.numel() for p in other)
    if size < total / 1000:
        return {}
    return {"text_model_of": type(model).__name__, "other_params": size}


def named(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")


def first_line(error: BaseException) -> str:
    """The first line of an error that says something; one that ends in a colon with its next."""
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    said = [line for line in lines if line][:2] or [type(error).__name__]
    return (" ".join(said) if said[0].endswith(":") else said[0])[:300]
