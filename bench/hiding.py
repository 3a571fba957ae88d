r"""Keys and passwords, hidden in whatever is kept or shown: the one place that knows them.

Every variable of the environment that is named like a secret counts, and what `watch` is told. A
server may send a key back as it is, escaped for JSON (`\u0041`, `\/`), for an address (`%41`) or
for a page (`&#65;`), in base64, in another case, or in parts. Standard library only.
"""

from __future__ import annotations

import base64
import os
import re
import socket
from functools import cache
from pathlib import Path
from typing import Any, Final

HIDDEN: Final = "***"

SECRET: Final = re.compile(
    r"(^|_)(api_?keys?|keys?|tokens?|secrets?|passw(or)?d|credentials?|auth(orization)?)$", re.I
)
"""Names of settings that are never kept, whatever they hold: SGLang tells its own `api_key` and
`admin_api_key` among its settings (its issues 30166 and 37457). `max_total_tokens` is a number."""

LEAST: Final = 8
"""Characters of a value that is taken for a secret for its name alone, and of a part of a key."""

_watched: set[str] = set()


def watch(value: str) -> None:
    """Hide this value from now on, unless it is so short that it may be a common word."""
    if len(value) >= LEAST:
        _watched.add(value)


def hide(text: str, *more: str) -> str:
    """The text without any key (those of `more` too), or part of one that gives it away."""
    found = _secrets(more)
    return _hidden(text, found) if found else text


def hide_all(value: Any, *more: str) -> Any:
    """The same in every text of a JSON value; in names of its keys, long secrets alone."""
    return _all(value, found) if (found := _secrets(more)) else value


def rename(path: str, name: str) -> None:
    """Say `name` where records would hold this path."""
    for one in (path, os.path.abspath(os.path.expanduser(path)), os.path.realpath(path)):  # noqa: PTH100, PTH111
        if "/" in one or "\\" in one:
            _renamed[one] = name


def private(value: Any) -> Any:
    """A JSON value as records hold it: without paths of models and texts, homes, users, hosts."""
    if isinstance(value, str):
        return _private(value)
    if isinstance(value, dict):
        return {_private(key): private(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        kinds = set(map(type, value))
        if kinds <= {int, float, bool, type(None)}:
            return value
        return type(value)(private(item) for item in value)
    return value


def _private(text: str) -> str:
    if "/" in text or "\\" in text:
        for path in sorted(_renamed, key=len, reverse=True):
            text = text.replace(path, _renamed[path])
        if len(home := str(Path.home())) > 1:
            text = text.replace(home, "~")
        text = HOME.sub("~", text)
    host = socket.gethostname()
    if len(host) >= LEAST_HOST and host != "localhost" and host in text:
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "HOST", text)
    return text


HOME: Final = re.compile(
    r"(?<![\w.~])(?:(?:/[\w.-]+)*?/(?:home|Users)/[^/\s\"'`:;,)]+|/root(?=[/\s\"'`:;,)]|$)"
    r"|[A-Za-z]:[\\/]+Users[\\/]+[^\\/\s\"'`:;,)]+)"
)
"""Anybody's home."""
LEAST_HOST: Final = 4

_renamed: dict[str, str] = {}


def _secrets(more: tuple[str, ...]) -> tuple[str, ...]:
    named = {
        value
        for name, raw in os.environ.items()
        if SECRET.search(name) and len(value := raw.strip()) >= LEAST and not _is_path(value)
    }
    return tuple(sorted(_watched | named | {*filter(None, more)}, key=lambda one: (-len(one), one)))


def _is_path(value: str) -> bool:
    """Whether it names a file that holds a secret: no secret itself."""
    try:
        return Path(value).exists()
    except OSError:
        return False


def _all(value: Any, found: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return _hidden(value, found)
    if isinstance(value, dict):
        long = tuple(one for one in found if len(one) >= LEAST)
        return {_hidden(key, long): _all(item, found) for key, item in value.items()}
    if isinstance(value, list | tuple):
        kinds = set(map(type, value))
        if kinds <= {int, float, bool, type(None)}:
            return value
        return type(value)(_all(item, found) for item in value)
    return value


def _hidden(text: str, found: tuple[str, ...]) -> str:
    """Each run of characters that is part of a secret, once the wrapping is off, as `***`."""
    grams = _grams(found)
    if not grams:
        return text
    bare, places = _unwrapped(text)
    if not any(gram in bare for gram in grams):
        return text
    lengths = sorted({len(gram) for gram in grams})
    spans: list[list[int]] = []
    for at in range(len(bare)):
        for length in lengths:
            if bare[at : at + length] in grams:
                end = at + length
                if spans and at <= spans[-1][1]:
                    spans[-1][1] = max(spans[-1][1], end)
                else:
                    spans.append([at, end])
    made, last = [], 0
    for at, end in spans:
        first, after = (at, end) if places is None else (places[at][0], places[end - 1][1])
        made += [text[last:first], HIDDEN]
        last = after
    return "".join((*made, text[last:]))


@cache
def _grams(found: tuple[str, ...]) -> frozenset[str]:
    """Every part of `LEAST` characters, in small letters; a shorter secret whole."""
    made: set[str] = set()
    for secret in found:
        for form in (secret, *_base64(secret.encode())):
            form = form.lower()
            least = min(LEAST, len(form))
            made |= {form[i : i + least] for i in range(len(form) - least + 1)}
    return frozenset(made)


WRAPPED: Final = re.compile(
    r"\\+u0*([0-9a-f]{2})(?![0-9a-f])|\\+x([0-9a-f]{2})|%(?:25)*([0-9a-f]{2})"
    r"|&#x0*([0-9a-f]{2});|&#0*([0-9]{2,3});|\\+()",
    re.IGNORECASE,
)
"""One character as JSON, Python, an address or a page write it; or what escapes the next one."""


def _unwrapped(text: str) -> tuple[str, list[tuple[int, int]] | None]:
    """The text in small letters without escapes, and where each character of it stands in the
    text; None where nothing moved."""
    if not any(sign in text for sign in "\\%&"):
        lower = text.lower()
        return (lower, None) if len(lower) == len(text) else (text, None)
    made: list[str] = []
    places: list[tuple[int, int]] = []
    last = escape = 0  # of a plain character: what escapes it is part of it

    def plain(upto: int) -> None:
        for at in range(last, upto):
            made.append(text[at].lower()[:1])
            places.append((escape if at == last else at, at + 1))

    for found in WRAPPED.finditer(text):
        plain(found.start())
        last, escape = found.end(), found.start()
        if digits := next((one for one in found.groups() if one), ""):
            made.append(chr(int(digits, 10 if found[5] else 16)).lower()[:1])
            places.append(found.span())
            escape = last
    plain(len(text))
    return "".join(made), places


def _base64(raw: bytes) -> list[str]:
    """What stays the same of its base64, whatever stands before and after it."""
    found = []
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        core = text[-(-before * 8 // 6) : len(text) - 1]
        if len(core) >= LEAST:
            found += [core, core.replace("+", "-").replace("/", "_")]
    return list(dict.fromkeys(found))
