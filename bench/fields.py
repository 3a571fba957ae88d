"""Turn a parsed TOML table into a frozen dataclass, listing every problem with its key path.

The dataclass is the schema: field names are the keys, annotations the types, defaults the
optional keys. A dataclass may add `problems(self) -> Iterator[str]`, one line for each fault in
its values. Standard library only.
"""

from __future__ import annotations

import dataclasses
import datetime
import tomllib
import types
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import InputError

T = TypeVar("T")


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
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def build(cls: type[T], table: Mapping[str, object], at: str, problems: list[str]) -> T | None:
    """A `cls` from `table`, or None after adding each problem to `problems` as `key.path: text`."""
    before = len(problems)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            near = get_close_matches(key, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(fields)}"
            problems.append(f"{_join(at, key)}: unknown key{hint}")
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = convert(hints[name], table[name], _join(at, name), problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{_join(at, name)}: missing")
    if len(problems) > before:
        return None
    value = cls(**values)
    check = getattr(value, "problems", None)
    if check is not None:
        problems.extend(_join(at, line) for line in check())
    return value if len(problems) == before else None


def convert(kind: Any, value: object, at: str, problems: list[str]) -> Any:
    """`value` as `kind` (a type annotation), or None after adding a problem."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, at, problems)
    if origin is typing.Literal:
        if value not in args:
            problems.append(f"{at}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        return _convert_list(args[0], value, at, problems)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _convert_table(args[1], value, at, problems)
    if dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return build(kind, value, at, problems)  # type: ignore[arg-type]
        if not isinstance(value, kind):  # type: ignore[arg-type]
            problems.append(f"{at}: expected a table, got {value!r}")
        return value
    return _convert_plain(kind, value, at, problems)


def _convert_plain(kind: Any, value: object, at: str, problems: list[str]) -> object:
    if kind in (Any, object):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    exact = type(value) is kind or (kind is Path and isinstance(value, Path))
    if not exact:
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        names[datetime.date] = "a date (2025-01-31)"
        problems.append(f"{at}: expected {names.get(kind, kind.__name__)}, got {value!r}")
    elif kind is float and value != value:
        problems.append(f"{at}: nan is not a figure")
    return value


def _convert_union(args: tuple[Any, ...], value: object, at: str, problems: list[str]) -> object:
    if value is None and type(None) in args:
        return None
    tried: list[list[str]] = []
    for arg in args:
        if arg is type(None):
            continue
        found: list[str] = []
        converted = convert(arg, value, at, found)
        if not found:
            return converted
        tried.append(found)
    tables = isinstance(value, Mapping)
    problems.extend(tried[-1] if tables else tried[0])
    return value


def _convert_list(kind: Any, value: object, at: str, problems: list[str]) -> object:
    if not isinstance(value, list | tuple):
        problems.append(f"{at}: expected a list, got {value!r}")
        return ()
    return tuple(convert(kind, item, f"{at}[{i}]", problems) for i, item in enumerate(value))


def _convert_table(kind: Any, value: object, at: str, problems: list[str]) -> object:
    if not isinstance(value, Mapping):
        problems.append(f"{at}: expected a table, got {value!r}")
        return {}
    return {key: convert(kind, item, _join(at, key), problems) for key, item in value.items()}


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
