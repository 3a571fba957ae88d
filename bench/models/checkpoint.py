"""A folder that was quantized before it was published: which scheme its config.json states.

`quantization_config` is read before anything is loaded, so that an arm is named after what it
holds. What is not known is refused: never taken for floats. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.errors import UnsupportedError
from bench.models import Model
from bench.models.unstated import check_floats
from bench.schemes import DEQUANTIZED, Device, find, scheme

KEYS: Final = ("quantization_config", "compression_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a quantized folder says of itself."""

    scheme: str
    """Name of its row in `bench.schemes`."""
    method: str
    """`quant_method`, as the loader knows it."""
    left: tuple[str, ...] = ()
    """Modules that are not quantized, as the config names them: names, parts of names or `re:`."""
    only: tuple[str, ...] = ()
    """The modules that are quantized, where the config names these; empty: all that are linear."""


def checkpoint_of(model: Model) -> Checkpoint | None:
    """What the model's config says; None for a model in floats.

    Raises UnsupportedError, which names the folder, for a quantization that is not known.
    """
    try:
        found = stated(model.card.architecture)
        if found is None and model.path is not None and model.path.is_dir():
            check_floats(model.path)
    except UnsupportedError as error:
        raise UnsupportedError(f"model '{model.ref}': {error}") from None
    return found


DEQUANTIZING: Final = frozenset({"compressed-tensors", "fp8", "mxfp4"})
"""Methods whose loader in transformers turns the weights into floats if it is asked to."""


def refusal(
    found: Checkpoint | None, quant: str, device: Device, mode: str = "eager", dtype: str = "auto"
) -> str | None:
    """Why an arm of this scheme cannot run a model that is such a checkpoint; None: a float one."""
    row = scheme(quant)
    if found is None:
        if row.source == "checkpoint":
            return f"scheme '{quant}': the model is not stored in it; -m names a folder that is"
        return row.refusal(device, mode, dtype)
    floats = found.scheme + DEQUANTIZED
    if quant not in (found.scheme, floats) or (
        quant == floats and found.method not in DEQUANTIZING
    ):
        return (
            f"the model is quantized already, in '{found.scheme}': '{quant}' on top of it is not "
            "measured; remove -q"
        )
    if found.method == "quanto":
        return (
            f"scheme '{quant}': transformers cannot load a quanto checkpoint; "
            "use -q quanto-int8 on the unquantized model"
        )
    why = row.refusal(device, mode, dtype)
    if why and device.kind not in row.kinds and found.method in DEQUANTIZING:
        why += f"; -q {floats} measures it dequantized by its loader"
    return why


