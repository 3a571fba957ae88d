"""What an arm says of its server: the options of engine `endpoint`, checked."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from bench import fields, hiding
from bench.errors import InputError
from bench.experiment.devices import members, served_on

MOST_CLIENTS: Final = 256
LOCAL = re.compile(r"cpu|cuda:\d+(\+cuda:\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Options of engine `endpoint`."""

    url: str = ""
    """Where the server is: `http://host:port`, with or without `/v1`."""
    serve: str = ""
    """Command that starts a server for each replicate, instead of `url`: `{port}` is a free port,
    `{model}` the folder of the model and `{gguf}` its GGUF file. No shell reads it."""
    ready_s: float = 600.0
    """Longest wait for a server that was started."""
    stop_s: float = 10.0
    """How long it may take to end when it is asked to, before it is killed."""
    model: str = ""
    """Name of the model at the server; empty takes the only one that it serves."""
    api: Literal["completions", "chat"] = "completions"
    key_env: str = ""
    """Name of the environment variable that holds the API key; its value is written nowhere."""
    prompts: Literal["auto", "tokens", "text"] = "auto"
    """`tokens` sends token numbers, `text` words; `auto` tokens where the server takes them."""
    prefix_cache: bool = False
    """Send the same prompt in every request, so that a server's prefix cache may help."""
    rate: float | None = None
    """Requests a second, arriving at random (Poisson); None keeps `n_batch` requests in flight."""
    n_requests: int | None = None
    """With `rate`: how many requests arrive; None fills the level's window."""
    timeout_s: float = 120.0
    """Longest wait for a connection, or for the next token."""
    retries: int = 0
    """How often a request is sent again after a refused connection, HTTP 429 or 503."""
    allow_failed: float = 0.0
    """Share of requests that may fail; above it there are no figures."""
    clients: int | str = "auto"
    """Processes that send the requests; `auto` adds some where one could not read all answers in
    time (`bench.engines.endpoint.crew.clients_for`)."""
    n_devices: int = 1
    """Devices that the server computes on, for figures of each."""
    local: str = ""
    """Device of this machine that the server computes on, such as `cuda:0`: its energy is read."""
    ttft_limit_s: float | None = None
    """A request counts for goodput if no limit that is given is passed."""
    tpot_limit_s: float | None = None
    e2e_limit_s: float | None = None

    def problems(self) -> Iterator[str]:
        yield from serve_problems(self.serve) if self.serve else url_problems(self.url)
        if self.serve and self.url:
            yield "serve: starts a server itself; remove url"
        for name in (
            "ready_s",
            "stop_s",
            "rate",
            "timeout_s",
            "ttft_limit_s",
            "tpot_limit_s",
            "e2e_limit_s",
        ):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                yield f"{name}: must be above 0"
        if self.n_requests is not None and self.rate is None:
            yield "n_requests: needs rate; without it requests fill the level's window"
        if self.n_requests is not None and self.n_requests < 2:
            yield "n_requests: must be at least 2"
        if self.n_devices < 1:
            yield "n_devices: must be at least 1"
        told = self.clients
        if told != "auto" and not (isinstance(told, int) and 1 <= told <= MOST_CLIENTS):
            yield f"clients: must be 'auto' or 1 to {MOST_CLIENTS}"
        if self.retries < 0:
            yield "retries: must not be negative"
        if not 0 <= self.allow_failed < 1:
            yield "allow_failed: must be at least 0 and below 1"
        if self.local and not LOCAL.fullmatch(self.local):
            yield f"local: {self.local!r} is not a device such as cpu, cuda:0 or cuda:0+cuda:1"
        elif (named := len(members(self.local))) > 1 and named != self.n_devices:
            yield f"n_devices: {self.n_devices}, and local names {named}"
        if self.api == "chat" and self.prompts == "tokens":
            yield "prompts: the chat API takes no token numbers; use prompts = 'text'"

    @property
    def holds_model(self) -> bool:
        """Whether the server that is started is given the model's own file or folder."""
        return "{model}" in self.serve or "{gguf}" in self.serve

    @property
    def device(self) -> str:
        """What the records name as device: `remote`, or `remote:cuda:0` for a server here."""
        return served_on(self.local)

    @property
    def root(self) -> str:
        """The server's address without `/v1`."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")


def url_problems(url: str) -> Iterator[str]:
    """What is wrong with an address; secrets in it are refused, as addresses are recorded."""
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        yield "url: not an address such as http://localhost:8000"
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        yield "url: not an address such as http://localhost:8000"
    elif parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        yield "url: must hold no name, password or query; key_env names the key's variable"


STARTING: Final = ("serve", "ready_s", "stop_s")
"""Options about a server's start: the runner's business, not the worker's."""


def serve_problems(command: str) -> Iterator[str]:
    """What is wrong with a command that starts a server; it is recorded, so it holds no key."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        yield f"serve: {error}"
        return
    if "{port}" not in command:
        yield "serve: must hold {port}, where the server is to listen"
    flags = (word.partition("=")[0].lstrip("-").replace("-", "_") for word in words)
    if any(hiding.SECRET.search(flag) for flag in flags if flag != "max_tokens"):
        yield "serve: is recorded, so must hold no key: set the server's variable, and key_env"


def settings(options: Mapping[str, Any]) -> EndpointSettings:
    """The options as Settings. Raises InputError that lists every problem; no value is repeated."""
    if not options.get("serve") and "url" not in options:
        raise InputError(
            "engine endpoint: options.url: missing; --url http://HOST:PORT gives it, or --serve "
            "COMMAND starts a server"
        )
    if not options.get("serve") and any(
        True for _ in url_problems(str(options["url"]))
    ):  # it may hold a secret: not repeated
        raise InputError(*(f"options.{one}" for one in url_problems(str(options["url"]))))
    problems: list[str] = []
    found = fields.build(EndpointSettings, options, "options", problems)
    if found is None or problems:
        raise InputError(*(f"engine endpoint: {problem}" for problem in problems))
    return found


class ApiKey:
    """An API key that is sent and nowhere shown."""

    def __init__(self, key_env: str) -> None:
        self._value = ""
        if not key_env:
            return
        value = os.environ.get(key_env, "").strip()
        if not value:
            raise InputError(f"options.key_env: environment variable {key_env} is not set")
        if not value.isascii() or not value.isprintable():
            raise InputError(
                f"options.key_env: {key_env} has characters that an HTTP header must not have"
            )
        self._value = value
        hiding.watch(value)

    def __repr__(self) -> str:
        return f"Key({hiding.HIDDEN})" if self._value else "Key()"

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [("Authorization", f"Bearer {self._value}")] if self._value else []

    def hide(self, text: str) -> str:
        """`text` without the key, which a server may repeat in its errors."""
        return hiding.hide(text, self._value)

    def hide_all(self, found: Any) -> Any:
        """The same in every text of what was found."""
        return hiding.hide_all(found, self._value)
