"""The search for the highest rate within limits, on queues whose answers are known."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from bench.demand.limits import limits, requests_of, within
from bench.demand.search import Probe, bracket, crossing, next_rate, pseudo_values, rate_at
from bench.errors import InputError
from bench.statistics import percentile_interval, requests_needed
from tests.queues import md1, md1_within, mmk, mmk_within, searched


def probe(place: int, kept: int, n: int = 100) -> Probe:
    return Probe(rate=rate_at(place), n=n, kept=(kept,))


def test_erlangs_formulas_at_known_points() -> None:
    assert md1_within(0.5, 0.0) == pytest.approx(0.5)  # the share that need not wait: 1 - rho
    assert md1_within(0.8, 1.0) == pytest.approx(0.2 * math.exp(0.8))
    assert mmk_within(0.5, 3.0, 1) == pytest.approx(1 - math.exp(-0.5 * 3.0))


def test_it_leaps_then_bisects_to_neighbours() -> None:
    probes: list[Probe] = []
    tried = []
    while (rate := next_rate(probes, (0.95,), first=2.0, near=False)) is not None:
        tried.append(rate)
        probes.append(Probe(rate=rate, n=100, kept=(100 if rate <= 11.3 else 40,)))
    held = bracket(probes, (0.95,))
    assert held.done
    assert held.below is not None
    assert held.above is not None
    assert held.below <= 11.3 < held.above
    assert tried[:4] == [1.0, 4.0, 16.0, 8.0]
    assert len(tried) <= 9


def test_a_search_near_an_answer_is_short() -> None:
    probes: list[Probe] = []
    while (rate := next_rate(probes, (0.95,), first=10.0, near=True)) is not None:
        probes.append(Probe(rate=rate, n=100, kept=(100 if rate <= 11.3 else 40,)))
    assert bracket(probes, (0.95,)).done
    assert len(probes) <= 5


def test_what_no_rate_keeps_ends_at_the_lattices_end() -> None:
    probes: list[Probe] = []
    while (rate := next_rate(probes, (0.95,), first=2.0, near=False)) is not None:
        probes.append(Probe(rate=rate, n=10, kept=(0,)))
    assert bracket(probes, (0.95,)).below is None
    assert crossing([probes], (0.95,)) is None
    assert pseudo_values([probes], (0.95,)) is None


def test_the_crossing_is_where_the_mean_share_is_what_is_asked() -> None:
    one = [probe(0, 99), probe(1, 91)]
    assert 1.0 < (crossing([one], (0.95,)) or 0) < rate_at(1)
    low, high = [probe(0, 99), probe(4, 60)], [probe(4, 99), probe(8, 60)]
    both = crossing([low, high], (0.95,))
    assert both is not None
    alone = [crossing([each], (0.95,)) for each in (low, high)]
    assert alone[0] is not None
    assert alone[1] is not None
    assert alone[0] < both < alone[1]


def test_the_first_limit_to_be_passed_decides() -> None:
    probes = [
        Probe(rate=1.0, n=100, kept=(100, 100)),
        Probe(rate=rate_at(1), n=100, kept=(100, 50)),
    ]
    tight = crossing([probes], (0.95, 0.95))
    only_second = crossing([[Probe(rate=p.rate, n=p.n, kept=p.kept[1:]) for p in probes]], (0.95,))
    assert tight == pytest.approx(only_second)


@pytest.mark.parametrize("queue", [md1(4.0), mmk(4, 4.0)], ids=lambda queue: queue.name)
def test_the_answer_and_its_interval_on_queues(queue: object) -> None:
    """30 of the 200 runs that scripts/slo_queues.py counts: by chance at most 5 miss (99.6%)."""
    made = [searched(queue, f"ci/{run}", 6, 600)[0] for run in range(30)]  # type: ignore[arg-type]
    truth = queue.truth  # type: ignore[attr-defined]
    covered = [one for one in made if one and one.low and one.high and one.low <= truth <= one.high]
    assert len(covered) >= 25
    centre = sum(one.value for one in made if one) / len(made)
    assert centre == pytest.approx(truth, rel=0.03)


def test_limits_are_read_and_refused_in_a_line() -> None:
    ttft, tpot = limits("ttft_p95=0.5,tpot_p99.9=0.05")
    assert (ttft.figure, ttft.share, ttft.seconds) == ("ttft", 0.95, 0.5)
    assert tpot.share == pytest.approx(0.999)
    for text, words in (
        ("ttft=1", "'ttft=1' is not FIGURE_pNN"),
        ("wait_p95=1", "ttft, tpot, itl, e2e"),
        ("ttft_p95=-1", "above 0"),
        ("ttft_p95=1,ttft_p95=2", "is repeated"),
    ):
        with pytest.raises(InputError, match=words):
            limits(text)


def test_a_probe_has_as_many_requests_as_its_percentile_needs() -> None:
    assert requests_of("ttft_p95=1", "quick") == 200
    assert requests_of("ttft_p95=1,e2e_p99=3", "quick") == 368
    times = {"ttft_s": [1.0, 1.1], "tpot_s": [0.0, 0.0], "e2e_s": [2.0, 2.0]}
    kept = within("ttft_p50=1,itl_p50=0.2", itl_s=[(0.1, 0.3), ()], **times)
    assert kept == [[True, False], [False, True]]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [72, 100, 368, 1000])
def test_order_statistics_have_their_coverage(share: float, n: int) -> None:
    found = percentile_interval([float(i) for i in range(1, n + 1)], share)
    if n < requests_needed(share):
        assert found is None
        return
    assert found is not None
    low, high = round(found.low), round(found.high)
    assert binom.cdf(low - 1, n, share) <= 0.025
    assert binom.sf(high - 1, n, share) <= 0.025
    assert low <= found.value <= high
    if low > 1:  # no narrower rank would do
        assert binom.cdf(low, n, share) > 0.025
