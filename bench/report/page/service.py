"""What a token costs while users still wait an acceptable time: the curve, and its knee."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.cost import usd_per_mtok
from bench.cost.row import CostRow
from bench.report.page import pictures
from bench.report.page.blocks import Cell, ChartLine, Head, Picture, Section, Table
from bench.report.page.machines import Machine
from bench.report.page.words import number
from bench.report.tables.row import Shown
from bench.statistics import Estimate, log_interval, requests_needed
from bench.summary.service import LoadPoint

NO_PRICE = "no price was given: `bench report --rent USD_PER_HOUR`"
NO_PACE = "too few requests for the interval of a median time per token, or one token each"


def service(machine: Machine) -> Section | None:
    """Cost against speed for each user, and the highest load within the limits; None without a
    search, which few results have."""
    head = Section(id=f"{machine.id}-service", title="What does a token cost at a service level?")
    rows = [row for row in machine.rows if row.row.level is not None]
    if not rows:
        return None
    limits = ", ".join(dict.fromkeys(row.sizes.slo for row in rows))
    lead = (
        f"Limits: {limits}. The highest rate of arrivals that keeps them was searched by open-loop "
        "windows; its interval is the jackknife's over fresh replicates."
    )
    return replace(head, lead=lead, blocks=(_curve(machine, rows), _levels(machine, rows)))


def _curve(machine: Machine, rows: list[Shown]) -> Picture:
    drawn = [point for row in rows for point in _points(machine, row)]
    priced = any(machine.costs.get((row.arm.name, row.sizes)) for row in rows)
    return Picture(
        id=f"{machine.id}-service-curve",
        title="Cost against speed for each user",
        caption="Each point is a rate of arrivals: right is faster for a user, down is cheaper. "
        "Lines through points are 95% intervals. The large mark is the highest load within the "
        "limits; hollow points are beyond them.",
        alt="; ".join(
            f"{p['variant']}, {p['label']}: ${number(p['y'])} at {number(p['x'])} tok/s a user"
            for p in drawn
        ),
        spec=pictures.frontier(drawn, machine.arms) if drawn else None,
        missing="" if drawn else NO_PACE if priced else NO_PRICE,
        table=_points_table(machine, rows),
    )


def _points(machine: Machine, row: Shown) -> Iterator[pictures.Row]:
    """The probes of a level, and the level itself."""
    cost, level = machine.costs.get((row.arm.name, row.sizes)), row.row.level
    if cost is None or level is None:
        return
    for one in level.curve:
        if one.user_tok_s is None or one.rate is None:
            continue
        y = _price(cost, one)
        yield {
            "variant": machine.name(row),
            "rate": one.rate,
            "x": one.user_tok_s.value,
            "x_low": one.user_tok_s.low,
            "x_high": one.user_tok_s.high,
            "y": y.value,
            "y_low": y.low,
            "y_high": y.high,
            "kind": "within the limits" if one.keeps else "beyond them",
            "label": f"{number(one.rate)} requests/s",
        }
    if level.knee is not None and level.knee.user_tok_s is not None and cost.usd_per_mtok:
        pace = level.knee.user_tok_s
        yield {
            "variant": machine.name(row),
            "rate": row.value("requests_s") or 0.0,
            "x": pace.value,
            "x_low": pace.low,
            "x_high": pace.high,
            "y": cost.usd_per_mtok,
            "y_low": cost.ci_low or cost.usd_per_mtok,
            "y_high": cost.ci_high or cost.usd_per_mtok,
            "kind": "knee",
            "label": f"knee, {number(row.value('requests_s') or 0.0)} requests/s",
        }


def _price(cost: CostRow, one: LoadPoint) -> Estimate:
    """A million tokens at a point of the curve, by the hour that the level is priced by."""
    hour, gpus = cost.usd_per_busy_hour or 0.0, cost.gpus or 1
    speeds = [each for each in one.total_tok_s_each if each > 0]
    found = log_interval(speeds)

    def usd(tok_s: float) -> float:
        return usd_per_mtok(tok_s / gpus, hour / gpus)

    value = usd(found.value)
    if found.low is None or found.high is None:
        return Estimate(value, value, value)
    return Estimate(value, usd(found.high), usd(found.low))


def _points_table(machine: Machine, rows: list[Shown]) -> Table:
    """The curve's figures; percentiles with their order-statistic intervals."""
    names = dict.fromkeys(
        name
        for row in rows
        if row.row.level
        for one in row.row.level.curve
        for name in one.percentiles
    )
    heads = (
        Head(text="arm"),
        Head(text="requests/s", numeric=True),
        Head(text="within limits/s", numeric=True),
        Head(text="output tok/s", numeric=True),
        Head(text="at once", numeric=True),
        *(Head(text=name, numeric=True, note="s") for name in names),
        Head(text="requests", numeric=True),
        Head(text="keeps"),
    )
    lines = [
        ChartLine(
            cells=(
                Cell(text=machine.name(row)),
                _cell(one.rate, "alone"),
                _cell(one.goodput_req_s),
                _cell(one.output_tok_s),
                _cell(one.concurrency),
                *(_percentile(one, name) for name in names),
                Cell(text=str(one.n_requests), value=one.n_requests),
                Cell(text="yes" if one.keeps else "no" if one.rate else "-"),
            )
        )
        for row in rows
        if row.row.level
        for one in row.row.level.curve
    ]
    return Table(
        id=f"{machine.id}-service-points",
        caption="Every rate that was tried",
        heads=heads,
        lines=tuple(lines),
        folded=True,
    )


