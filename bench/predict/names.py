"""What a user asks `bench predict` for, in the words of the published rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final

from bench.errors import InputError, UnsupportedError, unknown
from bench.models import ModelCard, gguf, hub, load_card, model_cards
from bench.models.checkpoint import stated
from bench.models.shapes import shape
from bench.predict.artefact import shipped
from bench.predict.placement import Spilled
from bench.predict.published import card, ollama_of, sized
from bench.predict.terms import LIKE, Build
from bench.roofline.memory import OFFLOADING
from bench.schemes import find, meant
from bench.schemes.bytes import held
from bench.schemes.gguf import WORDS

ON_LLAMA_CPP: Final = frozenset({"ollama", "lm-studio", "koboldcpp"})
"""What is built on llama.cpp."""
SPELLED: Final = {
    "lmstudio": "lm-studio",
    "llamaserver": "llama.cpp",
    "llamacli": "llama.cpp",
    "llamabench": "llama.cpp",
    "llamacpppython": "llama.cpp",
    "trtllm": "tensorrt-llm",
    "tensorrt": "tensorrt-llm",
    "hf": "transformers",
    "huggingface": "transformers",
    "mlxlm": "mlx",
    "ikllama": "ik_llama.cpp",
}
"""Letters and digits of what users call an engine -> its name."""
TODAY: Final = "2026-12"
"""The age of an Ollama whose version is not said."""


HOSTS: Final = ("hf.co/", "huggingface.co/")
"""What Ollama's names of the hub's models begin with."""


def left_on_host(said: Spilled | None, engines: Sequence[str]) -> Spilled | None:
    """What was said to stay on the host, else what these engines leave there.

    InputError for an engine that leaves nothing there.
    """
    if said is None:
        whole = all(_leaves_layers(name) for name in engines)
        return Spilled(part="layers") if whole else None
    if others := {engine_for(name) for name in engines} - OFFLOADING:
        raise InputError(f"--on-host: {sorted(others)[0]} leaves nothing on the host")
    return said


def _leaves_layers(name: str) -> bool:
    """Whether an engine leaves whole layers on the host, not experts first as llama.cpp does."""
    if _plain(name) == "ollama":
        return build_of(name).ollama == "own"
    return _plain(name) in ON_LLAMA_CPP


def build_of(name: str) -> Build:
    """What a user's name of an engine says of its build: `ollama-0.24`, `llama.cpp-vulkan`."""
    said = name.strip().lower()
    if said.endswith("-vulkan"):
        return Build(backend="vulkan")
    if said.endswith("-rocm"):
        return Build(backend="rocm")
    ollama = ollama_of(said, TODAY)
    return Build(ollama=ollama, fused=ollama != "own")


NAMED: Final = re.compile(r"(ollama)-v?\d+\.\d+[.\w]*|(llama\.?cpp)-(?:vulkan|rocm|cuda|metal)")
"""Engines with what is said of their build behind them."""


def _plain(name: str) -> str:
    """The name of the engine that a user means, without what it says of its build."""
    said = name.strip().lower()
    if found := NAMED.fullmatch(said):
        said = found[1] or found[2]
    return {**{_letters(one): one for one in _engines()}, **SPELLED}.get(_letters(said), said)


def engine_for(name: str) -> str:
    """The engine's name in lower case. InputError for one that is nearly an engine's name."""
    plain = _plain(name)
    if not plain:
        raise InputError(f"engine: empty; known: {', '.join(sorted(_engines()))}")
    if plain not in _engines() and _misspelt(plain):
        raise InputError(unknown("engine", plain, _engines()))
    return "llama.cpp" if plain in ON_LLAMA_CPP else plain


@cache
def _engines() -> frozenset[str]:
    """Engines that the fit has rows of, or whose kernels another has."""
    return frozenset({*shipped().seen.kernels, *LIKE, *ON_LLAMA_CPP})


