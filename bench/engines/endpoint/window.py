"""What a window of requests amounts to: figures, or what went wrong and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Any

from bench.engines.endpoint.client import Answer
from bench.engines.endpoint.load import ClientLoad, Window
from bench.engines.endpoint.settings import EndpointSettings
from bench.engines.messages import Answered, Served, TokenCounts
from bench.errors import UnsupportedError
from bench.statistics import percentile

LATE_S = 0.005
"""Delays and lags below this are of no account: an idle event loop wakes about 1 ms late."""
STAMP_SHARE = 0.02
"""Of the median time to the first token, by which stamps may be late in the mean."""
STAMP_S = 0.0005
"""Below this in the mean they are of no account."""
LATE_SHARE = 0.05
"""Of the median request, by which requests may be late at the 95th percentile."""
LAG_SHARE = 0.1
"""Of the median time per token, by which the event loop may be late at the 95th percentile."""


HELD = 4
HELD_SHARE = 0.25
"""Chunks that come with the first one, at least so many and such a share of all: the time to the
first is then that of a buffer which filled."""


CACHED_SHARE = 0.01
"""Of all prompts' tokens, that may come from a cache: random prompts at times begin alike by
chance, and what that saves cannot show in any figure."""


def served(window: Window, settings: EndpointSettings, planned: int, shared: int = 0) -> Served:
    """Figures of the requests that were answered. Raises UnsupportedError where too many failed.

    `planned`: how many requests the window was to hold at least. `shared`: tokens that all prompts
    have in common (a chat template), which a cache may rightly hold.
    """
    refuse_buffers(window)
    counted = counts(window)
    if window.fails(planned, settings.allow_failed):
        raise failed(window.answers, counted)
    good = [answer for answer in window.answers if answer.failure is None]
    if not good:
        raise failed(window.answers, counted)
    late = lateness(window, good)
    reasons = set()
    if late["client_bound"]:
        reasons.add("CLIENT_BOUND")
    if window.n_failed:
        reasons.add("REQUESTS_FAILED")
    if not settings.prefix_cache and _cached_share(good, shared) > CACHED_SHARE:
        reasons.add("PREFIX_CACHED")
    return Served(
        requests=[answered(answer) for answer in good],
        wall_s=window.wall_s,
        device={"requests": counted, "client": late} | _own_timings(good),
        reasons=tuple(sorted(reasons)),
        absent=_absent(good),
    )


def _cached_share(good: Sequence[Answer], shared: int) -> float:
    """Share of the prompts' tokens, but for those that all share, that came from a cache."""
    cached = sum(max((a.cached_tokens or 0) - shared, 0) for a in good)
    return cached / max(sum((a.prompt_tokens or 0) - shared for a in good), 1)


def refuse_buffers(window: Window) -> None:
    """Fail the answers that a buffer held back, where they are most: in one, the client stopped."""
    good = [answer for answer in window.answers if answer.failure is None]
    held = {id(a) for a in good if a.n_first >= max(HELD, HELD_SHARE * (len(a.itl_s) + 1))}
    if len(held) * 2 <= len(good):
        return
    window.answers = [
        replace(
            answer,
            failure="buffered",
            ttft_s=None,
            itl_s=(),
            e2e_s=None,
            detail=f"the first {answer.n_first} of {len(answer.itl_s) + 1} chunks came at once",
        )
        if id(answer) in held
        else answer
        for answer in window.answers
    ]


def answered(answer: Answer) -> Answered:
    """Of an answer without fault."""
    assert answer.ttft_s is not None
    assert answer.e2e_s is not None
    asked, told = answer.asked, None
    if asked is not None:
        told = TokenCounts(
            n_prompt=answer.prompt_tokens or asked.n_prompt,
            n_gen=answer.output_tokens or asked.n_gen,
            n_shared=asked.n_shared,
            n_cached=answer.cached_tokens,
        )
    return Answered(prefill_s=answer.ttft_s, itl_s=answer.itl_s, e2e_s=answer.e2e_s, counts=told)


def counts(window: Window) -> dict[str, Any]:
    """How many requests ended how."""
    answers = window.answers
    return {
        "n_answered": len(answers) - window.n_failed,
        "n_failed": window.n_failed,
        "failed": dict(Counter(a.failure for a in answers if a.failure is not None)),
        "retried": dict(Counter(kind for a in answers for kind in a.retried)),
        "n_ramp": window.n_ramp,
        "n_cut_short": int(window.cut_short),
        "n_empty_chunks": sum(a.n_empty for a in answers),
        "cached_tokens": _total([a.cached_tokens for a in answers if a.failure is None]),
    } | ({} if window.served_share is None else {"served_share": window.served_share})