def _levels(machine: Machine, rows: list[Shown]) -> Table:
    """The highest load of each arm, and what a token costs there."""
    heads = (
        Head(text="arm"),
        Head(text="limits"),
        Head(text="requests/s", numeric=True),
        Head(text="total tok/s", numeric=True),
        Head(text="$ per Mtok", numeric=True),
        Head(text="$/h kept ready", numeric=True),
        Head(text="prompt cached", numeric=True),
    )
    return Table(
        id=f"{machine.id}-service-levels",
        caption="The highest load within the limits",
        heads=heads,
        lines=tuple(_level(machine, row) for row in rows),
    )


def _level(machine: Machine, row: Shown) -> ChartLine:
    level, cost = row.row.level, machine.costs.get((row.arm.name, row.sizes))
    assert level is not None
    found, share = machine.interval(row, "requests_s"), level.cached_share
    ends = "" if found is None or found.low is None else _ends(found.low, found.high)
    usd = None if cost is None else cost.usd_per_mtok
    ready = None if cost is None else cost.usd_per_available_hour
    of_cost = _ends(cost.ci_low, cost.ci_high) if cost and cost.ci_low else ""
    return ChartLine(
        cells=(
            Cell(text=machine.name(row)),
            Cell(text=row.sizes.slo, detail=row.sizes.requests or level.absent),
            replace(_cell(None if found is None else found.value), detail=ends),
            _cell(row.value("total_tok_s")),
            replace(_cell(usd), detail=of_cost),
            _cell(ready),
            Cell(text="-" if share is None else f"{share:.0%}", value=share),
        )
    )


def _cell(value: float | None, missing: str = "-") -> Cell:
    return Cell(text=missing if value is None else number(value), value=value)


def _percentile(point: LoadPoint, name: str) -> Cell:
    """A limit's figure at its percentile, or how many requests that would take."""
    if (found := point.percentiles.get(name)) is not None or name not in point.percentiles:
        return _interval(found)
    share = float(name.rpartition("_p")[2]) / 100
    return Cell(text="-", detail=f"needs {requests_needed(share)} requests")


def _interval(found: Estimate | None) -> Cell:
    if found is None:
        return Cell(text="-")
    detail = _ends(found.low, found.high)
    return Cell(text=number(found.value), detail=detail, value=found.value)


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"
