"""Charts as Vega-Lite, made with Altair from plain rows. Colours are names of a theme.

Each function takes rows (lists of dicts, no None in what is drawn) and returns the specification.
`bench.report.page.drawing` puts in the colours of the page's light and dark theme, or of paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import altair as alt

Spec = dict[str, Any]
Row = Mapping[str, Any]

INK: Final = "#010101"
MUTED: Final = "#020202"
GRID: Final = "#030303"
SURFACE: Final = "#040404"
SERIES: Final = tuple(f"#a0000{i}" for i in range(1, 9))
"""Stand-ins that no other colour of a chart equals; `drawing.LIGHT` has the real."""
KINDS: Final = {"better": SERIES[0], "worse": SERIES[1], "same": MUTED, "no verdict": MUTED}
SHAPES: Final = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)

FONT: Final = "Helvetica, Arial, Liberation Sans, sans-serif"
"""Widths of these are known where charts are laid out, so that labels fit."""

ENDS: Final = ("low", "high")
RATIOS: Final = (1, 1.25, 1.5, 2, 3, 4, 6, 8)
"""Ticks in a decade of a logarithmic axis of ratios."""

MOST_LABELS: Final = 4
"""Points of a trade-off up to which names stand beside them; more would overlap."""

WIDTH: Final = 600
HEIGHT: Final = 300


def _done(chart: Any) -> Spec:
    """The chart with the house's style."""
    axis = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": GRID,
        "domainColor": GRID,
        "tickColor": GRID,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelLimit": 260,
    }
    legend = {
        "labelColor": INK,
        "titleColor": MUTED,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "orient": "bottom",
        "labelLimit": 320,
        "symbolStrokeWidth": 2,
        "columns": 3,
        "columnPadding": 20,
        "padding": 14,
        "symbolBaseFillColor": INK,
        "symbolBaseStrokeColor": INK,
    }
    styled = chart.configure(
        background="transparent",
        font=FONT,
        aria=False,
        padding=10,
        axis=axis,
        legend=legend,
        view={"stroke": None},
        header={"labelColor": INK, "titleColor": MUTED, "labelFontSize": 13},
        text={"color": INK, "fontSize": 12},
        rule={"color": MUTED},
        mark={"color": SERIES[0]},
        range={"category": list(SERIES)},
    )
    spec: Spec = styled.to_dict()
    return spec


def _data(rows: Sequence[Row]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _by_variant(rows: Sequence[Row], arms: Sequence[str]) -> tuple[Any, Any]:
    """Colour and shape of each variant: never told apart by colour alone.

    `arms` are all of the machine, in their order: an arm looks alike in every chart.
    """
    shapes = [SHAPES[(i + i // len(SERIES)) % len(SHAPES)] for i in range(len(arms))]
    shape = alt.Shape("variant:N", title=None, scale=_looks(rows, arms, shapes))
    return _colour(rows, arms), shape


def _colour(rows: Sequence[Row], arms: Sequence[str], channel: Any = alt.Color) -> Any:
    colours = [SERIES[i % len(SERIES)] for i in range(len(arms))]
    return channel("variant:N", title=None, scale=_looks(rows, arms, colours))


def _looks(rows: Sequence[Row], arms: Sequence[str], looks: Sequence[str]) -> alt.Scale:
    """The scale of the arms that are drawn."""
    drawn = {row["variant"] for row in rows}
    found = {arm: look for arm, look in zip(arms, looks, strict=True) if arm in drawn}
    return alt.Scale(domain=list(found), range=list(found.values()))


def forest(rows: Sequence[Row], metrics: Sequence[str]) -> Spec:
    """Ratios with intervals, one band a metric. Rows: metric, arm, ratio, low, high, kind."""
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=[KINDS[kind] for kind in kinds]),
    )
    filled = {"better": "circle", "worse": "square", "same": "diamond", "no verdict": "cross"}
    shape = alt.Shape(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=[filled[kind] for kind in kinds]),
    )
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    ends = [row[end] for row in rows for end in ENDS]
    x = alt.X(
        "ratio:Q",
        title="candidate / baseline (1 = no difference)",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(format="~g", values=_steps(ends, RATIOS)),
    )
    y = alt.Y("arm:N", title=None, sort=arms, axis=alt.Axis(grid=False, ticks=False, domain=False))
    base = alt.Chart()
    layers = alt.layer(
        base.mark_rule(strokeDash=[4, 3], color=MUTED).encode(x=alt.datum(1, type="quantitative")),
        base.mark_rule(strokeWidth=2.5).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape
        ),
        base.mark_text(align="left", dx=10, baseline="middle").encode(
            x=alt.X("end:Q"), y=y, text="label:N"
        ),
        data=_data(rows),
    ).properties(width=WIDTH - 140, height={"step": 24})
    header = alt.Header(
        labelAngle=0,
        labelAlign="left",
        labelAnchor="start",
        labelOrient="top",
        labelPadding=2,
        title=None,
    )
    bands = layers.facet(row=alt.Row("metric:N", sort=list(metrics), header=header), spacing=14)
    return _done(bands.resolve_scale(y="independent"))


