"""Who is meant by a name in a foreign file: the scheme, the model's card, the card of a machine.

A file's name comes before the type that a tool gives: Q4_K_M, Q4_K_L and UD-Q4_K_XL all have type
`Q4_K - Medium`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from bench.errors import BenchError
from bench.models import load_card, model_cards
from bench.models.shapes import shape

SUFFIX: Final = r"(?:_(?:[0148]|XXS|XXL|XS|XL|NL|KSS|KS|KL|KT|K|S|M|L|R4|R8))+"
IN_FILE: Final = re.compile(
    rf"(?:^|[-_./ ])((?:UD[-_])?(?:I?Q\d{SUFFIX}|TQ\d_\d|MXFP4|NVFP4|BF16|FP16|F16|FP32|F32))"
    r"(?=$|[-_. ])",
    re.IGNORECASE,
)
"""A GGUF scheme in a file's name: `Qwen3-8B-UD-Q4_K_XL.gguf`."""

IN_TYPE: Final = re.compile(
    r"\b(?:(F32|F16|BF16)|((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4|NVFP4))"
    r"(?: - (Small|Medium|Large))?)\b"
)
"""The scheme in llama.cpp's words for a file's type: `llama 8B Q4_K - Medium`."""

IN_HUB_NAME: Final[Mapping[str, str]] = {
    r"(?:auto)?awq": "awq-int4",
    r"gptq[-_]?int8|gptq[-_]?8bit": "gptq-int8",
    r"(?:auto)?gptq": "gptq-int4",
    r"bnb[-_]?4bit": "bnb-nf4",
    r"bnb[-_]?8bit": "bnb-int8",
    r"nvfp4|fp4": "nvfp4",
    r"mxfp4": "mxfp4",
    r"fp8([-_]?dynamic)?": "fp8",
    r"w4a16": "w4a16",
    r"w8a16": "w8a16",
    r"w8a8": "w8a8",
    r"int4|4bit": "int4",
    r"int8|8bit": "int8",
}
"""A scheme in the name of a checkpoint on a hub; the first that fits."""

IN_CACHE: Final = re.compile(r"models--[^/]*?--([^/]+)/snapshots/\w+$")
"""A checkpoint in the hub's cache, whose folder is named by its commit."""
PART: Final = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
SIZE: Final = re.compile(r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)\s?([BM])(?![a-z])", re.IGNORECASE)
TALK: Final = re.compile(r"[-_](instruct|chat|it|hf|base|gguf|v\d(\.\d+)?)(?=$|[-_])")
ALIKE: Final = 0.06
"""Share by which a file's weights may differ in number from its model's card: heads that are
counted once or twice, layers that only predict further tokens."""
ROUGH: Final = 0.3
"""The same for the size in a name, `8B`."""


def scheme_in_file(name: str) -> str | None:
    """`q4_k_l` of `google_gemma-4-26B-A4B-it-Q4_K_L.gguf`; None where the name has none."""
    found = IN_FILE.findall(PART.sub("", base(name)))
    return plain_scheme(found[-1]) if found else None


def scheme_in_type(text: str) -> str | None:
    """`q4_k_m` of `llama 8B Q4_K - Medium`; None where no scheme is named."""
    found = None
    for match in IN_TYPE.finditer(text):
        found = match
    if found is None:
        return None
    if found[1]:
        return found[1].lower()
    size = f"_{found[3][0]}" if found[3] else ""
    return plain_scheme(f"{found[2]}{size}")


def scheme_in_hub_name(name: str) -> str | None:
    """The scheme of a checkpoint by its name: `Qwen3-27B-AWQ` is awq-int4; else a GGUF's."""
    words = base(name).lower()
    for pattern, scheme in IN_HUB_NAME.items():
        if re.search(rf"(?:^|[-_.])(?:{pattern})(?=$|[-_.])", words):
            return scheme
    return scheme_in_file(name)


def plain_scheme(name: str) -> str:
    """A scheme's name as ours are written: lower case, GGUF types with low lines."""
    text = name.strip().lower()
    text = {"fp16": "f16", "fp32": "f32"}.get(text, text)
    if found := re.fullmatch(r"(?:(ud)[-_])?(i?q\d.*)", text):
        text = (f"{found[1]}-" if found[1] else "") + found[2].replace("-", "_")
    return text


def family(scheme: str) -> str:
    """The type that llama.cpp gives to a mix: `q4_k` of q4_k_m, q4_k_l and ud_q4_k_xl."""
    found = re.fullmatch(r"(?:ud-)?(i?t?q\d(?:_k)?)(_\w+)?", plain_scheme(scheme))
    return found[1] if found and found[1].endswith("_k") else plain_scheme(scheme)


