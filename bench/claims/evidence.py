"""Evidence for a sub-claim against one baseline: dates, list prices, bounds, published figures.

What was measured here comes from `bench.claims.measured`. Each figure carries how it was computed,
line by line. Standard library only, so that claims can be judged on any machine; but for a
prediction, which needs numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from bench.claims import ByBound, ByPrediction, ByPublished, ByRent, Reported, SubClaim
from bench.claims.verdicts import Evidence
from bench.cost import usd_per_mtok
from bench.cost.books import ApiPrice
from bench.cost.prices import api_price, gpu_rent
from bench.errors import InputError
from bench.predict import published
from bench.roofline import TOLERANCE, Bound, bound, gib
from bench.roofline.gpus import gpus

if TYPE_CHECKING:
    from bench.predict import Predictor

PUBLISHED_MARGIN: Final = 0.10
"""What a published rate without a spread may be off by, on either side: an assumption, wider than
the 1% to 3% between runs that notebooks with several runs show."""

PAIRS_TO_SUPPORT: Final = 3
"""Published pairs from which their whole range, widened by the margin, may support."""


@cache
def _rows() -> tuple[published.PublishedRow, ...]:
    return tuple(published.rows())


@cache
def _sources() -> dict[str, published.PublishedSource]:
    return published.sources()


def gather(part: SubClaim, baseline: str | None) -> list[Evidence]:
    """All that is known without own measurements; a baseline of None is a stated figure."""
    by = part.decided_by
    found: list[Evidence] = []
    if by.date and baseline is not None:
        found.append(_by_date(part, baseline))
    if by.list_price and baseline is not None:
        found.append(_by_price(part, baseline))
    if by.bound is not None:
        found += _by_bound(part, by.bound, baseline)
    if by.predicted is not None and baseline is not None:
        found.append(_by_prediction(part, by.predicted, baseline))
    if baseline is not None:
        found += [item for way in by.published for item in _by_rows(part, way, baseline)]
        found += [_by_rent(part, way, baseline) for way in by.rent]
    return found + [_reported(item) for item in by.reported]


def _by_date(part: SubClaim, baseline: str) -> Evidence:
    """1 if the baseline is newer than the treatment and out on that day, else 0."""
    assert part.decided_by.date is not None
    on = part.decided_by.date.on
    ours, other = gpus()[part.treatment], gpus()[baseline]
    if ours.released is None or other.released is None:
        why = f"the release date of {ours.title} or {other.title} is not in the catalog"
        return Evidence(level="published", value=None, invalid=why)
    if on < ours.released:
        return Evidence(level="published", value=None, invalid=f"{ours.title} was not out on {on}")
    newer = ours.released < other.released <= on
    dates = f"{ours.title} came out {ours.released}, {other.title} {other.released}"
    return Evidence(
        level="published",
        value=float(newer),
        exact=True,
        scope=f"up to {on}",
        source=other.source_of("released"),
        note=f"by date: {dates}",
        steps=(dates, f"newer and out on {on}: {'yes' if newer else 'no'}"),
    )


def _by_price(part: SubClaim, baseline: str) -> Evidence:
    """The ratio of list prices, or its range over the kinds of tokens."""
    way = part.decided_by.list_price
    assert way is not None
    try:
        ours = api_price(part.treatment, way.on, way.offer)
        theirs = api_price(baseline, way.on)
    except InputError as error:
        return Evidence(level="list_price", value=None, invalid=str(error))
    pairs: list[tuple[str, float | None, float | None]]
    if way.mix is not None:
        pairs = [("mix", _of_mix(ours, way.mix), _of_mix(theirs, way.mix))]
    else:
        pairs = [(kind, getattr(ours, kind), getattr(theirs, kind)) for kind in way.kinds]
    ratios, steps = [], []
    for kind, cost, against in pairs:
        if cost is None or against is None:
            who = part.treatment if cost is None else baseline
            reason = f"{who} has no {kind} price on {way.on}"
            return Evidence(level="list_price", value=None, invalid=reason)
        ratios.append(cost / against)
        steps.append(f"{kind}: ${cost:.6g} / ${against:.6g} = {cost / against:.4%}")
    return Evidence(
        level="list_price",
        value=sum(ratios) / len(ratios),
        low=min(ratios),
        high=max(ratios),
        exact=True,
        scope=f"prices of {way.on}",
        source=f"{ours.source}; {theirs.source}",
        note=way.mix_source and f"mix: {way.mix_source}",
        steps=(f"{ours.place.rsplit('/', 1)[-1]} over {theirs.place.rsplit('/', 1)[-1]}", *steps),
    )


def _of_mix(price: ApiPrice, mix: tuple[float, float, float]) -> float | None:
    """Dollars for those tokens."""
    fresh, cached, output = mix
    if cached and price.cached_input is None:
        return None
    return (fresh * price.input + cached * (price.cached_input or 0) + output * price.output) / 1e6


def _by_bound(part: SubClaim, way: ByBound, baseline: str | None) -> list[Evidence]:
    if way.compare == "rate":
        return [_rate_bound(part, way)]
    if baseline is None:
        return []
    if way.compare == "fits":
        return [_fits_bound(part, way, baseline)]
    ours, theirs = _limits(part, way, baseline)
    top, bottom = getattr(ours, way.figure), getattr(theirs, way.figure)
    if top is None or bottom is None:
        reason = {**ours.absent, **theirs.absent}.get(way.figure, "no bound is known")
        return [Evidence(level="bound", value=None, invalid=reason)]
    ratio = top / bottom
    found = [
        Evidence(
            level="bound",
            value=ratio,
            high=ratio / way.least_share,
            scope=f"{way.model}, {way.quant}" if way.compare == "cards" else f"on {way.gpu}",
            source="data sheets, bench/data/gpus.toml",
            note=f"{part.treatment} over {baseline} at equal efficiency {ratio:.3g}"
            + _condition(way, baseline, ratio),
            steps=(
                f"most that {part.treatment} allows: {top:.4g} tok/s",
                f"most that {baseline} allows: {bottom:.4g} tok/s; ratio {ratio:.3f}",
                *_share_steps(part, way, baseline, ratio),
            ),
        )
    ]
    if way.compare == "cards":
        found += _against_measured(part, way, baseline, top)
    return sorted(found, key=lambda item: item.high or 0)  # the tightest ceiling first


def _condition(way: ByBound, baseline: str, ratio: float) -> str:
    """What the ceiling rests on, where it is not physics alone."""
    if way.least_share == 1:
        return ""
    return (
        f"; at most {ratio / way.least_share:.3g} if {baseline} reaches {way.least_share:.0%} of "
        "its own bound"
    )


def _share_steps(part: SubClaim, way: ByBound, baseline: str, ratio: float) -> Iterator[str]:
    if way.least_share == 1:
        return
    yield (
        f"assumed: {baseline} reaches at least {way.least_share:.0%} of its bound, hence at most "
        f"{ratio / way.least_share:.3f} ({way.least_share_why})"
    )
    for threshold in part.thresholds:
        if 0 < ratio / threshold < 1:
            yield f"{threshold:g} times would need {baseline} at {ratio / threshold:.0%} or less"


def _limits(part: SubClaim, way: ByBound, baseline: str) -> tuple[Bound, Bound]:
    if way.compare == "schemes":
        assert way.gpu is not None
        return _limit(way, way.gpu, part.treatment), _limit(way, way.gpu, baseline)
    return _limit(way, part.treatment, way.quant), _limit(way, baseline, way.quant)


def _limit(way: ByBound, gpu: str, quant: str) -> Bound:
    return bound(
        published.card(way.model),
        gpus()[gpu],
        quant,
        way.n_prompt,
        way.n_gen,
        way.n_batch,
        dtype=way.dtype,
        engine=way.engine,
        n_devices=way.n_gpus,
    )


def _against_measured(
    part: SubClaim, way: ByBound, baseline: str, top: float
) -> Iterator[Evidence]:
    """The treatment at its bound over the baseline as somebody measured it: a hard ceiling."""
    rows = [
        row
        for row in _rows()
        if (row.gpu, row.model, row.quant, row.engine, row.n_gpus, row.excluded)
        == (baseline, way.model, way.quant, way.engine, way.n_gpus, "")
        and (row.n_prompt, row.n_batch) == (way.n_gen, way.n_batch)
    ]
    for row in rows[:1]:
        rate: float | None = getattr(row, way.figure)
        if rate is None:
            continue
        ceiling = top / (rate * (1 - PUBLISHED_MARGIN))
        yield Evidence(
            level="bound",
            value=top / rate,
            high=ceiling,
            scope=f"{way.model}, {way.quant}, {way.engine}",
            source=_sources()[row.source].url,
            note=f"{part.treatment} at its bound over {baseline} as published",
            steps=(
                f"{baseline} was measured at {rate:g} tok/s ({row.source}, line {row.line})",
                f"{part.treatment} at its bound, {top:.4g} tok/s: at most {ceiling:.3f} times "
                f"that, with {PUBLISHED_MARGIN:.0%} for the missing spread",
            ),
        )


@cache
def _predictor() -> Predictor:
    from bench.predict import Predictor

    return Predictor()


def _by_prediction(part: SubClaim, way: ByPrediction, baseline: str) -> Evidence:
    """The ratio of two cards that measurements of them and of others make likely."""
    by = _predictor()
    found = by.ratio(
        published.card(way.model),
        way.quant,
        way.engine,
        gpus()[part.treatment],
        gpus()[baseline],
        n_prompt=way.n_prompt,
        n_gen=way.n_gen,
    )
    shown = f"{found.ratio:.3g}, 90% interval {found.low:.3g} to {found.high:.3g}"
    return Evidence(
        level="predicted",
        value=found.ratio,
        low=found.low,
        high=found.high,
        scope=f"{way.model}, {way.quant}, {way.engine}",
        source="bench/data/predict/model.json; docs/predict.md",
        note=f"{part.treatment} over {baseline} predicted: {shown}",
        steps=(
            f"efficiency fitted on {by.n_rows} published decode rates; predicted {shown}",
            "the interval: difference of two cards' errors, each left out of the fit",
        ),
    )


def _rate_bound(part: SubClaim, way: ByBound) -> Evidence:
    """The most a card allows, for a stated rate."""
    limit = _limit(way, part.treatment, way.quant)
    most: float | None = getattr(limit, way.figure)
    if most is None:
        return Evidence(level="bound", value=None, invalid=limit.absent.get(way.figure, "unknown"))
    needed = f"needs {gib(limit.memory_bytes):.1f} GiB of {way.n_gpus} x {part.treatment}"
    return Evidence(
        level="bound",
        value=most,
        high=most * (1 + TOLERANCE),
        scope=f"{way.model}, {way.quant}, batch {way.n_batch}",
        source=gpus()[part.treatment].source,
        note=f"{needed}: {'fits' if limit.fits else 'does not fit'}",
        steps=(
            f"a step reads {limit.decode_bytes / 1e9:.2f} GB; {part.treatment} moves "
            f"{gpus()[part.treatment].bandwidth_gb_s:g} GB/s",
            f"at most {most:.2f} tok/s; with {TOLERANCE:.0%} for memory clocks "
            f"{most * (1 + TOLERANCE):.2f}",
            needed + (": fits" if limit.fits else ": does not fit"),
        ),
    )


def _fits_bound(part: SubClaim, way: ByBound, baseline: str) -> Evidence:
    """Whether only the treatment holds the model: at most 0 if it does not, or the other does."""
    ours, theirs = _limit(way, part.treatment, way.quant), _limit(way, baseline, way.quant)
    only = ours.fits and not theirs.fits
    needed = f"needs {gib(ours.memory_bytes):.1f} GiB"
    held = [
        f"{name} {'holds' if limit.fits else 'does not hold'} it ({gpus()[name].vram_gib:g} GiB)"
        for name, limit in ((part.treatment, ours), (baseline, theirs))
    ]
    return Evidence(
        level="bound",
        value=float(only),
        high=float(only),
        scope=f"{way.model}, {way.quant}",
        exact=True,
        source="data sheets, bench/data/gpus.toml",
        note=f"{needed}: {', '.join(held)}",
        steps=(needed, *held),
    )


def _by_rows(part: SubClaim, way: ByPublished, baseline: str) -> Iterator[Evidence]:
    """The range of the ratio over every pair of rows that differ in one column alone."""
    ours, theirs = way.treatment or part.treatment, way.baseline or baseline
    pairs = list(_pairs(way, ours, theirs)) if ours != theirs else []
    if not pairs:
        return
    ratios = sorted(ratio for ratio, _ in pairs)
    # Both rates of a ratio may be off, and against one another.
    most = (1 + PUBLISHED_MARGIN) / (1 - PUBLISHED_MARGIN)
    low, high = ratios[0] / most, ratios[-1] * most
    count = f"{len(pairs)} published pair{'s' * (len(pairs) > 1)}"
    note = f"{ours} over {theirs}: {ratios[0]:.3g} to {ratios[-1]:.3g} in {count}"
    few = f"{len(pairs)} pairs are fewer than {PAIRS_TO_SUPPORT}"
    stands_in = (ours, theirs) != (part.treatment, baseline)
    yield Evidence(
        level="published",
        value=ratios[len(ratios) // 2],
        low=low,
        high=high,
        invalid=f"something else was measured ({note})" if stands_in else "",
        cannot_support=few if len(pairs) < PAIRS_TO_SUPPORT else "",
        scope=", ".join(f"{key} {value}" for key, value in way.same.items()),
        source="; ".join(sorted({_sources()[row.source].url for _, row in pairs})),
        note=note,
        steps=(
            *(f"throughput.csv:{row.line}: ratio {ratio:.3f}" for ratio, row in pairs),
            f"with {PUBLISHED_MARGIN:.0%} for the missing spread of each rate: "
            f"{low:.3g} to {high:.3g}",
        ),
    )


def _pairs(
    way: ByPublished, treatment: str, baseline: str
) -> Iterator[tuple[float, published.PublishedRow]]:
    """(ratio, treatment's row) of rows that agree in everything that defines the measurement."""
    rows = [row for row in _rows() if matches(row, way.same)]
    figure = "decode_tok_s" if way.figure == "usd_per_mtok" else way.figure
    by_setting: dict[tuple[object, ...], published.PublishedRow] = {
        _setting(row, way.vary): row for row in rows if getattr(row, way.vary) == baseline
    }
    for row in rows:
        other = by_setting.get(_setting(row, way.vary))
        if getattr(row, way.vary) != treatment or other is None:
            continue
        ours, theirs = getattr(row, figure), getattr(other, figure)
        if ours and theirs:
            yield (theirs / ours if way.figure == "usd_per_mtok" else ours / theirs), row


def matches(row: published.PublishedRow, columns: Mapping[str, str | int]) -> bool:
    """Whether a published row has these values."""
    return all(getattr(row, column) == value for column, value in columns.items())


def _setting(row: published.PublishedRow, vary: str) -> tuple[object, ...]:
    keys = (
        "gpu",
        "n_gpus",
        "model",
        "quant",
        "engine",
        "version",
        "measure",
        "n_prompt",
        "n_gen",
        "n_batch",
        "source",
    )
    return tuple(getattr(row, key) for key in keys if key != vary)


def _by_rent(part: SubClaim, way: ByRent, baseline: str) -> Evidence:
    """Dollars for a million output tokens on rented cards, over the API's output price."""
    rows = [row for row in _rows() if matches(row, way.line) and row.decode_tok_s]
    if len(rows) != 1:
        picked = f"{len(rows)} published rows match {dict(way.line)}; exactly one must"
        return Evidence(level=way.level, value=None, invalid=picked)
    row = rows[0]
    assert row.decode_tok_s is not None
    try:
        rent = gpu_rent(way.gpu, way.rent_on, shipped=True)
        api = api_price(baseline, way.api_on).output
    except InputError as error:
        return Evidence(level=way.level, value=None, invalid=str(error))
    scale = usd_per_mtok(1 / row.n_gpus, 1.0) / api  # at one token a second and one dollar
    unit = scale / row.decode_tok_s
    wide = (1 - PUBLISHED_MARGIN, 1 + PUBLISHED_MARGIN)
    low, high = rent.low * unit / wide[1], rent.high * unit / wide[0]
    return Evidence(
        level=way.level,
        value=rent.mode * unit,
        low=low,
        high=high,
        cannot_support="one published run",
        scope=f"{row.n_gpus} x {way.gpu}, {row.quant}, {row.decode_tok_s:g} tok/s",
        source=_sources()[row.source].url,
        note=f"{row.n_gpus} x {way.gpu} at {row.decode_tok_s:g} tok/s",
        steps=(
            f"throughput.csv:{row.line}: {row.decode_tok_s:g} tok/s on {row.n_gpus} x {row.gpu}",
            f"rent on {way.rent_on}: ${rent.low:g} to ${rent.high:g} an hour and card",
            f"${rent.low * unit * api:.4g} to ${rent.high * unit * api:.4g} a million output "
            f"tokens, over ${api:g}: {rent.low * unit:.3%} to {rent.high * unit:.3%}",
            f"with {PUBLISHED_MARGIN:.0%} for the rate's missing spread: {low:.3%} to {high:.3%}",
            *(
                f"{threshold:.3%} is reached from {rent.low * scale / threshold:.4g} to "
                f"{rent.high * scale / threshold:.4g} tok/s on"
                for threshold in part.thresholds
            ),
        ),
    )


def _reported(item: Reported) -> Evidence:
    """A figure without rows: it never supports, as nobody can recompute it."""
    low, high = item.low, item.high
    steps = [f"stated: {item.value:g}"]
    if low is None or high is None:
        low, high = item.value * (1 - PUBLISHED_MARGIN), item.value * (1 + PUBLISHED_MARGIN)
        steps.append(f"with {PUBLISHED_MARGIN:.0%} for the missing spread: {low:.4g} to {high:.4g}")
    return Evidence(
        level=item.level,
        value=item.value,
        low=low,
        high=high,
        cannot_support="a stated figure",
        scope=item.scope,
        source=f"{item.title}, {item.date}: {item.found}",
        note=f"{item.value:g} as stated in {item.title}, {item.date}",
        steps=tuple(steps),
    )
