"""Tells at once that JSON from elsewhere is as it should be, where msgspec is installed.

What is refused here, and everything where msgspec is not, `bench.fields` looks at in its own time,
and says in words what is wrong. So nothing is accepted here that would be refused there.
"""

from __future__ import annotations

import contextlib
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from bench import fields
from bench.fields import Between


def parse_json(text: str | bytes) -> Any:
    """As `bench.fields.parse_json`."""
    decode = _decoder()
    if decode is not None and len(text) <= fields.MOST_BYTES:
        with contextlib.suppress(ValueError):  # not JSON, or not UTF-8: fields says which
            text = text if isinstance(text, str) else text.decode("utf-8")
            if fields.surely_sound(text):
                return decode(text)
    return fields.parse_json(text)


@cache
def _decoder() -> Callable[[str], Any] | None:
    """Raises ValueError, as json.loads does; None without msgspec."""
    try:
        import msgspec
    except ImportError:
        return None

    def decode(text: str) -> Any:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None

    return decode


@cache
def accepts(kind: Any) -> Callable[[object], bool]:
    """Whether a value surely is of `kind`, an annotation that `bench.fields.converter` takes."""
    try:
        import msgspec
    except ImportError:
        return lambda value: False  # noqa: ARG005
    native = _native(kind)
    convert, refused = msgspec.convert, msgspec.ValidationError

    def accepted(value: object) -> bool:
        try:
            convert(value, native)
        except refused:
            return False
        return True

    return accepted


def _native(kind: Any) -> Any:
    """An annotation in msgspec's words."""
    from msgspec import Meta

    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        bounds = next(one for one in args[1:] if isinstance(one, Between))
        low, high = bounds.low, bounds.high
        number = args[0] in (int, float)
        meta = Meta(ge=low, le=high) if number else Meta(min_length=int(low), max_length=int(high))
        return typing.Annotated[_native(args[0]), meta]
    if origin in (typing.Required, typing.NotRequired):
        return origin[_native(args[0])]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_native(arg) for arg in args)]  # noqa: UP007
    if origin in (list, tuple):
        return list[_native(args[0])]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[str, _native(args[1])]  # type: ignore[misc]
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        keys = {name: _native(hint) for name, hint in hints.items()}
        return typing.TypedDict(kind.__name__, keys, total=kind.__total__)  # type: ignore[operator]
    return Any if kind is object else kind
