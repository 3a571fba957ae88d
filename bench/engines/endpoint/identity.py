"""Who answers: what a server tells about itself, and which fields of a request it takes."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from bench import hiding
from bench.engines.endpoint.client import Answer, Client, RequestShape, said
from bench.engines.endpoint.http import HttpError, ResponseHead
from bench.engines.endpoint.prompts import Vocabulary
from bench.engines.endpoint.streams import table
from bench.errors import InputError, UnsupportedError
from bench.fields import parse_json

PAGES: tuple[tuple[str, str], ...] = (
    ("models", "/v1/models"),
    ("version", "/version"),  # vLLM
    ("props", "/props"),  # llama-server
    ("server_info", "/server_info"),  # SGLang
    ("server_info", "/get_server_info"),  # SGLang, before it was renamed
    ("info", "/info"),  # TGI
    ("ollama_version", "/api/version"),
)
"""Name in the record, and where a server may have it."""

LONGEST = 200
"""Characters of a value that is kept: names and settings, no templates."""

SERVERS: Mapping[str, str] = {
    "vllm": "vllm",
    "llamacpp": "llama.cpp",
    "sglang": "sglang",
    "library": "ollama",
}
"""`owned_by` of a model -> server."""

EXACT: tuple[str, ...] = ("ignore_eos", "min_tokens", "skip_special_tokens")
"""Fields that make an answer exactly as long as asked, each token visible, where they are known."""


ROOTED = re.compile(r"[/~\\]|[A-Za-z]:[/\\]")
"""How a path from the root or the home begins."""

MOST = 1 << 48
"""A number of parameters, bytes or tokens that a server may tell."""
PROBE_GEN = 2
"""Tokens asked for while finding out what the server takes."""


async def identify(client: Client) -> dict[str, Any]:
    """What the server tells about itself; pages that it does not have are left out.

    Raises UnsupportedError where nothing answers at all.
    """
    found: dict[str, Any] = {}
    for name, path in PAGES:
        if name in found:
            continue
        try:
            head, body = await client.get(path)
        except HttpError as error:
            if error.kind == "refused" or name == "models":
                raise UnsupportedError(
                    f"{client.settings.root}: {error}; is the server running there?"
                ) from error
            if error.kind == "timeout":  # the other pages would be waited for as long
                break
            continue
        if server := head.headers.get("server"):
            found["header"] = client.key.hide(server)[:LONGEST]
        if name == "models" and (why := _refused(head, client.key.hide(said(body)))):
            why = client.key.hide(why)
            raise UnsupportedError(f"{client.settings.root}: HTTP {head.status}{why}")
        if head.status == 200 and (page := _page(name, body)):
            found[name] = page
    cleaned: dict[str, Any] = client.key.hide_all(found)
    return cleaned | {"kind": kind(found)}


def _refused(head: ResponseHead, words: str) -> str | None:
    """Why a server that answers cannot be measured; None where its list of models does not tell.

    Of other pages a gateway may say what it likes: they are not needed.
    """
    if 300 <= head.status < 400:
        where = _elsewhere(head.headers.get("location", ""))
        return f", it redirects{where}; redirects are not followed: give that address as url"
    if head.status in (401, 403):
        return "; key_env names the variable that holds the API key"
    if head.status == 429 or head.status >= 500:
        return f": {words[:LONGEST]}; is the model loaded?"
    return None


def _elsewhere(location: str) -> str:
    """Scheme and host of an address, which may hold secrets beyond them."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f" ({parts.scheme}://{host})" if parts.scheme and host else ""


def _page(name: str, body: bytes) -> Any:
    try:
        page = parse_json(body)
    except InputError:
        return None
    if not isinstance(page, dict):
        return None
    if name == "models":
        data = page.get("data")
        told = data if isinstance(data, list) else []
        listed = [one for one in told if isinstance(one, dict)]
        return [_plain(one) | _plain(table(one.get("meta"))) for one in listed]
    return _plain(page)


def _plain(page: Mapping[str, Any]) -> dict[str, Any]:
    """The short values of a page that are no secrets."""
    return {
        key: value
        for key, value in page.items()
        if isinstance(value, str | int | float | bool)
        and len(str(value)) <= LONGEST
        and not (isinstance(value, str) and hiding.SECRET.search(key))
    }


def without_folders(found: Any) -> Any:
    """What was found, with of each path only the file's name: folders are not ours to publish."""
    if isinstance(found, dict):
        return {key: without_folders(value) for key, value in found.items()}
    if isinstance(found, list):
        return [without_folders(value) for value in found]
    if isinstance(found, str) and ROOTED.match(found):
        return re.split(r"[/\\]", found.rstrip("/\\"))[-1]
    return found


def figure(found: Mapping[str, Any], model: str, name: str) -> int | None:
    """A whole number that the server tells of a model (llama-server: `n_vocab`, `size`, ...)."""
    told = [one.get(name) for one in found.get("models", []) if one.get("id") == model]
    value = told[0] if told else None
    return value if type(value) is int and 0 <= value < MOST else None


def kind(found: Mapping[str, Any]) -> str | None:
    """Which server it is; None where that cannot be told."""
    if "ollama_version" in found:
        return "ollama"
    if "router" in found.get("info", {}):
        return "tgi"
    owners = {str(model.get("owned_by", "")) for model in found.get("models", [])}
    return next((SERVERS[owner] for owner in sorted(owners) if owner in SERVERS), None)


def served_model(wanted: str, found: Mapping[str, Any]) -> str:
    """The model's name at the server: as asked for, else the only one. Raises InputError."""
    names = [str(model["id"]) for model in found.get("models", []) if "id" in model]
    if wanted:
        if names and wanted not in names and f"{wanted}:latest" not in names:
            raise InputError(f"options.model: the server has no '{wanted}'; it has {_some(names)}")
        return wanted
    if len(names) != 1:
        has = f"it has {_some(names)}" if names else "its /v1/models lists none"
        raise InputError(f"options.model: name the model at the server; {has}")
    return names[0]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


async def accepted(client: Client, vocabulary: Vocabulary) -> tuple[Answer, dict[str, Any]]:
    """The answer to a short request, and the fields of `EXACT` that the server takes.

    Fields that it refuses by name (or, where it names none, all of them) are left out.
    """
    extras: dict[str, Any] = dict(zip(EXACT, (True, PROBE_GEN, False), strict=True))
    while True:
        shape = RequestShape(n_prompt=None, n_gen=PROBE_GEN, extras=extras)
        body = client.body(vocabulary.prompt(0), shape)
        answer = await client.ask(body, shape, time.perf_counter_ns())
        if answer.failure not in ("http_400", "http_422") or not extras:
            return answer, extras
        named = [name for name in extras if name in answer.detail]
        for name in named or list(extras):
            del extras[name]
