"""Types of a key-value cache: what each engine calls them, what they take, and where they run.

An arm asks for one by its engine's own option: `kv_cache_dtype` of graph and vllm, `type_k` and
`type_v` of llama.cpp. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.errors import InputError, UnsupportedError, unknown
from bench.schemes.applied import FP8_NUMBERS
from bench.schemes.bytes import SHORT
from bench.schemes.row import Device

OPTION: Final = "kv_cache_dtype"
"""vLLM's word for it, and so ours."""
OF_LLAMA_CPP: Final = ("type_k", "type_v")
AUTO: Final = "auto"
"""The float dtype of the model."""
NARROW: Final = ("int8", "fp8")
"""What engine graph can hold a cache in, beside the model's dtype."""
ASKED: Final = (AUTO, *NARROW)

FP8_KINDS: Final = ("cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheType:
    """What a cache takes: bytes of one number, and of the scales beside it."""

    number_bytes: float
    head_bytes: int = 0
    """For each head's keys of a token, and again for its values."""


SIXTEEN: Final = CacheType(number_bytes=2.0)
TYPES: Final[Mapping[str, CacheType]] = {
    "float32": CacheType(number_bytes=4.0),
    "bfloat16": SIXTEEN,
    "float16": SIXTEEN,
    "f32": CacheType(number_bytes=4.0),
    "bf16": SIXTEEN,
    "f16": SIXTEEN,
    # A float32 scale for each head of a token.
    "int8": CacheType(number_bytes=1.0, head_bytes=4),
    "fp8": CacheType(number_bytes=1.0),
    "fp8_e4m3": CacheType(number_bytes=1.0),
    "fp8_e5m2": CacheType(number_bytes=1.0),
    # ggml's blocks of 32 numbers (ggml-common.h).
    "q8_0": CacheType(number_bytes=34 / 32),
    "q5_1": CacheType(number_bytes=24 / 32),
    "q5_0": CacheType(number_bytes=22 / 32),
    "q4_1": CacheType(number_bytes=20 / 32),
    "q4_0": CacheType(number_bytes=18 / 32),
    "iq4_nl": CacheType(number_bytes=18 / 32),
}


def asked(engine: str, options: Mapping[str, Any]) -> str:
    """The type of an arm's cache by its options: `auto`, `fp8`, `q8_0`; of keys and values that
    differ `q8_0/f16`."""
    if engine == "llama.cpp":
        keys, values = (str(options.get(name, "f16")).lower() for name in OF_LLAMA_CPP)
        both = keys if keys == values else f"{keys}/{values}"
        return AUTO if both == "f16" else both
    return str(options.get(OPTION, AUTO)).lower()


def type_of(name: str, dtype: str = AUTO) -> CacheType:
    """What a cache of that type takes. `dtype`: the float dtype that `auto` stands for, itself
    bfloat16 where it is `auto`. Raises UnsupportedError for a type whose bytes are not known."""
    meant = dtype if name == AUTO else name
    parts = ["bfloat16" if one == AUTO else SHORT.get(one, one) for one in meant.split("/")]
    for one in parts:
        if one not in TYPES:
            raise UnsupportedError(f"the bytes of a key-value cache of type '{one}' are not known")
    keys, values = TYPES[parts[0]], TYPES[parts[-1]]
    return CacheType(
        number_bytes=(keys.number_bytes + values.number_bytes) / 2,
        head_bytes=(keys.head_bytes + values.head_bytes) // 2,
    )


def check_stated(engine: str, options: Mapping[str, Any]) -> None:
    """Refuse options that say nothing of a cache, and types whose bytes are not known. Raises
    InputError."""
    names = OF_LLAMA_CPP if engine == "llama.cpp" else (OPTION,)
    for name, value in options.items():
        if name not in names:
            raise InputError(unknown(f"option of a prediction for {engine}", name, names))
        if str(value).lower() not in (AUTO, *TYPES):
            raise InputError(unknown(f"option {name}", str(value), (AUTO, *TYPES)))


def check(options: Mapping[str, Any]) -> str:
    """The type that an arm of engine graph asks for. Raises InputError for one that it has not."""
    found = options.get(OPTION, AUTO)
    if found not in ASKED:
        raise InputError(unknown(f"option {OPTION}", str(found), ASKED))
    return str(found)


def refusal(name: str, device: Device) -> str | None:
    """Why engine graph cannot hold its cache in that type on a device, or None."""
    if name != "fp8":
        return None
    if device.kind not in FP8_KINDS:
        return f"option {OPTION} = 'fp8' is for {' and '.join(FP8_KINDS)}, not for {device.name}"
    why = FP8_NUMBERS.refusal(device)
    return f"option {OPTION} = 'fp8' {why}" if why else None
