"""What a file says, with what the user says: a flag that the file contradicts is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.errors import InputError
from bench.exchange import naming
from bench.exchange.foreign import UNKNOWN, ForeignRun, Given
from bench.exchange.reading import SourceText
from bench.exchange.values import Json

USUAL_BACKENDS = frozenset({"cuda", "cpu", ""})
"""Backends that do not stand in an arm's name."""


def filled(tool: str, source: SourceText, one: ForeignRun, given: Given) -> ForeignRun:
    """What the file says with what the user says; InputError for a flag that the file contradicts,
    and for what nobody says and no record can lack."""
    if one.whole:
        if given != Given():
            raise InputError(f"{source}: files of {tool} are complete; leave out the flags")
        return one
    n_prompt, n_gen = _lengths(tool, source, one, given)
    n_batch = _batch(tool, source, one, given)
    model = _model(tool, source, one, given)
    quant, no_quant = _quant(tool, source, one, given, model)
    engine = _engine(source, one, given)
    cards = _cards(tool, source, one, given)
    absent = no_quant | cards["absent"] | dict(one.absent)
    for name, known in (("n_batch", n_batch), ("device", cards["gpu"]), ("n_devices", cards["n"])):
        if known is not None:
            absent.pop(name, None)
    if quant != UNKNOWN:
        absent.pop("quant", None)
    card = None
    if one.model and given.model is None:
        card = naming.card_of(one.model, one.loaded.get("n_params"))
    loaded = one.loaded
    if one.model and model != one.model:
        loaded = loaded | {"named": one.model}
    samples = dict(one.samples)
    share = n_gen / (n_prompt + n_gen)
    if one.tokens_each and "output_tok_s" not in samples:
        samples["output_tok_s"] = [rate * share for rate in samples["total_tok_s"]]
    if "output_tok_s" in samples and "total_tok_s" not in samples:
        samples["total_tok_s"] = [rate / share for rate in samples["output_tok_s"]]
        absent.pop("total_tok_s", None)
    return dataclasses.replace(
        one,
        samples=samples,
        model=model,
        quant=quant,
        engine=engine,
        device=cards["device"],
        gpu=cards["gpu"],
        n_gpus=cards["n"],
        options=dict(one.options) | cards["options"],
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=n_batch,
        absent=absent,
        loaded=loaded,
        card=card,
        identity={"cpu": None} | one.identity | cards["identity"],
    )


def _model(tool: str, source: SourceText, one: ForeignRun, given: Given) -> str:
    if given.model is None:
        if not one.model:
            raise InputError(f"{source}: the file of {tool} names no model; give --model NAME")
        return one.model
    if why := naming.against_card(given.model, one.model, one.loaded.get("n_params")):
        raise InputError(f"{source}: --model {given.model}: {why}")
    return given.model


def _quant(
    tool: str, source: SourceText, one: ForeignRun, given: Given, model: str
) -> tuple[str, dict[str, str]]:
    """The scheme, and why there is none."""
    said = one.quant or naming.scheme_in_hub_name(one.model or model)
    if given.quant is None:
        found = said or one.usual_quant
        why = {} if found else {"quant": f"{tool} does not name the scheme; --quant does"}
        return found or UNKNOWN, why
    if said and not _alike(said, given.quant) and not _by_size(one, said, given.quant):
        raise InputError(f"{source}: --quant {given.quant}: the file says {said}")
    return given.quant, {}


def _by_size(one: ForeignRun, said: str, given: str) -> bool:
    """Whether the size of the weights excludes what the file calls them, and not what the user
    does: gpt-oss in F16 holds most of them in mxfp4."""
    size, n_params = one.loaded.get("weights_bytes"), one.loaded.get("n_params")
    if not size or not n_params or naming.fits(said, size, n_params) is not False:
        return False
    return naming.fits(given, size, n_params) is True


def _alike(said: str, given: str) -> bool:
    """Whether a scheme may be the one that a file says: not another width, not another type."""
    widths = naming.bits(said), naming.bits(given)
    if None not in widths and widths[0] != widths[1]:
        return False
    types = naming.family(said), naming.family(given)
    files = [one.removeprefix("i").startswith(("q", "tq")) for one in types]
    return types[0] == types[1] or not all(files)


