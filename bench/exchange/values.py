"""Values of a foreign table: each is checked where it is taken, and a fault is one line."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bench.errors import InputError

Json = dict[str, Any]
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,(?!\d{3}$)\d+")
"""`45,67` of a German or French locale; `45,670` is a thousand and more, as tools write it."""


def expect(at: object, tool: str, table: object, keys: Iterable[str]) -> Json:
    """The table, if it is one with these keys. InputError that names what is missing."""
    if not isinstance(table, dict):
        raise InputError(f"{at}: is not a result of {tool}: expected a JSON object")
    missing = [name for name in keys if name not in table]
    if missing:
        raise InputError(f"{at}: is not a result of {tool} as known here: no {missing[0]!r}")
    return table


def number(at: object, name: str, value: object) -> float:
    """A finite number above 0, such as a duration. InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{at}: {name}: {value!r} is not a number")
    if not (value > 0 and value < 1e300):
        raise InputError(f"{at}: {name}: {value!r} is not above 0")
    return float(value)


def numbers(at: object, name: str, values: object, scale: float = 1.0) -> list[float]:
    """A list of finite numbers above 0, each times `scale`."""
    if not isinstance(values, list):
        raise InputError(f"{at}: {name}: expected a list")
    return [number(at, f"{name}[{i}]", value) * scale for i, value in enumerate(values)]


def count(at: object, name: str, value: object) -> int:
    """A whole number of at least 0; a float that is whole is one too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**18:
        raise InputError(f"{at}: {name}: {value!r} is not a whole number of at least 0")
    return value


def maybe(at: object, table: Mapping[str, Any], name: str, scale: float = 1.0) -> float | None:
    """A number above 0 times `scale`, where the table has it; 0 and null are as if it had not."""
    value = table.get(name)
    return None if value is None or value == 0 else number(at, name, value) * scale


def spread_of(value: float, digits: int = 2) -> str:
    """A figure for a message: four figures, or thousands as they are."""
    return f"{value:,.{digits}f}" if 0.1 <= abs(value) < 1e7 else f"{value:.4g}"


def read_number(text: str) -> float | None:
    """The first number of a text, `1,043.22 ± 12.40` as 1043.22; None without one."""
    found = NUMBER.search(text)
    if found is None:
        return None
    comma = "." if DECIMAL_COMMA.fullmatch(found[0]) else ""
    value = float(found[0].replace(",", comma))
    return value if math.isfinite(value) else None


def typed(text: str) -> Any:
    """A value of a CSV cell: a number, true, false, nothing, or the text."""
    plain = text.strip()
    if plain.lower() in ("", "none", "null", "nan", "na"):
        return None
    if plain.lower() in ("true", "false"):
        return plain.lower() == "true"
    if re.fullmatch(r"[-+]?\d{1,18}", plain):
        return int(plain)
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", plain):
        return float(plain)
    return plain


def utc(moment: datetime.datetime) -> str:
    """A time as records have it; one without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.astimezone(datetime.UTC).isoformat()


def parse_time(at: object, name: str, value: object, form: str | None = None) -> str:
    """A time in ISO 8601, in `form` of strptime, or in seconds since 1970, as records have it."""
    parse = datetime.datetime
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and form is None:
            return utc(parse.fromtimestamp(value, datetime.UTC))
        assert isinstance(value, str)
        return utc(parse.strptime(value, form) if form else parse.fromisoformat(value))
    except (AssertionError, ValueError, OverflowError, OSError):
        raise InputError(f"{at}: {name}: {value!r} is not a time") from None
