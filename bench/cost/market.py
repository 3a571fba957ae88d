"""`bench prices --update`: offers of today into the user's own book of rents.

Rows of a provider that answered replace its earlier ones from today on; those of one that did not
stay as they are, dated as they are, and it is said. Nothing is written into the package.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Final

from bench.cost.books import COLUMNS, OPTIONAL, Price, book, own_book, own_folder
from bench.cost.offers import PROVIDERS
from bench.errors import InputError, UnsupportedError, unknown
from bench.programs import own

DEADLINE_S: Final = 180.0
COUNTS_FOR: Final = datetime.timedelta(days=365)
"""How long an offer counts after the day on which it was seen, as docs/cost.md has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What an update found."""

    offers: Mapping[str, int]
    """Provider -> how many offers it made."""
    failures: Mapping[str, str]
    """Provider -> why it gave none."""
    skipped: Mapping[str, str]
    """Provider -> the credentials that it needs."""
    written: int
    """Rows that count from today."""


def update(
    today: datetime.date,
    providers: Sequence[str] = (),
    deadline_s: float = DEADLINE_S,
    argv: Sequence[str] = (),
) -> Update:
    """Ask the providers (default: every one) and write what they answer.

    `argv` is the command that asks, for tests. InputError for an unknown provider;
    UnsupportedError without gpuhunt, or where the file cannot be written.
    """
    for name in providers:
        if name not in PROVIDERS:
            raise InputError(f"--provider: {unknown('provider', name, PROVIDERS)}")
    if find_spec("gpuhunt") is None:
        raise UnsupportedError("--update needs gpuhunt: pip install 'gpu-cost-bench[prices]'")
    names = tuple(providers) or PROVIDERS
    command = [*(argv or own("bench.cost.offers")), *names]
    answers = _answers(command, deadline_s)
    offers = {name: one["offers"] for name, one in answers.items() if "offers" in one}
    failures = {name: one["error"] for name, one in answers.items() if "error" in one}
    silent = dict.fromkeys(names, f"no answer within {deadline_s:g} s")
    failures = {name: why for name, why in (silent | failures).items() if name not in offers}
    skipped = {name: why for name, why in failures.items() if answers.get(name, {}).get("skipped")}
    rows = list(_rows(offers, today))
    if rows:
        _write([*_kept(set(offers), today), *rows])
    return Update(
        offers={name: len(found) for name, found in offers.items()},
        failures={name: why for name, why in failures.items() if name not in skipped},
        skipped=skipped,
        written=len(rows),
    )


def _answers(command: Sequence[str], deadline_s: float) -> dict[str, dict[str, Any]]:
    """The lines that the asking process printed before the deadline, by provider."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            out, _ = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
    found = {}
    for line in out.decode(errors="replace").splitlines():
        try:
            answer = json.loads(line)
            found[str(answer["provider"])] = answer
        except (ValueError, KeyError, TypeError):  # cut off by the deadline, or a library's print
            continue
    return found


def _rows(
    offers: Mapping[str, Iterable[Mapping[str, Any]]], today: datetime.date
) -> Iterator[dict[str, str]]:
    """One row for the offers of one card and amount in one region."""
    counted = Counter(
        (one["card"], name, one["spot"], one["usd_per_hour"], one["region"], one["listed_as"])
        for name, found in offers.items()
        for one in found
    )
    for (card, name, spot, amount, region, listed), count in sorted(counted.items()):
        yield {
            "item": card,
            "provider": name,
            "offer": "spot" if spot else "on-demand",
            "amount": f"{amount:g}",
            "listed_as": listed,
            "currency": "USD",
            "unit": "h",
            "from": today.isoformat(),
            "until": (today + COUNTS_FOR).isoformat(),
            "grade": "primary",
            "source": f"gpuhunt {version('gpuhunt')}: {name}",
            "source_date": today.isoformat(),
            "note": "the machine's price divided by its cards",
            "region": region,
            "count": str(count),
        }


def _kept(answered: set[str], today: datetime.date) -> Iterator[dict[str, str]]:
    """Earlier rows: those of providers that answered end today; those that ended are history."""
    for row in own_book("rent"):
        assert isinstance(row, Price)
        until = row.until
        if row.provider in answered and row.region:
            if row.since is None or row.since >= today:
                continue
            until = min(today, until or today)
        yield {
            "item": row.item,
            "provider": row.provider,
            "offer": row.offer,
            "amount": f"{row.amount:g}",
            "listed_as": row.listed_as,
            "currency": row.currency,
            "unit": row.unit,
            "from": row.since.isoformat() if row.since else "",
            "until": until.isoformat() if until else "",
            "grade": row.grade,
            "source": row.source,
            "source_date": row.source_date.isoformat() if row.source_date else "",
            "note": row.note,
            "region": row.region,
            "count": str(row.count),
        }


def _write(rows: Sequence[Mapping[str, str]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, (*COLUMNS["rent"], *OPTIONAL), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = own_folder() / "rent.csv"
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(stream.getvalue(), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UnsupportedError(
            f"{path}: {error.strerror}; XDG_DATA_HOME names another place"
        ) from error
    book.cache_clear()
