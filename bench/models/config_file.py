"""A model card out of a config.json alone, for arithmetic. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.errors import InputError
from bench.models import ModelCard, RandomWeights, Weights, name_of


def is_config(name: str) -> bool:
    """Whether a user means a config.json, or a folder that has one but no weights."""
    path = Path(name).expanduser()
    if path.suffix == ".json":
        return True
    return (path / "config.json").is_file() and not any(path.glob("*.safetensors"))


def card_of_config(path: Path) -> ModelCard:
    """A card of the shape that a config.json describes; InputError where it is none."""
    path = path.expanduser()
    file = path / "config.json" if path.is_dir() else path
    try:
        table: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(table, dict) or not (table.get("model_type") or "text_config" in table):
        raise InputError(f"{file}: not a model's config.json: no model_type")
    folder = file.resolve().parent.name if file.name == "config.json" else file.stem
    return ModelCard(
        name=name_of(folder.removesuffix("_config")),
        title=folder,
        license="not stated",
        architecture=table,
        architecture_source=str(file),
        weights=Weights(random=RandomWeights()),
    )
