"""Queues whose answers are known, and the search run against them without a clock.

First come first served by `k` servers, Poisson arrivals. Their truth: M/D/1 by Erlang's formula
(Crommelin 1932), M/M/k by Erlang's C, other M/G/k by one long simulation.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

from bench.demand import Asked, arrival_times, demand
from bench.demand.search import RAMP_SHARE, Probe, crossing, next_rate, pseudo_values
from bench.statistics import Interval, log_interval, percentile

Service = Callable[[random.Random], float]
SHARE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedQueue:
    """Times in units of the mean service."""

    name: str
    servers: int
    service: Service
    limit: float
    """Of the 95th percentile of waiting and service together."""
    truth: float
    """Highest rate of arrivals that keeps it."""


def sojourns(times: Sequence[float], services: Sequence[float], servers: int) -> Iterator[float]:
    """Wait and service of each request."""
    free = [0.0] * servers
    for at, service in zip(times, services, strict=True):
        end = max(at, heapq.heappop(free)) + service
        heapq.heappush(free, end)
        yield end - at


def md1_within(rate: float, wait: float) -> float:
    """P(W <= wait) of an M/D/1 queue with service 1; the sum cancels, hence its digits."""
    with localcontext() as context:
        context.prec = 60
        load, total = Decimal(rate), Decimal(0)
        for j in range(int(wait + 1e-9) + 1):
            gap = load * (Decimal(wait) - j)
            power = (-gap) ** j if j else Decimal(1)
            total += power / Decimal(math.factorial(j)) * gap.exp()
        return float((1 - load) * total)


def mmk_within(rate: float, limit: float, servers: int) -> float:
    """P(W + S <= limit) of an M/M/k queue with mean service 1."""
    load = rate / servers
    terms = [rate**n / math.factorial(n) for n in range(servers)]
    last = rate**servers / math.factorial(servers) / (1 - load)
    waits = last / (sum(terms) + last)
    away = servers - rate
    # S is exponential with 1; W is 0, or exponential with `away`.
    alone = 1 - math.exp(-limit)
    both = 1 - (away * math.exp(-limit) - math.exp(-away * limit)) / (away - 1)
    return (1 - waits) * alone + waits * both


def root(within: Callable[[float], float], most: float) -> float:
    """Where what is within the limit falls to SHARE."""
    low, high = 1e-3 * most, most * (1 - 1e-6)
    while high - low > 1e-9 * most:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) >= SHARE else (low, middle)
    return low


def simulated_root(queue: SimulatedQueue, n: int) -> float:
    """The same by one long run, its pattern of arrivals the same at every rate."""
    draw = random.Random("truth")
    services = [queue.service(draw) for _ in range(n)]
    gaps = [draw.expovariate(1.0) for _ in range(n)]

    def within(rate: float) -> float:
        at, times = 0.0, []
        for gap in gaps:
            at += gap / rate
            times.append(at)
        each = list(sojourns(times, services, queue.servers))[n // 100 :]
        return sum(one <= queue.limit for one in each) / len(each)

    low, high = 0.1 * queue.servers, 0.999 * queue.servers
    while high - low > 1e-3 * queue.servers:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) >= SHARE else (low, middle)
    return (low + high) / 2


def constant(_: random.Random) -> float:
    return 1.0


def exponential(draw: random.Random) -> float:
    return draw.expovariate(1.0)


def lognormal(draw: random.Random) -> float:
    return draw.lognormvariate(-0.125, 0.5)


def md1(limit: float) -> SimulatedQueue:
    truth = root(lambda rate: md1_within(rate, limit - 1), 1.0)
    return SimulatedQueue(
        name=f"M/D/1, limit {limit:g}", servers=1, service=constant, limit=limit, truth=truth
    )


def mmk(servers: int, limit: float) -> SimulatedQueue:
    truth = root(lambda rate: mmk_within(rate, limit, servers), float(servers))
    return SimulatedQueue(
        name=f"M/M/{servers}, limit {limit:g}",
        servers=servers,
        service=exponential,
        limit=limit,
        truth=truth,
    )


def mgk(servers: int, limit: float, n: int, service: Service = lognormal) -> SimulatedQueue:
    bare = SimulatedQueue(
        name=f"M/G/{servers} (lognormal), limit {limit:g}",
        servers=servers,
        service=service,
        limit=limit,
        truth=math.nan,
    )
    return SimulatedQueue(
        name=bare.name,
        servers=servers,
        service=service,
        limit=limit,
        truth=simulated_root(bare, n),
    )


def _probe(
    queue: SimulatedQueue, asked: Sequence[Asked], services: Sequence[float], rate: float, n: int
) -> Probe:
    ramp = round(n * RAMP_SHARE)
    times = [at for at in arrival_times(asked, rate) if at is not None]
    each = list(sojourns(times, services, queue.servers))[ramp:]
    reached = percentile(each, SHARE)
    assert reached is not None
    return Probe(rate=rate, n=len(each), kept=(sum(one <= queue.limit for one in each),))


def searched(
    queue: SimulatedQueue, seed: object, replicates: int, n: int
) -> tuple[Interval | None, int]:
    """The answer of a whole search with its interval, and how many probes it took."""
    every: list[list[Probe]] = []
    before = None
    for index in range(replicates):
        asked = demand("prompt=8 gen=1").requests(f"{seed}/{index}", n + round(n * RAMP_SHARE))
        draw = random.Random(f"{seed}/{index}/service")
        services = [queue.service(draw) for _ in asked]
        probes: list[Probe] = []
        while True:
            first, near = before or 2.0, before is not None
            rate = next_rate(probes, (SHARE,), first=first, near=near)
            if rate is None:
                break
            probes.append(_probe(queue, asked, services, rate, n))
        every.append(probes)
        before = crossing(every, (SHARE,))
    found = pseudo_values(every, (SHARE,))
    return None if found is None else log_interval(found), sum(map(len, every))
