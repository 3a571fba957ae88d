"""Which arms a selector means, and the short names that tell arms apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bench.experiment import Experiment


PINNED: Final = re.compile(
    r"([\w.-]+(?:/[\w.-]+)?)@[0-9a-f]{12}(:(?:[^:@]+\.gguf|[^:/@]+))?(?=/|$)"
)
"""A model of a hub at a commit, at the start of an arm's name or as the whole of a model's."""


def selects(selector: str, variant: Mapping[str, Any]) -> bool:
    """Whether a selector names an arm: by its full name, model, engine, scheme or mode.

    Several of these with `/` between them all have to fit: `none/cuda-graph`.
    """
    known = {variant[k] for k in ("name", "model", "engine", "quant", "mode") if k in variant}
    known.add(PINNED.sub(r"\1\2", str(variant.get("model", ""))))  # at whatever commit
    parts = known | set(variant["name"].split("/"))
    return selector in known or ("/" in selector and set(selector.split("/")) <= parts)


def chosen(selector: str, variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the arms that stand for `selector` as a baseline, of some by their names.

    An arm with options of its own, which no arm beside the selected ones has, is there to be
    compared with the one without, unless the selector names options or nothing else fits.
    """
    if selector in variants:
        return [selector]
    found = [name for name, variant in variants.items() if selects(selector, variant)]
    shared = [variants[name].get("options") for name in variants if name not in found]
    plain = [
        name
        for name in found
        if not (options := variants[name].get("options")) or options in shared
    ]
    return found if "=" in selector else plain or found


def arm_order(experiments: Iterable[Experiment]) -> Mapping[str, int]:
    """An arm's name -> its place, as the experiments name them: chance decides what is measured
    first, and is no order to read in."""
    names = dict.fromkeys(variant.name for one in experiments for variant in one.variants)
    return {name: place for place, name in enumerate(names)}


def _parts(name: str) -> list[str]:
    """The parts of an arm's name; a model ORG/NAME of a hub is one."""
    model = PINNED.match(name)
    if model is None:
        return name.split("/")
    return [model[0], *name[model.end() + 1 :].split("/")]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of variants without the parts that all of them share: `none`, not `m/engine/none`."""
    parts = {name: _parts(name) for name in names}
    shared = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    if any(shared.issuperset(split) for split in parts.values()):
        # One arm is the others without a setting: its scheme says what it is.
        shared -= {split[2] for split in parts.values() if len(split) > 2}
    short = {
        name: "/".join(part for part in split if part not in shared) or name
        for name, split in parts.items()
    }
    return short if len(set(short.values())) == len(short) else {name: name for name in names}
