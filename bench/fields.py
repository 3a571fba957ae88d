"""Turn parsed TOML or JSON into typed values, listing every problem with its key path.

A type annotation is the schema. Of a frozen dataclass field names are the keys, annotations the
types, defaults the optional keys; it may add `problems(self) -> Iterator[str]`, one line for each
fault in its values. A `TypedDict` says what some keys of an open table must be. `Annotated[float,
Between(0, 1)]` bounds a number, `Annotated[str, Between(0, 80)]` the length of a text. Every
number must be finite. Standard library only.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
import reprlib
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from bench.errors import InputError

T = TypeVar("T")
Problems = list[str]
Converter = Callable[[Any, str, Problems], Any]

DEEPEST: Final = 24
"""Tables and lists within one another that a JSON text may hold."""
LARGEST: Final = 1 << 64
"""Whole numbers of this size and above are no counts."""
MOST_BYTES: Final = 64 << 20
"""Of a file or text from elsewhere, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds of a number, both allowed; of a text or list, of its length."""

    low: float
    high: float


def load(cls: type[T], path: Path, **given: object) -> T:
    """Read a TOML file as a `cls`; `given` fills fields that do not stand in the file.

    Raises InputError that names the file and every problem in it.
    """
    table = read_toml(path) | given
    problems: list[str] = []
    value = build(cls, table, "", problems)
    if problems or value is None:
        raise InputError(*(f"{path}: {problem}" for problem in problems))
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; InputError with file and line if it cannot be read."""
    try:
        return tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: not valid TOML: {why}") from error


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Parse a JSON file by `parse_json`; InputError that names the file."""
    text = read_text(path, most_bytes)
    try:
        return parse_json(text, most_bytes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """A regular file's text; InputError that names the file where there is none or it is large."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a file")  # a pipe or a device could be read for ever
        with path.open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > most_bytes:
        raise InputError(f"{path}: holds more than {most_bytes} bytes")
    try:
        return data.decode("utf-8-sig")  # Windows' editors begin a file with a mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text ({error})") from error


def parse_json(text: str | bytes, most_bytes: int = MOST_BYTES) -> Any:
    """The value of a JSON text from elsewhere: not too large or deep, text whole, numbers finite.

    Raises InputError that says what is wrong with it, and no other error.
    """
    if len(text) > most_bytes:
        raise InputError(f"holds more than {most_bytes} bytes")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise InputError("nested too deeply") from None
    except ValueError as error:  # and UnicodeDecodeError
        raise InputError(f"not valid JSON ({error})") from None
    if not surely_sound(text) and (why := _unsound(value, 0)) is not None:
        raise InputError(why)
    return value


_LARGE: Final = re.compile(r"[0-9]{20}|[0-9.][eE]\+?[0-9]{3}")
"""Digits of a whole number of more than 64 bits, or of one that is not finite."""
_DIGITS: Final = bytes.maketrans(b"123456789E", b"000000000e")
_BUT_BRACKETS: Final = bytes(code for code in range(256) if chr(code) not in "[]{}")


def surely_sound(text: str) -> bool:
    """Whether a JSON text holds nothing that `_unsound` looks for, told by its text alone: by far
    the most do, and to look at every value takes half as long as to read them.

    Brackets are taken off from within; those in texts only make it look deeper than it is.
    """
    if not text.isascii() or "\\u" in text:
        return False
    data = text.encode()
    digits = data.translate(_DIGITS, b"+")
    if (b"e000" in digits or b"0" * 20 in digits) and _LARGE.search(text):
        return False
    brackets = data.translate(None, _BUT_BRACKETS)
    for _ in range(DEEPEST):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a finite number")


def _unsound(value: Any, depth: int) -> str | None:
    """Why a JSON value cannot be used anywhere, or None."""
    if depth > DEEPEST:
        return "nested too deeply"
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if (why := _unsound_scalar(key)) or (why := _unsound(item, depth + 1)):
                return why
        return None
    if kind is list:
        kinds = set(map(type, value))
        if kinds <= _NUMBERS:
            try:
                if math.isfinite(math.fsum(value)) and max(map(abs, value), default=0) < LARGEST:
                    return None
            except OverflowError:
                pass
        return next((why for item in value if (why := _unsound(item, depth + 1))), None)
    return _unsound_scalar(value)


