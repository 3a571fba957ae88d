"""Records of searches, made by simulated queues: for the tests of cost, comparison and page."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from bench.demand import arrival_times, demand
from bench.demand.search import RAMP_SHARE, next_rate
from bench.records import Environment, Record, to_json
from bench.summary.service import probe_of
from tests.queues import sojourns

SLO = "ttft_p95=0.36,tpot_p95=0.06"
N_PROMPT, N_GEN = 200, 4
JUDGED = 400
SLOTS = 4


def write_search(folder: Path, services: dict[str, float], replicates: int = 8) -> Path:
    """An arm a name, whose requests take so many seconds each on one of `SLOTS`."""
    lines: list[Environment | Record] = [
        Environment(id="e", identity={"gpu": "NVIDIA GeForce RTX 4080"}, state={})
    ]
    for index in range(replicates):
        for place, (name, service) in enumerate(services.items()):
            lines += search(name, service, index, index * len(services) + place)
    folder.mkdir(exist_ok=True)
    (folder / "records.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    return folder


def search(name: str, service: float, index: int, position: int) -> Iterator[Record]:
    """One replicate: alone first, then probes until the rate is held."""
    yield made(name, service, index, position, None)
    probes = []
    while True:
        rate = next_rate(probes, (0.95, 0.95), first=2 / service, near=False)
        if rate is None:
            return
        record = made(name, service, index, position, rate)
        probe = probe_of(record, SLO)
        assert probe is not None
        probes.append(probe)
        yield record


def made(name: str, service: float, index: int, position: int, rate: float | None) -> Record:
    n = JUDGED if rate else 10
    ramp = round(n * RAMP_SHARE)
    asked = demand("prompt=8 gen=1").requests(f"{index}", n + ramp)
    draw = random.Random(f"{index}")
    times = [at for at in arrival_times(asked, rate or 0.001) if at is not None]
    each = [service * draw.lognormvariate(0, 0.2) for _ in asked]
    busy = min((rate or 0.0) * service / SLOTS, 1.0)
    ttfts = [0.2 * one for one in sojourns(times, each, SLOTS)][ramp:]
    tpots = [service / 50 * (0.3 + busy) * draw.lognormvariate(0, 0.05) for _ in ttfts]
    e2e = [ttft + tpot * (N_GEN - 1) for ttft, tpot in zip(ttfts, tpots, strict=True)]
    work = {"n_prompt": N_PROMPT, "n_gen": N_GEN, "n_batch": 1, "slo": SLO, "n_requests": JUDGED}
    return Record(
        key=f"{name}/{index}/{rate}",
        environment="e",
        experiment="x",
        variant={
            "name": name,
            "model": "m",
            "engine": "endpoint",
            "quant": name.rpartition("/")[2],
            "device": "remote",
            "dtype": "as-served",
        },
        workload=work | ({"rate": rate} if rate else {}),
        replicate=index,
        position=position,
        started_at=f"2026-11-29T{position // 60:02}:{position % 60:02}:00+00:00",
        status="ok",
        samples={
            "prefill_s": ttfts,
            "itl_s": [[tpot] * (N_GEN - 1) for tpot in tpots],
            "e2e_s": e2e,
            "wall_s": len(ttfts) / min(rate or 1 / e2e[0], 0.98 * SLOTS / service),
            "n_prompt": [N_PROMPT] * len(ttfts),
            "n_gen": [N_GEN] * len(ttfts),
            "n_shared": [N_PROMPT // 2] * len(ttfts),
            "n_cached": [N_PROMPT // 4] * len(ttfts),
        },
        device={"requests": {"n_failed": 0}},
    )
