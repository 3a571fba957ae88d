"""Specifications -> SVG and PNG, drawn by vl-convert without a browser or a network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import vl_convert

from bench.report.page.pictures import GRID, INK, MUTED, SERIES, SURFACE
from bench.text import plain_all

LIGHT: Final[Mapping[str, str]] = {
    INK: "#1a1d21",
    MUTED: "#59616b",
    GRID: "#d9dde2",
    SURFACE: "#ffffff",
    **dict(
        zip(
            SERIES,
            (
                "#0b62a4",
                "#c2500a",
                "#00795c",
                "#9c3d7a",
                "#6b5b00",
                "#4b5ac7",
                "#7a4a2b",
                "#3d6e75",
            ),
            strict=True,
        )
    ),
}
"""Colours on white, told apart by people who see no red or no green; contrast above 4.5 : 1."""

VARIABLES: Final[Mapping[str, str]] = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    SURFACE: "var(--page)",
    **{colour: f"var(--s{number})" for number, colour in enumerate(SERIES, start=1)},
}
"""The same, as variables of the page's style sheet: one drawing serves light and dark."""

_ROLES = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')
_SIZE = re.compile(r'<svg([^>]*?) width="([\d.]+)" height="([\d.]+)"')


NARROW: Final = 0.4
"""Width of a chart's field on a phone, as a share of that on a desk; its text stays as large."""


def narrow(spec: Any) -> Any:
    """The chart for a phone: every field less wide, legends in one column."""
    if isinstance(spec, dict):
        found = {key: narrow(value) for key, value in spec.items()}
        if isinstance(spec.get("width"), int | float):
            found["width"] = round(spec["width"] * NARROW)
        if "columnPadding" in spec:
            found["columns"] = 1
        return found
    return [narrow(each) for each in spec] if isinstance(spec, list) else spec


def for_page(spec: Mapping[str, Any]) -> str:
    """SVG to stand in the page: its colours follow the theme, its text is hidden from readers."""
    svg = _ROLES.sub("", _painted(_svg(spec), VARIABLES))
    return _SIZE.sub(r'<svg\1 width="\2" height="\3" aria-hidden="true" focusable="false"', svg, 1)


def to_svg(spec: Mapping[str, Any]) -> str:
    """SVG on white, to stand alone."""
    svg = _painted(_svg(spec), LIGHT)
    return svg.replace(">", '><rect width="100%" height="100%" fill="#ffffff"/>', 1)


def to_png(spec: Mapping[str, Any], scale: float = 2.0) -> bytes:
    """PNG on white, twice the size for sharp print."""
    png: bytes = vl_convert.svg_to_png(to_svg(spec), scale=scale)
    return png


def _svg(spec: Mapping[str, Any]) -> str:
    # XML has no control characters: the renderer ends the whole process at one.
    svg: str = vl_convert.vegalite_to_svg(json.dumps(plain_all(spec)), allowed_base_urls=[])
    return svg


def _painted(svg: str, colours: Mapping[str, str]) -> str:
    for name, colour in colours.items():
        svg = svg.replace(name, colour)
    return svg