def _total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def failed(answers: Sequence[Answer], counted: Mapping[str, Any]) -> UnsupportedError:
    """The error for requests that failed: how many of how many, by kind, and one in its words."""
    kinds: dict[str, int] = counted["failed"]
    most = max(kinds, key=lambda kind: kinds[kind])
    detail = next(a.detail for a in answers if a.failure == most)
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    total = counted["n_answered"] + counted["n_failed"]
    code = "TOKEN_COUNT" if set(kinds) <= {"token_count", "no_usage"} else "REQUESTS_FAILED"
    return UnsupportedError(
        f"{counted['n_failed']} of {total} requests failed ({said}): {detail or most}",
        code,
        about={"requests": counted},
    )


def lateness(window: Window, good: Sequence[Answer]) -> dict[str, Any]:
    """How late the client was, and whether that is too late for its figures to be the server's;
    what it took. Of several processes the latest counts: its answers are among the others."""
    clients = window.clients
    late = _most(fmean(one.stamps_late_s) for one in clients if one.stamps_late_s)
    delay = percentile(window.delays_s, 0.95)
    lag = _most(percentile(one.lags_s, 0.95) for one in clients)
    cpu = [one.cpu_s / one.wall_s for one in clients if one.wall_s]
    peaks = [one.peak_bytes for one in clients]
    return {
        "stamp_late_mean_s": late,
        "stamp_late_p95_s": _most(percentile(one.stamps_late_s, 0.95) for one in clients),
        "chunks_s": _chunks_s(clients),
        "delay_p95_s": delay,
        "delay_max_s": max(window.delays_s, default=None),
        "lag_p95_s": lag,
        "lag_max_s": _most(max(one.lags_s, default=None) for one in clients),
        "connect_s": max((a.connect_s for a in good), default=None),
        "n_clients": len(clients),
        "cpu_share": sum(cpu) if cpu else None,
        "cpu_share_max": max(cpu, default=None),
        "memory_bytes": None if None in peaks or not peaks else sum(p or 0 for p in peaks),
        "client_bound": _bound(good, delay=delay, lag=lag, late=late),
    }


def _bound(
    good: Sequence[Answer], *, delay: float | None, lag: float | None, late: float | None
) -> bool:
    """Whether one of these is above its limits, all in seconds."""
    e2e = median(answer.e2e_s or 0.0 for answer in good)
    steps = [
        (a.e2e_s - a.ttft_s) / (a.output_tokens - 1)
        for a in good
        if a.e2e_s and a.ttft_s and a.output_tokens and a.output_tokens > 1
    ]
    ttft = median(answer.ttft_s or 0.0 for answer in good)
    return (
        (delay or 0.0) > max(LATE_S, LATE_SHARE * e2e)
        or (bool(steps) and (lag or 0.0) > max(LATE_S, LAG_SHARE * median(steps)))
        or (late or 0.0) > max(STAMP_S, STAMP_SHARE * ttft)
    )


def _chunks_s(clients: Sequence[ClientLoad]) -> float | None:
    """Arrivals a second, as long as requests were sent: before the window as well."""
    each = [len(one.stamps_late_s) / one.wall_s for one in clients if one.wall_s]
    return sum(each) or None


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _absent(good: Sequence[Answer]) -> dict[str, str]:
    absent = {}
    chunks = sum(len(a.itl_s) + 1 for a in good)
    tokens = sum(a.output_tokens or 0 for a in good)
    if chunks != tokens:
        absent["itl_s"] = f"{chunks} chunks for {tokens} tokens: gaps are between chunks"
    if any(a.cached_tokens is None for a in good):
        absent["cached_tokens"] = "the server does not report cached tokens"
    return absent


def _own_timings(good: Sequence[Answer]) -> dict[str, Any]:
    """Medians of the server's own figures, where it sends some: a cross-check of ours."""
    own = [answer.timings for answer in good if answer.timings]
    figures = {
        name: median(values)
        for name in ("prompt_ms", "predicted_ms", "predicted_per_token_ms")
        if (values := [t[name] for t in own if isinstance(t.get(name), int | float)])
    }
    return {"server_timings": figures} if figures else {}