def batches(rows: Sequence[Row], arms: Sequence[str]) -> Spec:
    """Throughput against latency, one line a variant. Rows: variant, x, y, n_batch."""
    return _line(
        rows,
        arms,
        "milliseconds between tokens of one sequence",
        "new tokens a second, all sequences",
    )


def _line(rows: Sequence[Row], arms: Sequence[str], x_title: str, y_title: str) -> Spec:
    colour, shape = _by_variant(rows, arms)
    x = alt.X(
        "x:Q",
        title=x_title,
        scale=alt.Scale(zero=False, nice=False, padding=20),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    y = alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6))
    base = alt.Chart(_data(rows)).encode(x=x, y=y)
    order = alt.Order("n_batch:Q")
    return _done(
        alt.layer(
            base.mark_line(strokeWidth=2).encode(color=colour, order=order),
            base.mark_point(filled=True, size=70, opacity=1).encode(color=colour, shape=shape),
            base.mark_text(dy=-12, fontSize=11).encode(text="label:N"),
        ).properties(width=WIDTH, height=HEIGHT)
    )


def over_batch(rows: Sequence[Row], arms: Sequence[str], title: str, *, log: bool = True) -> Spec:
    """A figure over the batch. Rows: variant, n_batch, y, low, high."""
    colour, shape = _by_variant(rows, arms)
    ticks = sorted({row["n_batch"] for row in rows})
    x = alt.X(
        "n_batch:Q",
        title="sequences in the batch",
        scale=alt.Scale(type="log", base=2, nice=False, padding=16),
        axis=alt.Axis(values=ticks, format="d"),
    )
    axis = alt.Axis(format="~g", tickCount=6)
    if log:
        axis = alt.Axis(format="~g", values=_steps([row[end] for row in rows for end in ENDS]))
    scale = alt.Scale(type="log" if log else "linear", nice=False, zero=False, padding=16)
    y = alt.Y("y:Q", title=title, scale=scale, axis=axis)
    base = alt.Chart(_data(rows)).encode(x=x)
    return _done(
        alt.layer(
            base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q", color=colour),
            base.mark_line(strokeWidth=2).encode(y=y, color=colour),
            base.mark_point(filled=True, size=70, opacity=1).encode(y=y, color=colour, shape=shape),
        ).properties(width=WIDTH, height=HEIGHT)
    )


def frontier(rows: Sequence[Row], arms: Sequence[str]) -> Spec:
    """Cost over each user's speed, a line a variant, with both intervals and the knee.

    Rows: variant, rate, x, x_low, x_high, y, y_low, y_high, kind, label.
    """
    colour, shape = _by_variant(rows, arms)
    x = alt.X(
        "x:Q",
        title="new tokens a second of one user",
        scale=alt.Scale(zero=False, nice=False, padding=20),
        axis=alt.Axis(format=".3~r", tickCount=6),
    )
    prices = [row[end] for row in rows for end in ("y_low", "y_high")]
    y = alt.Y(
        "y:Q",
        title="$ per million tokens",
        scale=alt.Scale(type="log", nice=False, zero=False, padding=16),
        axis=alt.Axis(format="~g", values=_steps(prices)),
    )
    base = alt.Chart(_data(rows))
    probes = base.transform_filter(alt.datum.kind != "knee")
    kept = probes.transform_filter(alt.datum.kind == "within the limits")
    beyond = probes.transform_filter(alt.datum.kind == "beyond them")
    knee = base.transform_filter(alt.datum.kind == "knee")
    rule = base.mark_rule(strokeWidth=1.5, opacity=0.6)
    return _done(
        alt.layer(
            probes.mark_line(strokeWidth=1.5).encode(
                x=x, y=y, color=colour, order=alt.Order("rate:Q")
            ),
            rule.encode(x="x_low:Q", x2="x_high:Q", y="y:Q", color=colour),
            rule.encode(x="x:Q", y="y_low:Q", y2="y_high:Q", color=colour),
            kept.mark_point(filled=True, size=50, opacity=1).encode(
                x=x, y=y, color=colour, shape=shape
            ),
            beyond.mark_point(filled=False, size=50, opacity=1).encode(
                x=x, y=y, color=colour, shape=shape
            ),
            knee.mark_point(filled=True, size=220, opacity=1).encode(
                x=x, y=y, color=colour, shape=shape
            ),
            knee.mark_text(align="left", dx=14, dy=12, fontSize=11).encode(
                x=x, y=y, text="label:N"
            ),
        ).properties(width=WIDTH, height=HEIGHT)
    )


