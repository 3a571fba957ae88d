"""Where models are that a path named: records call them `NAME@HASH`, which tells nobody's folders.

The cache keeps the way back, for this machine's readers that look at the model's shape.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import fields, hiding
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.models import Model

NAMED: Final = re.compile(r"[a-z0-9][a-z0-9._-]*@[0-9a-f]{16}")

_here: dict[str, str] = {}
"""Those of this process, where the cache cannot be written."""


def remember(model: Model) -> str:
    """The name that records give a model that was named by a path: its own, and its weights'."""
    from bench.models import weights

    name = f"{model.card.name}@{weights.identity(model)}"
    path = str(model.path)
    for one in (model.ref, path):
        hiding.rename(one, name)
    _here[name] = path
    file = _file(name)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        half = file.with_suffix(".part")
        half.write_text(json.dumps({"path": path}), encoding="utf-8")
        half.replace(file)
    return name


def known(name: str) -> str | None:
    """The path of a model that was remembered by that name, if it is still there."""
    if not NAMED.fullmatch(name):
        return None
    path = _here.get(name)
    if path is None:
        try:
            found = fields.read_json(_file(name))
        except InputError:
            return None
        path = found.get("path") if isinstance(found, dict) else None
    return path if isinstance(path, str) and path and Path(path).exists() else None


def _file(name: str) -> Path:
    from bench.models.weights import cache_folder

    return cache_folder() / "places" / f"{name}.json"
