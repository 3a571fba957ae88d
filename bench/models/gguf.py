"""What a GGUF file says of itself: its keys and its tensors' shapes. No weight is read.

Format: ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian. Values that are arrays
(the vocabulary, for one) are kept as their lengths. A model may be split into files NAME-00001-of-
0000N.gguf (llama.cpp, tools/gguf-split): the first has the keys, each its own tensors, and the
first one's name means all of them. Standard library only.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.errors import InputError, UnsupportedError
from bench.schemes import find
from bench.schemes.gguf import BY_NAME, FILE_TYPES, FLOATS, TENSOR_TYPES, WHOLE, WORDS

MAGIC: Final = b"GGUF"
PART: Final = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
"""End of the name of one file of several."""

SCALARS: Final = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One weight."""

    name: str
    n_elements: int
    type: str
    """Of TENSOR_TYPES, or `type 123` for one that is newer than this list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """Keys and tensors of one file, or of a model's several files together."""

    path: Path
    """Of several the first."""
    keys: Mapping[str, Any]
    """Scalars and strings; an array is its length."""
    tensors: tuple[Tensor, ...]
    weights_bytes: int
    """From the first weight to the end of each file, alignment included."""

    @property
    def file_type(self) -> str:
        """Name of the recipe, such as `q4_1`, by the file's own key and its tensors.

        A file that calls itself 16-bit and holds most weights in another type (gpt-oss in mxfp4) is
        named after that type; so is one that gives no recipe, or one that is not known.
        """
        stated = FILE_TYPES.get(self.keys.get("general.file_type", -1))
        if stated is None or (stated in FLOATS and self.quantized_fraction > 0.5):
            return next(iter(self.tensor_types))
        return stated

    @property
    def scheme(self) -> str:
        """The scheme's name of an arm that runs this file: `none` for one that is not quantized.

        llama.cpp numbers only its own recipes: a mix of others (`UD-Q4_K_XL`, `Q4_K_L`) carries the
        number of the nearest, so the file's name counts where the tensors are of as many bits.
        `Q3_K` is short for the file's q3_k_m. Raises UnsupportedError for weights that llama.cpp
        does not know: forks have types of their own, and give its numbers to recipes of their own.
        """
        most = next(iter(self.tensor_types))
        if most not in BY_NAME:
            raise UnsupportedError(
                f"{self.path}: most weights are of ggml's {most}, which is not known here: a fork "
                "of llama.cpp or another version has it"
            )
        if self.file_type in FLOATS:
            return "none"
        told: list[str] = WORDS.findall(self.path.name.lower())
        bits = {_digit(self.file_type), _digit(most)}
        named = [name for name in told if find(name) is not None and _digit(name) in bits]
        if not named or (named[-1].endswith("_k") and self.file_type.startswith(named[-1])):
            return self.file_type
        return named[-1]

    @property
    def mean_bits(self) -> float:
        """Bits a weight over the whole file, scales included, by the types of its tensors."""
        sizes = (t.n_elements * BY_NAME[t.type].bits for t in self.tensors if t.type in BY_NAME)
        known = sum(t.n_elements for t in self.tensors if t.type in BY_NAME)
        return sum(sizes) / known if known else 8 * self.weights_bytes / self.n_params

    @property
    def n_params(self) -> int:
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def quantized_fraction(self) -> float:
        """Share of the weights, by number, in a quantized type."""
        return sum(t.n_elements for t in self.tensors if t.type not in WHOLE) / self.n_params

    @property
    def tensor_types(self) -> dict[str, int]:
        """Weights by type, most first: how many bits each part was given."""
        elements: Counter[str] = Counter()
        for tensor in self.tensors:
            elements[tensor.type] += tensor.n_elements
        return dict(elements.most_common())

    def architecture(self) -> dict[str, Any]:
        """The keys of config.json that the file's own keys give. Raises InputError."""
        kind = self.keys.get("general.architecture")
        named = {
            "num_hidden_layers": f"{kind}.block_count",
            "hidden_size": f"{kind}.embedding_length",
            "intermediate_size": f"{kind}.feed_forward_length",
            "num_attention_heads": f"{kind}.attention.head_count",
            "num_key_value_heads": f"{kind}.attention.head_count_kv",
            "head_dim": f"{kind}.attention.key_length",
            "max_position_embeddings": f"{kind}.context_length",
            "vocab_size": "tokenizer.ggml.tokens",
        }
        found = {name: self.keys[key] for name, key in named.items() if key in self.keys}
        for name in ("num_hidden_layers", "hidden_size", "vocab_size"):
            if name not in found:
                raise InputError(f"{self.path}: no {named[name]} in it; is it a language model?")
        tied = all(tensor.name != "output.weight" for tensor in self.tensors)
        try:
            latent = _latent(kind, self.keys, self.tensors) if kind == "deepseek2" else {}
        except KeyError as key:
            raise InputError(f"{self.path}: no {key.args[0]} in it") from None
        return {"model_type": str(kind), **found, **latent, "tie_word_embeddings": tied}


LATENT: Final[Mapping[str, str]] = {
    "num_experts_per_tok": "{}.expert_used_count",
    "n_routed_experts": "{}.expert_count",
    "n_shared_experts": "{}.expert_shared_count",
    "moe_intermediate_size": "{}.expert_feed_forward_length",
    "first_k_dense_replace": "{}.leading_dense_block_count",
    "q_lora_rank": "{}.attention.q_lora_rank",
    "kv_lora_rank": "{}.attention.kv_lora_rank",
    "qk_rope_head_dim": "{}.rope.dimension_count",
}
"""Keys of config.json of a model with latent attention -> the file's."""