def bits(scheme: str) -> float | None:
    """Bits of one weight by the name alone, without scales; None where the name does not say."""
    name = plain_scheme(scheme)
    if name in ("none", "f16", "bf16", "float16", "bfloat16"):
        return 16.0
    if name in ("f32", "float32"):
        return 32.0
    if name in ("awq", "gptq", "awq-int4", "gptq-int4", "bnb-nf4"):
        return 4.0
    found = re.search(r"(?:i?t?q|int|fp|w|nf)(\d)", name)
    return float(found[1]) if found else None


def fits(scheme: str, size: float, n_params: float) -> bool | None:
    """Whether weights of that many bytes may be of a scheme, with its scales and what it leaves as
    it was; None where the scheme's name has no width."""
    width = bits(scheme)
    if width is None:
        return None
    return 0.9 * width <= 8 * size / n_params <= max(2.2 * width, width + 5)


def base(name: str) -> str:
    """A name without folders or an organisation, also as the hub's cache has them."""
    text = name.replace("\\", "/").rstrip("/")
    if cached := IN_CACHE.search(text):
        return cached[1]
    last = text.rsplit("/", 1)[-1]
    return last if last.lower().endswith(".gguf") else last.rpartition("--")[2] or last


def model_of_file(name: str) -> str:
    """The model of a GGUF file's name: without folder, part, ending and scheme."""
    stem = PART.sub("", base(name))
    found = list(IN_FILE.finditer(stem))
    if found and found[-1].start() > 0:
        stem = stem[: found[-1].start()] + stem[found[-1].end() :]
    return stem.strip("-_. ") or PART.sub("", base(name))


@cache
def weights_of(card: str) -> tuple[int, int] | None:
    """Weights of a card by number: a head shared with the embedding counted once, and twice."""
    path = model_cards().get(card)
    if path is None:
        return None
    try:
        known = shape(load_card(path))
    except BenchError:
        return None
    head = sum(m.n_params for m in known.matrices if m.part == "head" and known.tied)
    return known.n_params, known.n_params + head


def card_of(name: str, n_params: int | None = None) -> str | None:
    """The card whose shape a model has: by its number of weights, else by its name."""
    wanted = shape_name(name)
    for card in model_cards():
        known = weights_of(card)
        if known is None:
            continue
        if n_params and any(abs(n_params / each - 1) < 1e-4 for each in known):
            return card
        near = n_params is None or any(abs(n_params / each - 1) < ALIKE for each in known)
        if near and wanted == shape_name(card):
            return card
    return None


def shape_name(name: str) -> str:
    """A model's name without what does not change its shape."""
    text = base(name).lower().removeprefix("meta-")
    for pattern in IN_HUB_NAME:
        text = re.sub(rf"[-_](?:{pattern})(?=$|[-_])", "", text)
    while (shorter := TALK.sub("", text)) != text:
        text = shorter
    return re.sub(r"[^a-z0-9.]", "", text)


def against_card(card: str, name: str | None, n_params: int | None) -> str | None:
    """Why a model cannot be that of a file: the two sizes that disagree; None if it can."""
    known = weights_of(card.partition("@")[0])
    if known is None:
        return None
    if n_params:
        if any(abs(n_params / each - 1) < ALIKE for each in known):
            return None
        return (
            f"{card} has {known[0] / 1e9:.3g} B parameters, the file's model {n_params / 1e9:.3g} B"
        )
    said = size_in(name or "")
    if said is None or any(abs(said / each - 1) < ROUGH for each in known):
        return None
    return f"{card} has {known[0] / 1e9:.3g} B parameters, the file names {name}"


def size_in(name: str) -> float | None:
    """Weights by number, as a model's name has them: 8e9 of `Qwen3-8B`, 56e9 of `8x7B`."""
    found = SIZE.search(base(name).replace("_", "-"))
    if found is None:
        return None
    return float(found[1] or 1) * float(found[2]) * (1e9 if found[3].upper() == "B" else 1e6)


INTEGRATED: Final = re.compile(
    r"\b(ryzen|processor|core\(tm\)|uhd graphics|iris|llvmpipe|radeon(\(tm\))? graphics|"
    r"raphael\w*|raven\w*|renoir|cezanne|granite ridge|intel\(r\) graphics)\b",
    re.IGNORECASE,
)
"""A GPU inside a processor, which llama.cpp takes only where there is no other."""


def cards_used(present: Sequence[str]) -> list[str]:
    """The cards that llama.cpp takes by itself: all but integrated ones, if there are others."""
    alone = [name for name in present if not INTEGRATED.search(name)]
    return alone or list(present)[:1]


def same_card(one: str, other: str) -> bool:
    """Whether two names mean one card."""
    from bench.roofline.gpus import match

    known = match(one), match(other)
    if known[0] is not None and known[1] is not None:
        return known[0] == known[1]
    words = [set(re.findall(r"[a-z0-9]+", name.lower())) - VENDORS for name in (one, other)]
    if known != (None, None):
        return words[0] == words[1]
    return words[0] <= words[1] or words[1] <= words[0]


VENDORS: Final = frozenset({"nvidia", "geforce", "amd", "radeon", "instinct", "intel", "graphics"})
