"""Who answers: what a server tells about itself, and which fields of a request it takes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from bench.errors import InputError, UnsupportedError
from bench.serving.client import Answer, Client, Shape
from bench.serving.http import HttpError
from bench.serving.prompts import Vocabulary

PAGES: Mapping[str, str] = {
    "models": "/v1/models",
    "version": "/version",  # vLLM
    "props": "/props",  # llama-server
    "server_info": "/get_server_info",  # SGLang
    "info": "/info",  # TGI
    "ollama_version": "/api/version",
}
LONGEST = 200
"""Characters of a value that is kept: names and settings, no templates."""

SERVERS: Mapping[str, str] = {
    "vllm": "vllm", "llamacpp": "llama.cpp", "sglang": "sglang", "library": "ollama",
}  # fmt: skip
"""`owned_by` of a model -> server."""

EXACT: tuple[str, ...] = ("ignore_eos", "min_tokens", "skip_special_tokens")
"""Fields that make an answer exactly as long as asked, each token visible, where they are known."""


ROOTED = re.compile(r"[/~\\]|[A-Za-z]:[/\\]")
"""How a path from the root or the home begins."""

PROBE_GEN = 2
"""Tokens asked for while finding out what the server takes."""


async def identify(client: Client) -> dict[str, Any]:
    """What the server tells about itself; pages that it does not have are left out.

    Raises UnsupportedError where nothing answers at all.
    """
    found: dict[str, Any] = {}
    for name, path in PAGES.items():
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
            found["header"] = server[:LONGEST]
        if head.status in (401, 403):
            raise UnsupportedError(
                f"{client.settings.root}: HTTP {head.status}; key_env names the variable that "
                "holds the API key"
            )
        if head.status == 200 and (page := _page(name, body)):
            found[name] = page
    cleaned: dict[str, Any] = json.loads(client.key.hide(json.dumps(found)))
    return cleaned | {"kind": kind(cleaned)}


def _page(name: str, body: bytes) -> Any:
    try:
        page = json.loads(body)
    except ValueError:
        return None
    if not isinstance(page, dict):
        return None
    if name == "models":
        listed = [one for one in page.get("data") or [] if isinstance(one, dict)]
        return [_plain(one) | _plain(one.get("meta") or {}) for one in listed]
    return _plain(page)


def _plain(page: Mapping[str, Any]) -> dict[str, Any]:
    """The short values of a page."""
    return {
        key: value
        for key, value in page.items()
        if isinstance(value, str | int | float | bool) and len(str(value)) <= LONGEST
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
    return told[0] if told and isinstance(told[0], int) else None


def kind(found: Mapping[str, Any]) -> str | None:
    """Which server it is; None where that cannot be told."""
    if "ollama_version" in found:
        return "ollama"
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
        has = f"it has {_some(names)}" if names else "it lists none"
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
        shape = Shape(n_prompt=None, n_gen=PROBE_GEN, extras=extras)
        body = client.body(vocabulary.prompt(0), shape)
        answer = await client.ask(body, shape, time.perf_counter_ns())
        if answer.failure not in ("http_400", "http_422") or not extras:
            return answer, extras
        named = [name for name in extras if name in answer.detail]
        for name in named or list(extras):
            del extras[name]