def pay_back(rows: Sequence[Row], names: Sequence[str]) -> Spec:
    """Months over tokens a day, a line a name, shapes at powers of ten. Rows: variant, x, y."""
    colour, shape = _by_variant(rows, names)
    marked = [row for row in rows if math.log10(row["x"]).is_integer()]
    x = alt.X(
        "x:Q",
        title="tokens a day",
        scale=alt.Scale(type="log", nice=False, padding=16),
        axis=alt.Axis(format="~s", values=_powers([row["x"] for row in rows])),
    )
    y = alt.Y(
        "y:Q",
        title="months",
        scale=alt.Scale(type="log", nice=False, padding=16),
        axis=alt.Axis(format="~g", values=_steps([row["y"] for row in rows])),
    )
    lines = alt.Chart(_data(rows)).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour)
    points = alt.Chart(_data(marked)).mark_point(filled=True, size=70, opacity=1)
    layers = alt.layer(lines, points.encode(x=x, y=y, color=colour, shape=shape))
    return _done(layers.properties(width=WIDTH, height=HEIGHT))


def trade(rows: Sequence[Row], arms: Sequence[str], x_title: str, y_title: str) -> Spec:
    """Quality lost against what it buys, front filled. Rows: variant, model, x, y, low, high,
    front."""
    colour, shape = _by_variant(rows, arms)
    x = alt.X(
        "x:Q",
        title=x_title,
        scale=alt.Scale(zero=False, nice=False, padding=70),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    y = alt.Y(
        "y:Q",
        title=y_title,
        scale=alt.Scale(type="sqrt", zero=True),
        axis=alt.Axis(format="~g", tickCount=5),
    )
    base = alt.Chart(_data(rows)).encode(x=x)
    names = list(dict.fromkeys(str(row["variant"]) for row in rows))
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["x"])
    layers = [
        alt.Chart(_data(front))
        .mark_line(color=MUTED, strokeDash=[3, 3], interpolate="step-after")
        .encode(x=x, y=y, detail="model:N"),
        base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q", color=colour),
        base.mark_point(size=110, opacity=1, strokeWidth=2).encode(
            y=y,
            color=colour,
            shape=shape,
            fillOpacity=alt.condition("datum.front", alt.value(1), alt.value(0)),
            fill=_colour(rows, arms, alt.Fill),
        ),
    ]
    if len(names) <= MOST_LABELS:
        layers.append(base.mark_text(align="left", dx=8, dy=-11).encode(y=y, text="variant:N"))
    return _done(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT))


def _steps(values: Sequence[float], steps: Sequence[float] = (1, 2, 5)) -> list[float]:
    """1, 2, 5, 10, ... from just below to just above some values."""
    low, high = min(values) / 1.5, max(values) * 1.5
    every = [step * power for power in _powers([low, high]) for step in steps]
    return [step for step in every if low <= step <= high]


def _powers(values: Sequence[float]) -> list[float]:
    """The powers of ten that span some values: one line of the grid each."""
    ends = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(ends[0], ends[1] + 1)]


def roofline(points: Sequence[Row], arms: Sequence[str], roofs: Sequence[Row]) -> Spec:
    """What was reached under what the card allows.

    Points: variant, phase, x (operations a byte), y (operations a second). Roofs: name, x, y.
    """
    colour, _ = _by_variant(points, arms)
    drawn = [*points, *roofs]
    x = alt.X(
        "x:Q",
        title="operations for each byte moved",
        scale=alt.Scale(type="log", nice=False, padding=6),
        axis=alt.Axis(format="~s", values=_powers([row["x"] for row in drawn])),
    )
    y = alt.Y(
        "y:Q",
        title="operations a second",
        scale=alt.Scale(type="log", nice=False, padding=16),
        axis=alt.Axis(format="~s", values=_powers([row["y"] for row in drawn])),
    )
    shape = alt.Shape(
        "phase:N",
        title=None,
        scale=alt.Scale(domain=["decode", "prefill"], range=["circle", "triangle-up"]),
    )
    roof = alt.Chart(_data(roofs)).encode(x=x, y=y, detail="name:N")
    ends = alt.Chart(_data([row for row in roofs if row.get("label")])).encode(x=x, y=y)
    return _done(
        alt.layer(
            roof.mark_line(color=INK, strokeWidth=1.5),
            ends.mark_text(align="right", dx=-4, dy=-8, color=MUTED).encode(text="label:N"),
            alt.Chart(_data(points))
            .mark_point(filled=True, size=75, opacity=1)
            .encode(x=x, y=y, color=colour, shape=shape),
        ).properties(width=WIDTH, height=HEIGHT + 20)
    )


def bars(rows: Sequence[Row], arms: Sequence[str], title: str) -> Spec:
    """A figure with its interval, one row an arm. Rows: arm, variant, y, low, high."""
    colour, _ = _by_variant(rows, arms)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    y = alt.Y("arm:N", title=None, sort=arms, axis=alt.Axis(grid=False, ticks=False, domain=False))
    base = alt.Chart(_data(rows)).encode(y=y)
    x = alt.X("y:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6))
    return _done(
        alt.layer(
            base.mark_bar(height=12, opacity=0.85).encode(x=x, color=colour.legend(None)),
            base.mark_rule(strokeWidth=2, color=INK).encode(x="low:Q", x2="high:Q"),
        ).properties(width=WIDTH - 140, height={"step": 24})
    )