def _misspelt(engine: str) -> bool:
    """Whether a name is a known one with a slip or an addition: `vlllm`, `llama.cpp-sycl`.

    Another number makes another engine: `exllamav3` is one that nobody measured.
    """
    words = {re.sub(r"\d", "", _letters(one)) for one in _engines()}
    said = re.sub(r"\d", "", _letters(engine))
    added = any(engine.startswith((f"{one}-", f"{one} ", f"{one}_")) for one in _engines())
    return added or (said not in words and bool(get_close_matches(said, words, n=1, cutoff=0.8)))


TUNED: Final = re.compile(
    r"(?:[-:](?:it|chat|latest|qat|reasoning|base|hf|pt|v0\.\d|\d{4}|"
    r"(?:instruct|thinking)(?:-\d{4})?))+$"
)
"""What names of fine-tuned models end with: the shape is the same."""
FILE: Final = re.compile(r"(?:-\d{5}-of-\d{5})?\.gguf$|[-_.](?:gguf|bf16|fp?16)$")
"""Ends of files and of folders of files."""
VENDOR: Final = re.compile(r"(?:(?:meta|nvidia|google|openai|microsoft)-|[a-z0-9.-]+_)(?=[a-z])")
"""A maker before the model: `Meta-Llama-3.1-8B`, `google_gemma-3-27b-it`."""
NOTHING: Final = re.compile(r"$")
ACTIVE: Final = re.compile(r"-a\d+b$")
SIZE: Final = re.compile(r"(?:-mini)?(?:-[\d.]+b)?(?:-a\d+b)?$")
"""Ends of the catalog's names that others leave out."""
STATED_SIZE: Final = re.compile(r"(.+?)[-:]([\d.]+)b")
"""A name and billions of parameters, which the catalog's name may leave out: `phi4:14b`."""


def catalogued(name: str) -> str:
    """The catalog's name of a model in other spelling: `gpt-oss:20b`, `Qwen3-8B-Q4_K_M.gguf`.

    What is here by that name, or of no single card, is returned as it is; so is a name of the hub
    that was looked up, or whose model the catalog does not have.
    """
    if name in model_cards() or "@" in name or _is_here(name):
        return name
    said = _without_recipe(name)
    for spelt in (said, TUNED.sub("", said), TUNED.sub("", VENDOR.sub("", said, count=1))):
        if found := _card_called(spelt):
            return found
    return name


def in_its_scheme(model: ModelCard, name: str) -> ModelCard:
    """The card, published in the recipe of a GGUF file, or in the one that a name states.

    `Qwen3-8B-Q4_K_M.gguf` is of `q4_k_m`; of a file that is here its tensors decide.
    """
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        scheme = gguf.read(path).scheme
        recipe = None if scheme == "none" else scheme
    else:
        recipe = None if path.exists() else recipe_in(name)
    return replace(model, published_in=recipe) if recipe else model


def recipe_in(name: str) -> str | None:
    """GGUF's recipe in the name of a file or in a tag, the last one."""
    known = [word for word in WORDS.findall(name.lower()) if find(word) is not None]
    return known[-1] if known else None


def _is_here(name: str) -> bool:
    """Whether a name is a path that is there, or one of the hub that was looked up."""
    ref = hub.parse(name)
    path = "/" in name and ref is None and not name.startswith(HOSTS)
    return path or Path(name).exists() or (ref is not None and hub.known(ref) is not None)


def _without_recipe(name: str) -> str:
    """A name in lower case without owner, recipe and the ends of files."""
    plain = name.lower().rpartition("/")[2]
    if plain.endswith(".gguf"):
        plain = plain.rpartition(":")[2]
    recipe = recipe_in(plain)
    for end in ("", f"-{recipe}", f"_{recipe}", f".{recipe}", f":{recipe}"):
        plain = FILE.sub("", plain).removesuffix(end)
    return FILE.sub("", plain)


