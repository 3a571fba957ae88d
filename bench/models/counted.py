"""Shapes that a worker counted on transformers' own modules, kept by what the config says.

`bench.engines.transformers.counting` counts, `bench.runner.counting` asks for it, and
`bench.models.shapes` reads the answer, so that no reader needs transformers. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import fields
from bench.errors import InputError
from bench.identity import key

VERSION = 2
"""Of what is counted, and how."""


def known(architecture: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was kept of a config: `shape`, or why it is `refused`. None where nothing was, or where
    another transformers than the one here counted it."""
    try:
        found = fields.read_json(_file(architecture))
    except InputError:
        return None
    if not isinstance(found, dict):
        return None
    here = _transformers()
    same = here is None or found.get("transformers") == here
    return found if same and ("shape" in found or isinstance(found.get("refused"), str)) else None


def keep(architecture: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """Keep an answer; where the cache cannot be written it is asked for again."""
    file = _file(architecture)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        half = file.with_suffix(".part")
        half.write_text(json.dumps({"transformers": _transformers(), **answer}), encoding="utf-8")
        half.replace(file)


def _file(architecture: Mapping[str, Any]) -> Path:
    from bench.models.weights import cache_folder

    said = json.dumps(architecture, sort_keys=True, default=str)
    return cache_folder() / "shapes" / f"{key('shape', version=VERSION, config=said)}.json"


def _transformers() -> str | None:
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return None
