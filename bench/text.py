"""The one way out for text that others wrote: names, messages, answers of servers.

Terminals, Markdown, spreadsheets and pages each read some characters as orders. Standard library
only.
"""

from __future__ import annotations

import re
from typing import Any, Final

CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # further ends of lines, marks
    "\ud800-\udfff]"  # halves of characters, which cannot be written at all
)
"""Characters that order a terminal about, or that make a text look like another."""

FORMULA: Final = re.compile(r"[=+\-@\t\r]")
"""How a cell begins that spreadsheets compute (OWASP, CSV Injection)."""

NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")

MARKS: Final = re.compile(r"[\\|]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])\(|!(?=\[)")
"""What begins something in a cell of a Markdown table: an escape, a cell, a tag, an entity, a link,
a picture."""


def plain(text: str) -> str:
    r"""The text with control characters as `\u001b`, which is what JSON reads as the same text."""
    if text.isascii() and text.isprintable():
        return text
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain_all(value: Any) -> Any:
    """A JSON value with each of its texts made plain."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): plain_all(item) for key, item in value.items()}
    return [plain_all(item) for item in value] if isinstance(value, list | tuple) else value


def one_line(text: str) -> str:
    """The text on one line."""
    return " ".join(plain(text).split())


def markdown_cell(text: str) -> str:
    """Text that stays in its cell of a Markdown table and is no tag, entity or link there."""
    return MARKS.sub(lambda found: "\\" + found[0], one_line(text))


def csv_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: `'` before one, as OWASP has it."""
    text = plain(text)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text
