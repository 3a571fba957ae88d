"""Shapes of folders and hub models that no formula describes: counted once, by a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench.errors import BenchError
from bench.models import Model, ModelCard, counted, resolve_model
from bench.models.config_file import card_of_config, is_config
from bench.models.shapes import forget, shape, towers
from bench.runner.process import events, last
from bench.worker.messages import Shaped, Told

LIMIT_S = 300.0
"""Importing transformers takes most of it."""


def count(model: Model, say: Callable[[str], None]) -> None:
    """Have the shape of a model counted where arithmetic needs it, so that `shape` knows it.

    A model that transformers cannot make stays unknown, and `shape` says why.
    """
    if model.source in ("path", "hub"):
        count_card(model.card, say)


def count_card(card: ModelCard, say: Callable[[str], None]) -> None:
    """As `count`, of a config.json that became a card."""
    if not needed(card) or counted.known(card.architecture) is not None:
        return
    say(f"{card.name}: counting its layers on transformers' own modules (once)")
    job = Told(task="shape", architecture=card.architecture)
    found = last(events(job, limit_s=LIMIT_S))
    if isinstance(found, Shaped):
        counted.keep(card.architecture, {"shape": asdict(found)["shape"]})
    else:
        counted.keep(card.architecture, {"refused": getattr(found, "message", "no answer")})
    forget()


def card_of(name: str, say: Callable[[str], None]) -> ModelCard:
    """The card of a model, or of a config.json or its folder, with its shape counted."""
    if is_config(name):
        card = card_of_config(Path(name))
        count_card(card, say)
        return card
    model = resolve_model(name)
    count(model, say)
    return model.card


def needed(card: ModelCard) -> bool:
    """Whether formulas do not say what a config describes: an unknown type, or towers beside."""
    if "model_type" not in card.architecture:
        return False
    if towers(card.architecture):
        return True
    try:
        shape(card)
    except BenchError:
        return True
    return False
