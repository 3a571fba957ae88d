"""Identity of a piece of work."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def key(kind: str, **parts: Any) -> str:
    """Identity of a piece of work: equal parts, equal key (16 hexadecimal digits)."""
    text = json.dumps([kind, parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