def base_of(folder: Path) -> str | None:
    """The model that a folder's README.md names as the one it was made from (`base_model`)."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    front = text.split("---")[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = re.search(r"^base_model:[ \t]*(?:\n[ \t]*-[ \t]*)?[\"']?([^\s\"'\[\]#]+)", front, re.M)
    return found[1] if found else None


def stated(config: Mapping[str, Any]) -> Checkpoint | None:
    """What a config.json states; None where it states no quantization."""
    nested = config.get("text_config")
    for table in (config, nested if isinstance(nested, Mapping) else {}):
        if table.get("quantization") is not None and not _names_method(table):
            raise UnsupportedError("config.json: 'quantization' is MLX's; no engine here loads it")
        for key in KEYS:
            if (found := table.get(key)) is not None:
                if isinstance(found, Mapping) and "expert_dtype" in table:  # DeepSeek V4's
                    found = {"expert_dtype": table["expert_dtype"], **found}
                return _of(found, key)
    for place in _elsewhere(config):
        raise UnsupportedError(
            f"config.json: {place}: no loader here reads a quantization that is stated there"
        )
    return None


def _names_method(table: Mapping[str, Any]) -> bool:
    """Whether a quantization_config has a method; MLX writes its `quantization` there once more."""
    return any(isinstance(table.get(k), Mapping) and "quant_method" in table[k] for k in KEYS)


def _elsewhere(table: Mapping[str, Any], at: str = "", depth: int = 4) -> Iterator[str]:
    """Where parts of a model (`llm_config`, `thinker_config.text_config`) state a quantization."""
    for name, part in table.items():
        if not isinstance(part, Mapping) or depth == 0:
            continue
        for key in KEYS:
            if part.get(key) is not None:
                yield f"{at}{name}.{key}"
        yield from _elsewhere(part, f"{at}{name}.", depth - 1)


def _of(table: Any, key: str) -> Checkpoint:
    if not isinstance(table, Mapping):
        raise UnsupportedError(
            f"config.json: {key}: expected a table with quant_method, found {_shown(table)}"
        )
    method = table.get("quant_method")
    if method is None and ("quant_algo" in table or "producer" in table):
        raise UnsupportedError(f"config.json: {key}: NVIDIA ModelOpt's; no engine here loads it")
    if method is None and (table.get("load_in_4bit") or table.get("load_in_8bit")):
        method = "bitsandbytes"
    if method is None and "config_groups" in table:
        method = "compressed-tensors"
    named = METHODS.get(method) if isinstance(method, str) else None
    if named is None:
        raise UnsupportedError(
            f"config.json: {key}: quant_method {_shown(method)} is not one that is measured here: "
            f"{', '.join(METHODS)}"
        )
    name = named(table)
    if find(name) is None:
        raise _unknown(str(method), name)
    left, only = tuple(_left(table)), tuple(_only(table, str(method)))
    return Checkpoint(scheme=name, method=str(method), left=left, only=only)


def _left(table: Mapping[str, Any]) -> Iterator[str]:
    """Modules that stay as they are. Raises UnsupportedError for what is not a list of names."""
    for key in ("ignore", "modules_to_not_convert", "llm_int8_skip_modules", "ignored_layers"):
        names = table.get(key)
        if names is None:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _wrong(key, names, "a list of names")
        yield from names
    if table.get("quant_method") == "gptq":
        yield from (f"re:.*{name}" for name in _excluding(table.get("dynamic")))


def _only(table: Mapping[str, Any], method: str) -> Iterator[str]:
    """The modules that are quantized, by name or `re:`. Nothing where all of a class are."""
    listed: Any = []
    if method == "gptq":
        key = "modules_in_block_to_quantize"
        listed = table.get(key) or []
    if method == "compressed-tensors":
        key, groups = "config_groups.targets", table["config_groups"].values()
        listed = [g if isinstance(g, list) else g.get("targets") or [] for g in groups]
    if not isinstance(listed, list):
        raise _wrong(key, listed, "a list of names")
    names = [name for part in listed for name in (part if isinstance(part, list) else [part])]
    if not all(isinstance(name, str) for name in names):
        raise _wrong(key, names, "names")
    if not any(name[:1].isupper() for name in names):  # a class, as `Linear`
        yield from names


def _bitsandbytes(table: Mapping[str, Any]) -> str:
    four, eight = (_truth(table, f"load_in_{bits}bit") for bits in (4, 8))
    if four == eight:
        raise UnsupportedError(
            "config.json: load_in_4bit and load_in_8bit: exactly one of them has to be true"
        )
    if eight:
        return "bnb-int8"
    kind = _word(table, "bnb_4bit_quant_type", "fp4")
    if kind not in ("nf4", "fp4"):
        raise _wrong("bnb_4bit_quant_type", kind, "nf4 or fp4")
    nested = _truth(table, "bnb_4bit_use_double_quant")
    return f"bnb-{kind}" + ("-nested" if nested else "")


def _fp8(table: Mapping[str, Any]) -> str:
    if _word(table, "fmt", "e4m3") != "e4m3":
        raise _wrong("fmt", table["fmt"], "e4m3")
    activations = _word(table, "activation_scheme", "dynamic")
    if activations not in ("dynamic", "static"):
        raise _wrong("activation_scheme", activations, "dynamic or static")
    if (experts := table.get("expert_dtype") or "fp8") != "fp8":
        raise _wrong("expert_dtype", experts, "fp8: experts in the format of the other layers")
    size = table.get("weight_block_size")
    if size is None:
        return "fp8-per-tensor" + ("-static" if activations == "static" else "")
    square = isinstance(size, list) and len(size) == 2 and size[0] == size[1]
    if not square or not _is_count(size[0]):
        raise _wrong("weight_block_size", size, "[128, 128] or another square")
    if activations == "static":
        raise _wrong("activation_scheme", activations, "dynamic, with weights in blocks")
    return f"fp8-block{size[0]}"


def _mxfp4(_: Mapping[str, Any]) -> str:
    return "mxfp4"


FORMATS: Final = ("gptq", "gptq_v2")
"""How GPTQ's weights are packed (`checkpoint_format`), as transformers loads them."""