def _latent(kind: str, keys: Mapping[str, Any], tensors: Sequence[Tensor]) -> dict[str, Any]:
    """What a file of `deepseek2` says of latent attention, by the names of DeepseekV3Config.

    Files made before April 2025 lack the matrices by which llama.cpp computes on the latent: it
    then caches the keys and values of all heads (its pull request 12801).
    """
    old = not any(tensor.name.endswith(".attn_k_b.weight") for tensor in tensors)
    end = "" if old else "_mla"
    key, value = (keys[f"{kind}.attention.{name}_length{end}"] for name in ("key", "value"))
    named = {name: place.format(kind) for name, place in LATENT.items()}
    return {
        "q_lora_rank": None,
        **{name: keys[place] for name, place in named.items() if place in keys},
        "model_type": "deepseek_v3",
        "qk_nope_head_dim": key - keys[f"{kind}.rope.dimension_count"],
        "v_head_dim": value,
        "num_key_value_heads": keys[f"{kind}.attention.head_count"],
        "caches_heads": old,
    }


MOST_NESTED: Final = 8
"""Arrays within one another; files have one level."""


class _Cursor:
    """Reads values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def take(self, code: str) -> Any:
        size = struct.calcsize(f"<{code}")
        if self.at + size > len(self._data):
            raise ValueError("it ends within its header")
        (value,) = struct.unpack_from(f"<{code}", self._data, self.at)
        self.at += size
        return value

    def text(self) -> str:
        length = self.take("Q")
        if length > len(self._data) - self.at:
            raise ValueError("a string is longer than the file")
        self.at += length
        return self._data[self.at - length : self.at].decode(errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of that type; of an array its length."""
        if depth > MOST_NESTED:
            raise ValueError("nested too deeply")
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            if kind not in SCALARS:
                raise ValueError(f"a value has the unknown type {kind}")
            return self.take(SCALARS[kind])
        inner, length = self.take("I"), self.take("Q")
        if inner in SCALARS:
            self.at += length * struct.calcsize(SCALARS[inner])
        else:
            for _ in range(length):
                self.value(inner, depth + 1)
        return length


def _digit(recipe: str) -> str:
    """The first digit of a name: its bits, as in `iq4_xs` and `mxfp4`."""
    return next((sign for sign in recipe if sign.isdecimal()), "")


def _type_name(number: int) -> str:
    return TENSOR_TYPES[number].name if number in TENSOR_TYPES else f"type {number}"


def parts(path: Path) -> tuple[Path, ...]:
    """The files of a model, of which `path` is the first, or the only one.

    Raises InputError for another than the first of several.
    """
    found = PART.search(path.name)
    if found is None:
        return (path,)
    count = int(found["count"])
    if int(found["number"]) != 1:
        raise InputError(f"{path}: part {int(found['number'])} of {count}; name the first")
    stem = path.name[: found.start()]
    return tuple(path.with_name(f"{stem}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1))


def is_whole(path: Path) -> bool:
    """Whether all files of a model are there."""
    return all(part.is_file() for part in parts(path))


def read(path: Path, sizes: Mapping[str, int] | None = None) -> GgufFile:
    """Read the header of a file, or of all files of a model by its first.

    `sizes`: of files of which no more than the header is there, their bytes by name. Raises
    InputError for what is not a whole GGUF file, or a part that is missing.
    """
    each = [read_one(part, (sizes or {}).get(part.name)) for part in parts(path)]
    if len(each) == 1:
        return each[0]
    tensors = tuple(tensor for one in each for tensor in one.tensors)
    stated = each[0].keys.get("split.tensors.count", len(tensors))
    counts = {one.keys.get("split.count") for one in each}
    numbers = [one.keys.get("split.no") for one in each]
    if counts != {len(each)} or numbers != list(range(len(each))) or stated != len(tensors):
        raise InputError(f"{path}: its {len(each)} files are not the parts of one model")
    if not tensors:
        raise InputError(f"{path}: no weights in its {len(each)} files")
    return GgufFile(
        path=path,
        keys=each[0].keys,
        tensors=tensors,
        weights_bytes=sum(one.weights_bytes for one in each),
    )


def read_one(path: Path, size: int | None = None) -> GgufFile:
    """Read the header of one file alone, `size` bytes long where no more than that is there.

    The first of several may hold no weights. Raises InputError.
    """
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _parse(path, data, len(data) if size is None else size)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a readable GGUF file ({error})") from error


def _parse(path: Path, data: mmap.mmap, size: int) -> GgufFile:
    if data[:4] != MAGIC:
        raise ValueError("it does not begin with GGUF")
    cursor = _Cursor(data)
    cursor.at = 4
    version = cursor.take("I")
    if version not in (2, 3):
        raise ValueError(f"version {version} is not supported, only 2 and 3")
    n_tensors, n_keys = cursor.take("Q"), cursor.take("Q")
    keys = {}
    for _ in range(n_keys):
        name = cursor.text()
        keys[name] = cursor.value(cursor.take("I"))
    tensors, last = [], 0
    for _ in range(n_tensors):
        name, elements = cursor.text(), 1
        for _ in range(cursor.take("I")):
            elements *= cursor.take("Q")
        kind = cursor.take("I")
        tensors.append(Tensor(name=name, n_elements=elements, type=_type_name(kind)))
        last = max(last, cursor.take("Q"))
    alignment = max(int(keys.get("general.alignment", 32)), 1)
    start = -(-cursor.at // alignment) * alignment
    if not tensors and PART.search(path.name):  # the first of several may hold the keys alone
        return GgufFile(path=path, keys=keys, tensors=(), weights_bytes=0)
    if not tensors or start + last >= size:
        raise ValueError("it ends before its weights do")
    return GgufFile(path=path, keys=keys, tensors=tuple(tensors), weights_bytes=size - start)