def _card_called(name: str) -> str | None:
    """The one card of that name, if what others leave out is left out."""
    wanted = _letters(name)
    # Tags leave the active parameters out, `qwen3.6:35b` is `qwen3.6-35b-a3b`, or the size where
    # there is one: `mistral-nemo`.
    for left_out in (NOTHING, ACTIVE, SIZE):
        found = [one for one in model_cards() if _letters(left_out.sub("", one)) == wanted]
        if len(found) == 1:
            return found[0]
    for known, others in _same_shapes().items():
        if wanted in map(_letters, others):
            return known
    return _of_stated_size(name)


def _of_stated_size(name: str) -> str | None:
    """The card of a name that adds the size, if the card has about that size."""
    told = STATED_SIZE.fullmatch(name)
    if told is None or not re.search(r"[a-z]", told[1]):
        return None
    for known, others in _same_shapes().items():
        if _letters(told[1]) in map(_letters, (known, *others)):
            billions = shape(load_card(model_cards()[known])).n_params / 1e9
            return known if abs(billions / float(told[2]) - 1) < 0.1 else None
    return None


@cache
def _same_shapes() -> dict[str, tuple[str, ...]]:
    """Card -> other models of its shape."""
    return {name: load_card(path).same_shape for name, path in model_cards().items()}


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def card_of_size(n_bytes: int, quant: str) -> ModelCard:
    """A made-up dense model whose weights take `n_bytes` in a scheme: Llama 3.1 8B, scaled.

    Width and depth grow with the cube root of the size, as in families of models; the inner width
    is then set so that the bytes are right.
    """
    base = card("llama-3.1-8b")
    a = base.architecture

    def size_of(model: ModelCard) -> float:
        return held(shape(model), quant, engine="any").weights_bytes

    side = (n_bytes / size_of(base)) ** (1 / 3)
    heads = max(1, round(a["num_attention_heads"] * side))

    def sized(inner: int) -> ModelCard:
        return replace(
            base,
            name=f"{n_bytes / 1e9:.3g} GB of weights",
            architecture={
                **a,
                "hidden_size": heads * 128,
                "head_dim": 128,
                "num_attention_heads": heads,
                "num_key_value_heads": max(1, heads // 4),
                "intermediate_size": inner,
                "vocab_size": max(1024, round(a["vocab_size"] * min(side, 1.0))),
                "num_hidden_layers": max(1, round(a["num_hidden_layers"] * side)),
            },
        )

    # A step of 1024 keeps clear of the padding of four-bit kernels.
    least, more = size_of(sized(1024)), size_of(sized(2048))
    return sized(max(64, round(1024 * (1 + (n_bytes - least) / (more - least)))))


def stored_scheme(card: ModelCard, quant: str, engine: str, *, asked: bool) -> str:
    """The scheme that a folder is quantized in already, or that a model is published in, where
    none was `asked` for."""
    scheme = _mlx(card.architecture) or _stated(card)
    if scheme is not None:
        named = meant(scheme, engine)
        if quant in ("none", "f16", scheme, named):
            return named
        raise InputError(f"{card.name} is quantized already, in '{scheme}': remove -q")
    if asked or not card.published_in:
        return quant
    return meant(card.published_in, engine)


def _stated(card: ModelCard) -> str | None:
    """The scheme that its config states. Raises UnsupportedError for one that is not measured."""
    try:
        found = stated(card.architecture)
    except UnsupportedError as error:
        raise UnsupportedError(f"model '{card.name}': {error}") from None
    return found.scheme if found is not None else None


def _mlx(config: Mapping[str, Any]) -> str | None:
    """The scheme of a folder of MLX's, whose groups have a scale and a bias of 16 bits each."""
    table = config.get("quantization")
    if not isinstance(table, Mapping) or table.get("mode", "affine") != "affine":
        return None
    bits, group = table.get("bits"), table.get("group_size")
    if not (isinstance(bits, int) and isinstance(group, int) and group > 0):
        return None
    name = f"mlx-{bits}bit"
    return name if group == 64 and sized(name) != name else f"{bits + 32 / group:g}bpw"