def _gptq(table: Mapping[str, Any]) -> str:
    if (packed := table.get("checkpoint_format", "gptq")) not in FORMATS:
        raise _wrong("checkpoint_format", packed, " or ".join(FORMATS))
    if _truth(table, "lm_head"):
        raise _wrong("lm_head", "true", "false: the head in floats")
    _excluding(table.get("dynamic"))
    return f"gptq-int{_bits(table, (2, 3, 4, 8))}" + _group(table.get("group_size", 128))


def _excluding(rules: Any) -> list[str]:
    """The modules that GPTQModel's `dynamic` leaves in floats, `-:` before each pattern. Raises
    UnsupportedError for other bits of some modules, whose bytes and name would be wrong."""
    if not isinstance(rules, Mapping | None) or not all(isinstance(r, str) for r in rules or ()):
        raise _wrong("dynamic", rules, "a table of modules")
    for rule in rules or ():
        if not rule.startswith("-:"):
            raise _wrong("dynamic", f"{_shown(rule)} with bits of its own", "modules left out, -:")
    return [rule.removeprefix("-:") for rule in rules or ()]


def _awq(table: Mapping[str, Any]) -> str:
    bits = _bits(table, (4,), other="w_bit")
    return f"awq-int{bits}" + _group(table.get("group_size", table.get("q_group_size", 128)))


def _quanto(table: Mapping[str, Any]) -> str:
    if table.get("activations") is not None:
        raise _wrong("activations", table["activations"], "null: only weights are quantized")
    return f"quanto-{_word(table, 'weights', 'int8')}"


TORCHAO: Final[Mapping[str, str]] = {
    "Int8WeightOnlyConfig": "int8-weight-only",
    "Int8DynamicActivationInt8WeightConfig": "int8-dynamic",
    "Float8WeightOnlyConfig": "fp8-weight-only",
    "Float8DynamicActivationFloat8WeightConfig": "fp8-dynamic",
    "Int4WeightOnlyConfig": "int4-weight-only",
    "Int8DynamicActivationIntxWeightConfig": "int8-dynamic-intx",
    "IntxWeightOnlyConfig": "intx-weight-only",
    "FqnToConfig": "mixed",
    "ModuleFqnToConfig": "mixed",
}
"""torchao's configuration -> the end of the scheme's name."""


def _torchao(table: Mapping[str, Any]) -> str:
    stated = table.get("quant_type")
    while isinstance(stated, Mapping) and "_type" not in stated and len(stated) == 1:
        (stated,) = stated.values()  # {"default": {"_type": ...}}
    kind = stated.get("_type") if isinstance(stated, Mapping) else None
    if not isinstance(stated, Mapping) or not isinstance(kind, str) or kind not in TORCHAO:
        raise _wrong("quant_type", kind or stated, f"one of {', '.join(TORCHAO)}")
    data = stated.get("_data")
    name = TORCHAO[kind]
    if name == "fp8-dynamic" and "PerTensor" in json.dumps(data):
        name += "-tensor"
    group = data.get("group_size") if isinstance(data, Mapping) else None
    return f"torchao/{name}" + (_group(group) if name == "int4-weight-only" and group else "")


PRESETS: Final[Mapping[str, str]] = {
    "FP8_DYNAMIC": "fp8-dynamic",
    "FP8_BLOCK": "fp8-block-dynamic",
    "FP8": "fp8",
    "W8A8": "w8a8-dynamic",
    "INT8": "w8a8-dynamic",
    "W8A16": "w8a16",
    "W4A16": "w4a16-g128",
    "W4A16_ASYM": "w4a16-g128",
    "W4A8": "w4a8-dynamic-g128",
    "W4AFP8": "w4afp8-dynamic-g128",
    "NVFP4": "nvfp4",
    "NVFP4A16": "nvfp4a16",
    "MXFP4": "mxfp4",
    "MXFP4A16": "mxfp4a16",
}
"""compressed-tensors' own names of whole schemes -> the ends of ours."""