_NUMBERS: Final = {int, float, bool}


def _unsound_scalar(value: Any) -> str | None:
    kind = type(value)
    if kind is str:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return f"text that is not Unicode (half a character): {shown(value)}"
    elif kind is float:
        if not math.isfinite(value):
            return f"{value} is not a finite number"
    elif kind is int and abs(value) >= LARGEST:
        return "a whole number of more than 64 bits"
    return None


def shown(value: object) -> str:
    """A value in a message: short, however large it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return "a whole number of thousands of digits"


_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
_SHORT.maxlevel = 3


def build(cls: type[T], table: Mapping[str, object], at: str, problems: list[str]) -> T | None:
    """A `cls` from `table`, or None after adding each problem to `problems` as `key.path: text`."""
    before = len(problems)
    fields = _fields(cls)  # type: ignore[arg-type]  # a class has a hash
    for key in table:
        if key not in fields:
            near = get_close_matches(key, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(fields)}"
            problems.append(f"{_join(at, key)}: unknown key{hint}")
    values = {}
    for name, (field, convert_field) in fields.items():
        if name in table:
            values[name] = convert_field(table[name], _join(at, name), problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{_join(at, name)}: missing")
    if len(problems) > before:
        return None
    value = cls(**values)
    check = getattr(value, "problems", None)
    if check is not None:
        problems.extend(_join(at, line) for line in check())
    return value if len(problems) == before else None


@cache
def _fields(cls: type[Any]) -> dict[str, tuple[dataclasses.Field[Any], Converter]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: (field, converter(hints[field.name])) for field in dataclasses.fields(cls)}


def convert(kind: Any, value: object, at: str, problems: list[str]) -> Any:
    """`value` as `kind` (a type annotation), or anything after adding a problem."""
    return converter(kind)(value, at, problems)


@cache
def converter(kind: Any) -> Converter:
    """What converts a value to `kind`: worked out once, as records come by the million."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _bounded(args[0], next(one for one in args[1:] if isinstance(one, Between)))
    if origin in (typing.Required, typing.NotRequired):
        return converter(args[0])
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin is typing.Literal:
        return _literal(args)
    if origin in (tuple, list):
        return _list(origin, args[0])
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _table(args[1])
    if typing.is_typeddict(kind):
        return _open_table(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    return _plain(kind)


def _literal(args: tuple[Any, ...]) -> Converter:
    names = ", ".join(map(repr, args))

    def to_literal(value: Any, at: str, problems: Problems) -> Any:
        if not any(type(value) is type(arg) and value == arg for arg in args):
            problems.append(f"{at}: {shown(value)} is not one of {names}")
        return value

    return to_literal


def _dataclass(kind: Any) -> Converter:
    def to_dataclass(value: Any, at: str, problems: Problems) -> Any:
        if isinstance(value, Mapping):
            return build(kind, value, at, problems)
        if not isinstance(value, kind):
            problems.append(f"{at}: expected a table, got {shown(value)}")
        return value

    return to_dataclass


NAMES: Final[Mapping[Any, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    datetime.date: "a date (2025-01-31)",
    dict: "a table",
    list: "a list",
}


def _plain(kind: Any) -> Converter:
    if kind in (Any, object):
        return lambda value, at, problems: value  # noqa: ARG005

    def to_plain(value: Any, at: str, problems: Problems) -> Any:
        if type(value) is kind or (kind is Path and isinstance(value, Path)):
            if kind is float and not math.isfinite(value):
                problems.append(f"{at}: {value} is not a finite number")
            return value
        if kind is float and type(value) is int:
            if abs(value) < LARGEST:
                return float(value)
            problems.append(f"{at}: a whole number of more than 64 bits")
            return 0.0
        name = NAMES.get(kind) or kind.__name__
        problems.append(f"{at}: expected {name}, got {shown(value)}")
        return value

    return to_plain


def _bounded(kind: Any, bounds: Between) -> Converter:
    inner, low, high = converter(kind), bounds.low, bounds.high
    number = kind in (int, float)

    def to_bounded(value: Any, at: str, problems: Problems) -> Any:
        if number and type(value) is kind and low <= value <= high:
            return value
        before = len(problems)
        found = inner(value, at, problems)
        if len(problems) == before and not low <= (found if number else len(found)) <= high:
            what = shown(found) if number else f"a length of {len(found)}"
            problems.append(f"{at}: {what} is not between {low:g} and {high:g}")
        return found

    return to_bounded


def _union(args: tuple[Any, ...]) -> Converter:
    optional = type(None) in args
    each = [converter(arg) for arg in args if arg is not type(None)]

    def to_union(value: Any, at: str, problems: Problems) -> Any:
        if value is None and optional:
            return None
        tried: list[Problems] = []
        for one in each:
            found: Problems = []
            converted = one(value, at, found)
            if not found:
                return converted
            tried.append(found)
        problems.extend(tried[-1] if isinstance(value, Mapping) else tried[0])
        return value

    return to_union


def _list(kind: Any, item: Any) -> Converter:
    inner, quick = converter(item), _quick(item)

    def to_list(value: Any, at: str, problems: Problems) -> Any:
        if not isinstance(value, list | tuple):
            problems.append(f"{at}: expected a list, got {shown(value)}")
            return kind()
        if quick is not None and quick(value):
            return value if type(value) is kind else kind(value)
        found = []
        for i, one in enumerate(value):
            before = len(problems)
            found.append(inner(one, "", problems))
            if len(problems) > before:
                _place(f"{at}[{i}]", problems, before)
        return found if kind is list else kind(found)

    return to_list


def _place(at: str, problems: Problems, first: int) -> None:
    """Say where problems are, from the `first` on: a place is made up only where it is needed."""
    problems[first:] = [
        f"{at}{'' if text.startswith((':', '[')) else '.' * bool(at)}{text}"
        for text in problems[first:]
    ]


def _quick(item: Any) -> Callable[[Any], bool] | None:
    """Whether a whole list of bounded numbers is right, told without a look at each."""
    if typing.get_origin(item) is not typing.Annotated:
        return None
    kind, *rest = typing.get_args(item)
    bounds = next(one for one in rest if isinstance(one, Between))
    if kind not in (int, float):
        return None

    def right(values: Any) -> bool:
        return (
            set(map(type, values)) == {kind}
            and not any(map(math.isnan, values))
            and bounds.low <= min(values)
            and max(values) <= bounds.high
        )

    return right


def _table(item: Any) -> Converter:
    inner = converter(item)

    def to_table(value: Any, at: str, problems: Problems) -> Any:
        if not isinstance(value, Mapping):
            problems.append(f"{at}: expected a table, got {shown(value)}")
            return {}
        return {key: inner(one, _join(at, key), problems) for key, one in value.items()}

    return to_table


def _open_table(kind: Any) -> Converter:
    """A table with some keys of which the type is known; it is given back as it is."""
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {name: converter(hint) for name, hint in hints.items()}
    # Not `__required_keys__`, which does not see through annotations that are kept as text.
    other = typing.NotRequired if kind.__total__ else typing.Required
    required = {
        n for n, hint in hints.items() if (typing.get_origin(hint) is other) != kind.__total__
    }

    def to_open_table(value: Any, at: str, problems: Problems) -> Any:
        if not isinstance(value, Mapping):
            problems.append(f"{at}: expected a table, got {shown(value)}")
            return {}
        for name, item in value.items():
            one = known.get(name)
            if one is not None:
                before = len(problems)
                one(item, name, problems)
                if at and len(problems) > before:
                    _place(at, problems, before)
        problems += [f"{_join(at, name)}: missing" for name in required if name not in value]
        return value

    return to_open_table


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