def _engine(source: SourceText, one: ForeignRun, given: Given) -> str:
    if given.engine and one.engine and given.engine != one.engine and not one.forks:
        raise InputError(f"{source}: --engine {given.engine}: the file says {one.engine}")
    return given.engine or one.engine or UNKNOWN


def _batch(tool: str, source: SourceText, one: ForeignRun, given: Given) -> int | None:
    """Sequences at once."""
    if given.n_batch is None:
        if one.needs_batch:
            raise InputError(f"{source}: the file of {tool} names no batch; give --n-batch N")
        return one.n_batch
    if one.n_batch is not None and one.n_batch != given.n_batch:
        raise InputError(f"{source}: --n-batch {given.n_batch}: the file says {one.n_batch}")
    return given.n_batch


def _lengths(tool: str, source: SourceText, one: ForeignRun, given: Given) -> tuple[int, int]:
    """Prompt and new tokens of a request. InputError if they are not what the file adds up to."""
    prompt, new = one.n_prompt, one.n_gen
    each = one.tokens_each
    if each is None:
        return (
            _length(tool, source, "n_prompt", prompt, given.n_prompt),
            _length(tool, source, "n_gen", new, given.n_gen),
        )
    prompt, new = given.n_prompt, given.n_gen
    if prompt is None and new is not None and new < each:
        prompt = round(each) - new
    if new is None and prompt is not None and prompt < each:
        new = round(each) - prompt
    if prompt is None or new is None:
        raise InputError(
            f"{source}: the file of {tool} does not say how long prompts and answers are, only "
            f"{each:g} tokens a request together; give --n-prompt N --n-gen N"
        )
    if abs(prompt + new - each) > 0.02 * each:
        raise InputError(
            f"{source}: --n-prompt, --n-gen: the file's total is {each:g} tokens a request, not "
            f"{prompt} + {new} = {prompt + new}"
        )
    return prompt, new


def _length(tool: str, source: SourceText, name: str, said: int | None, given: int | None) -> int:
    """Tokens of the prompt or the answer."""
    flag = f"--{name.replace('_', '-')}"
    if said is None and given is None:
        what = "prompts" if name == "n_prompt" else "answers"
        raise InputError(f"{source}: the file of {tool} does not say how long {what} are: {flag} N")
    if said is not None and given is not None and said not in (given, 0):
        raise InputError(f"{source}: {flag} {given}: the file says {said}")
    return given if said is None and given is not None else int(said or 0)


def _cards(tool: str, source: SourceText, one: ForeignRun, given: Given) -> Json:
    """Device, card, how many of it, and what that adds to the arm and its machine."""
    if one.device == "cpu" and (given.gpu or given.n_gpus):
        raise InputError(f"{source}: --gpu: the file says that it ran on the CPU")
    if given.gpu and one.gpu and not naming.same_card(given.gpu, one.gpu):
        raise InputError(f"{source}: --gpu {given.gpu}: the file itself names {one.gpu}")
    if given.n_gpus and one.n_gpus and given.n_gpus != one.n_gpus:
        raise InputError(f"{source}: --n-gpus {given.n_gpus}: the file says {one.n_gpus}")
    gpu, n = one.gpu or given.gpu, one.n_gpus or given.n_gpus
    absent: dict[str, str] = {}
    kind = one.device or ("gpu" if gpu or (n or 1) > 1 else UNKNOWN)
    if not gpu and kind != "cpu":
        absent["device"] = one.absent.get("device", f"{tool} names no card, or several; --gpu does")
    if n is None and kind != "cpu":
        absent["n_devices"] = (
            f"{tool} does not say on how many cards: one is assumed; --n-gpus N sets it"
        )
    several = (n or 1) > 1
    options: dict[str, Any] = {"n_devices": n} if several else {}
    if several and not one.layered:
        options["split"] = "tensor"
    if (one.backend or "").partition(" ")[0].lower() not in USUAL_BACKENDS:
        options["backend"] = str(one.backend)
    identity: Json = {"gpu": gpu} | ({"gpus": n} if several else {})
    if one.backend:
        identity["backend"] = one.backend
    return {
        "device": "+".join(f"{kind}:{i}" for i in range(n or 1)) if several else kind,
        "gpu": gpu,
        "n": n,
        "options": options,
        "identity": identity,
        "absent": absent,
    }