def _compressed(table: Mapping[str, Any]) -> str:
    sparsity = table.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") not in ("dense", None):
        raise _wrong("sparsity_config.format", sparsity["format"], "dense")
    if table.get("kv_cache_scheme") is not None:
        raise _wrong("kv_cache_scheme", "a table", "null: quantized caches are not measured")
    if table.get("transform_config"):
        raise _wrong("transform_config", "a transform", "none: rotated weights are not measured")
    if _word(table, "quantization_status", "compressed") != "compressed":
        status = table["quantization_status"]
        raise _wrong("quantization_status", status, "compressed: others are loaded as floats")
    groups = table.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _wrong("config_groups", groups, "a table of groups")
    names = dict.fromkeys(_of_group(key, group) for key, group in groups.items())
    return "compressed-tensors/" + (next(iter(names)) if len(names) == 1 else "mixed")


def _of_group(key: str, group: Any) -> str:
    if isinstance(group, list) and key in PRESETS:
        return PRESETS[key]
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise _wrong(f"config_groups.{key}.weights", weights, "a table")
    if group.get("output_activations") is not None:
        raise _wrong(f"config_groups.{key}.output_activations", "a table", "null")
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    act = group.get("input_activations")
    if act is not None and not isinstance(act, Mapping):
        raise _wrong(f"config_groups.{key}.input_activations", act, "a table or null")
    how = weights.get("strategy")
    size = weights.get("group_size")
    if how == "group" or (how is None and size):
        end = _group(size)
    elif how in ("channel", "tensor", None) and (bits, kind) != (8, "float"):
        end = "-channel" if bits == 4 else ""
    else:
        end = ""
    name = _form(bits, kind, act, how, size)
    if name is None:
        raise _unknown("compressed-tensors", f"{_shown(bits)} bits {_shown(kind)}, {_shown(how)}")
    return name if name.startswith(("fp8", "nvfp4", "mxfp4")) else name + end


def _form(bits: Any, kind: Any, act: Mapping[str, Any] | None, how: Any, size: Any) -> str | None:
    """Name of weights of so many bits with such activations, without the group."""
    dynamic = act is not None and act.get("dynamic") in (True, "local")
    inner = None if act is None else (act.get("num_bits"), act.get("type", "int"))
    match (bits, kind, inner):
        case (8, "float", _) if how in ("group", "tensor_group"):
            return None  # MXFP8 and its like
        case (8, "float", None):
            return "fp8-weight-only"
        case (8, "float", (8, "float")):
            blocks = "-block-dynamic" if how == "block" else "-dynamic"
            return "fp8" + (blocks if dynamic else "")
        case (8, "int", (8, "int")) if how != "group":
            return "w8a8-dynamic" if dynamic else "w8a8"
        case (8, "int", None):
            return "w8a16"
        case (4, "int", None):
            return "w4a16"
        case (4, "int", (8, "int")) if dynamic:
            return "w4a8-dynamic"
        case (4, "int", (8, "float")) if dynamic:
            return "w4afp8-dynamic"
        case (4, "float", None) if size in (16, 32):
            return "nvfp4a16" if size == 16 else "mxfp4a16"
        case (4, "float", (4, "float")) if dynamic and size in (16, 32):
            return "nvfp4" if size == 16 else "mxfp4"
    return None


METHODS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
    "torchao": _torchao,
    "gptq": _gptq,
    "awq": _awq,
    "mxfp4": _mxfp4,
    "quanto": _quanto,
}
"""`quant_method` -> the scheme that the rest of the table states."""


def _bits(table: Mapping[str, Any], known: Sequence[int], other: str = "") -> int:
    bits = table.get("bits", table.get(other))
    if not isinstance(bits, int) or isinstance(bits, bool) or bits not in known:
        raise _wrong("bits", bits, " or ".join(map(str, known)))
    return bits


def _group(size: Any) -> str:
    if size == -1 and not isinstance(size, bool):
        return "-channel"
    if not _is_count(size):
        raise _wrong("group_size", size, "a whole number, or -1 for a whole row")
    return f"-g{size}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**20


def _truth(table: Mapping[str, Any], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _word(table: Mapping[str, Any], key: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise _wrong(key, value, "a word")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _wrong(key: str, found: Any, expected: str) -> UnsupportedError:
    shown = found if isinstance(found, str) else _shown(found)
    return UnsupportedError(
        f"config.json: quantization_config.{key}: {shown} is not measured here; expected {expected}"
    )


def _unknown(method: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"config.json: quantization_config: {method}: {what} is not a scheme that is measured here"
    )
