"""`bench cost --against`: the APIs that a machine is held against, as they are asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.cli import amounts
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.cost.books import ApiPrice, ApiTier
    from bench.cost.pricing import Against
    from bench.cost.throughput import Throughput


def check(args: argparse.Namespace) -> None:
    """InputError for a flag of an API without an API, and for a share that is none."""
    for name in ("cached", "batch", "batch_discount"):
        flag, given = f"--{name.replace('_', '-')}", getattr(args, name)
        if given in (None, False):
            continue
        if not args.against:
            raise InputError(f"{flag}: needs --against PROVIDER/MODEL")
        if given is not True and given != "measured" and not 0 <= amounts.number(flag, given) <= 1:
            raise InputError(f"{flag}: {given} must be between 0 and 1")


def against(
    text: str,
    args: argparse.Namespace,
    model: str,
    weights: tuple[float, float],
    cached: float,
) -> Iterator[Against]:
    """An API by its name, those who host the model, or `IN:OUT` dollars for a million tokens."""
    from bench.cost.apis import api_on, hosted

    parts = text.split(":")
    if len(parts) == 2 and "/" not in text:
        yield _at_price(text, None, args, cached)
    elif text == "hosted":
        if args.batch:
            raise InputError("--batch: cannot be combined with `hosted`; name one provider")
        found = hosted(model, amounts.day(args.on), *weights)
        of = f"of {found.count} hosters"
        yield _at_price(f"{found.cheapest.item} (cheapest {of})", found.cheapest, args, cached)
        if found.count > 1:
            yield _at_price(f"{found.median.item} (median {of})", found.median, args, cached)
    else:
        price = api_on(text, amounts.day(args.on), batch=args.batch)
        yield _at_price(text, price, args, cached)


def cached_share(text: str | None, items: Sequence[Throughput]) -> float:
    """Share of the API's input that is cached: given, or of all prompts that were measured."""
    if text != "measured":
        return amounts.number("--cached", text or "0")
    known = [one for one in items if one.cached_share is not None]
    if not known:
        raise InputError("--cached measured: the results hold no cached share; give a share")
    tokens = sum(one.n_prompt for one in known)
    return sum((one.cached_share or 0.0) * one.n_prompt for one in known) / tokens


def _at_price(
    name: str, found: ApiPrice | None, args: argparse.Namespace, cached: float
) -> Against:
    """An API at a dated price, or at the one that its name states."""
    from bench.cost import ApiRates
    from bench.cost.prices import to_usd
    from bench.cost.pricing import Against

    if found is None:
        asked = dict(zip(("input", "output"), amounts.parts("--against", name), strict=True))
        rates = ApiRates(**asked)
        tiers: tuple[ApiTier, ...] = ()
    else:
        one = to_usd(1.0, found.currency, amounts.rates(args.rate))
        rates, tiers = found.rates(0).times(one), tuple(tier.times(one) for tier in found.tiers)
    api = Against(
        name=name,
        rates=rates,
        tiers=tiers,
        cached_share=cached,
        batch_discount=amounts.number("--batch-discount", args.batch_discount or "0"),
        price=found,
    )
    if not api.usd_per_mtok(1, 1) > 0:
        raise InputError(f"--against {name}: the price must be above 0")
    return api
