"""What providers ask for a card now, by gpuhunt: a process of its own, run by `bench.cost.market`.

    python -m bench.cost.offers runpod vastai

prints a line of JSON a provider, as each answers: its offers, or why there are none. A process can
be ended when a provider hangs; gpuhunt's threads cannot. gpuhunt reads the catalogs of some
providers from its own project's storage (GPUHUNT_CATALOG_URL names another), asks others itself,
and skips those whose credentials the environment does not hold.
"""

from __future__ import annotations

import json
import logging
import math
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, Final

from bench.roofline.gpus import match

ANSWER_S: Final = 20.0
"""Longest wait for one answer; without it gpuhunt waits for ever."""
ASKED: Final = {
    "vastai": "VastAIProvider",
    "vultr": "VultrProvider",
    "digitalocean": "DigitalOceanProvider",
    "jarvislabs": "JarvisLabsProvider",
    "crusoe": "CrusoeProvider",
    "hotaisle": "HotAisleProvider",
    "lium": "LiumProvider",
}
"""Providers that are asked themselves, by their module of gpuhunt.providers."""
STORED: Final = (
    "runpod",
    "lambdalabs",
    "verda",
    "nebius",
    "cloudrift",
    "oci",
    "aws",
    "azure",
    "gcp",
)
"""Providers whose catalog gpuhunt's project publishes."""
PROVIDERS: Final = (*ASKED, *STORED)

Offer = dict[str, Any]
Answer = dict[str, Any]


class _Failures(logging.Handler):
    """Keeps the last exception that gpuhunt logged instead of raising it, by provider."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.args:
            name = record.args[0] if isinstance(record.args, tuple) else ""
            self.reasons[str(name)] = _why(error)


def answers(names: Sequence[str]) -> Iterator[Answer]:
    """Offers of each provider by the card and hour; or `error`, in one line."""
    yield from (_asked(name) for name in names if name in ASKED)
    stored = [name for name in names if name in STORED]
    if stored:
        yield from _stored(stored)


def _asked(name: str) -> Answer:
    from gpuhunt import Catalog, MissingCredsError

    try:
        provider = getattr(import_module(f"gpuhunt.providers.{name}"), ASKED[name]).from_env()
    except MissingCredsError as error:
        return {"provider": name, "error": f"needs credentials: {error}", "skipped": True}
    catalog = Catalog(auto_reload=False)
    catalog.add_provider(provider)
    try:
        return _answer(name, catalog.query(provider=name, min_gpu_count=1))
    except Exception as error:  # whatever a provider's answer breaks in gpuhunt is its failure
        return {"provider": name, "error": _why(error)}


def _stored(names: Sequence[str]) -> Iterator[Answer]:
    from gpuhunt import Catalog

    failures = _Failures()
    log = logging.getLogger("gpuhunt")
    log.addHandler(failures)
    log.propagate = False
    catalog = Catalog(auto_reload=False)
    try:
        catalog.load()
        why = "its catalog could not be read"
    except Exception as error:  # as above
        why = _why(error.__cause__ or error)
    for name in names:
        if name in catalog.catalog:
            yield _answer(name, catalog.query(provider=name, min_gpu_count=1))
        else:
            yield {"provider": name, "error": failures.reasons.get(name, why)}


def _answer(name: str, items: Iterable[Any]) -> Answer:
    """The offers that can be used; an answer with none is a failure."""
    offers, left = [], 0
    for item in items:
        offer = _offer(item)
        offers += [offer] if offer else []
        left += offer is None
    if not offers:
        return {"provider": name, "error": f"no usable offer in its answer ({left} unusable)"}
    return {"provider": name, "offers": offers, "unusable": left}


def _offer(item: Any) -> Offer | None:
    """One offer, its price that of one card; None if it says no card or no price."""
    if not (item.gpu_name and item.gpu_count and item.gpu_count > 0):
        return None
    if not (isinstance(item.price, int | float) and 0 < item.price < math.inf):
        return None
    return {
        "card": card(item.gpu_name, item.gpu_memory, item.instance_name),
        "listed_as": item.gpu_name,
        "region": item.location or "anywhere",
        "spot": bool(item.spot),
        "usd_per_hour": round(item.price / item.gpu_count, 5),
    }


def card(name: str, memory_gb: float | None, instance: str = "") -> str:
    """The catalog's name of a card from gpuhunt's: `RTX4080S` is an RTX 4080 SUPER.

    The provider's own name for it (`NVIDIA H100 80GB HBM3`) says more where it is one. Cards of
    one name and several sizes are told apart by their memory.
    """
    known = match(instance) if instance else None
    if known is not None:
        return known.title
    if name == "A100" and memory_gb:
        return f"A100 {memory_gb:.0f}GB"
    if name == "H100":  # SXM or PCIe: gpuhunt does not say
        return name
    text = re.sub(r"^A(?=[4-6]000$)", "RTX A", name)
    text = re.sub(
        r"^(RTX|GTX)(PRO)?(?=\d)", lambda found: " ".join(filter(None, found.groups())) + " ", text
    )
    text = re.sub(r"(?<=\d)S(?=Ti$|$)", " SUPER", text) if text.startswith("RTX") else text
    text = re.sub(r"(?<=[\dR])(Ti|Ada|NVL)(?=$|\W)", r" \1", text)
    text = re.sub(r"SUPER ?Ti$", "Ti SUPER", text)
    known = match(text)
    return text if known is None else known.title


def _why(error: BaseException) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0]}" if text and text[0] else type(error).__name__


def main(names: Sequence[str]) -> None:
    """Print the answers as they come."""
    socket.setdefaulttimeout(ANSWER_S)
    for answer in answers(names):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
