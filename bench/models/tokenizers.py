"""Whether two folders cut a text into the same tokens: only then their qualities can be paired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

PARTS: Final = ("model", "added_tokens", "normalizer", "pre_tokenizer")
"""Of tokenizer.json: what decides the tokens. Padding and the like do not."""
OTHERS: Final = ("tokenizer.model", "vocab.json", "merges.txt", "tekken.json")


def same_tokens(one: Path, other: Path) -> bool | None:
    """Whether the tokenizers of two folders are the same; None where the files cannot tell."""
    both = [_parts(folder / "tokenizer.json") for folder in (one, other)]
    if None not in both:
        return both[0] == both[1]
    shared = [name for name in OTHERS if (one / name).is_file() and (other / name).is_file()]
    if not shared:
        return None
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in shared)


def _parts(path: Path) -> list[Any] | None:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(table, dict):
        return None
    return [_plain(name, table.get(name)) for name in PARTS]


def _plain(name: str, part: Any) -> Any:
    """A part without what two versions of the library write in two ways."""
    if name == "added_tokens" and isinstance(part, list):
        return sorted((t.get("id"), t.get("content")) for t in part if isinstance(t, dict))
    if name == "model" and isinstance(part, dict):
        merges = part.get("merges") or []
        pairs = [m if isinstance(m, str) else " ".join(map(str, m)) for m in merges]
        return [part.get("vocab"), pairs]
    return part
