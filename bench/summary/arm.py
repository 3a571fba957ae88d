"""What was measured, typed: an arm's settings, the sizes of its requests, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from bench.experiment.devices import cards, count, is_remote, on_cpu
from bench.records import Environment, QualityRecord, Record


class Sizes(NamedTuple):
    """Tokens of a sequence, and sequences at once; None where an imported tool does not say."""

    n_prompt: int
    n_gen: int
    n_batch: int | None
    requests: str = ""
    """What was asked for, where lengths differ: the two are then their means."""
    slo: str = ""
    """Limits of a search, and the rate of arrivals of one of its probes."""
    rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSettings:
    """The settings of one arm, as they were resolved."""

    name: str
    model: str
    engine: str
    quant: str
    mode: str = "eager"
    dtype: str
    device: str
    threads: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(repr=False)
    """Every key that the record has of it, for selectors."""

    @property
    def cards(self) -> int:
        """Machines of one device that worked as one; each has its price."""
        return cards(self.settings)

    @property
    def devices(self) -> int:
        """Devices that the model lay on; a server's name says nothing of it: 1."""
        return count(self.device)

    @property
    def on_cpu(self) -> bool:
        return on_cpu(self.device)

    @property
    def remote(self) -> bool:
        """Whether a server was asked, whose device is not known here."""
        return is_remote(self.device)


def arm_of(record: Record | QualityRecord) -> ArmSettings:
    """The arm of a record."""
    return settings_of(record.variant)


def settings_of(found: Mapping[str, Any]) -> ArmSettings:
    """The arm that a record's table of its variant means."""
    return ArmSettings(
        name=found["name"],
        model=found.get("model", ""),
        engine=found.get("engine", ""),
        quant=found.get("quant", "none"),
        mode=found.get("mode", "eager"),
        dtype=found.get("dtype", "auto"),
        device=found.get("device", ""),
        threads=found.get("threads"),
        options=found.get("options") or {},
        settings=found,
    )


def sizes_of(record: Record) -> Sizes:
    """The sizes of a record's workload."""
    work = record.workload
    more = (work.get("requests", ""), work.get("slo", ""), work.get("rate"))
    return Sizes(work["n_prompt"], work["n_gen"], work["n_batch"], *more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine and software of one environment, as far as a reader asks for it."""

    id: str
    """`Environment.id`."""
    recorded: Environment | None
    """None if no line describes it."""
    gpu: str | None = None
    """As its driver names it."""
    gpus: int = 1
    gpu_memory_bytes: int | None = None
    gpu_power_limit_w: float | None = None
    cpu: str | None = None
    cpu_cores: int | None = None
    memory_bytes: int | None = None
    identity: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """All of it, to be shown."""
    state: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """The card and how many, or the CPU with its cores."""
        if self.recorded is None:
            return "unknown machine"
        if self.gpu:
            several = self.gpus > 1 and " + " not in self.gpu
            return f"{self.gpus} x {self.gpu}" if several else self.gpu
        cores = f", {self.cpu_cores} cores" if self.cpu_cores else ""
        return f"{self.cpu or 'unknown CPU'}{cores}"

    @property
    def hardware(self) -> tuple[Any, ...]:
        """What is the same in two environments of one machine with other software."""
        if self.recorded is None:
            return (self.id,)
        return (self.identity.get("host"), self.cpu, self.gpu, self.gpus)


def host_of(id_: str, environment: Environment | None) -> Host:
    """The machine of an environment."""
    if environment is None:
        return Host(id=id_, recorded=None)
    known = environment.identity
    gpu, cpu = known.get("gpu"), known.get("cpu")
    return Host(
        id=id_,
        recorded=environment,
        gpu=None if not gpu else str(gpu),
        gpus=int(known.get("gpus") or 1),
        gpu_memory_bytes=known.get("gpu_memory_bytes"),
        gpu_power_limit_w=known.get("gpu_power_limit_w"),
        cpu=None if not cpu else str(cpu),
        cpu_cores=known.get("cpu_cores"),
        memory_bytes=known.get("memory_bytes"),
        identity=known,
        state=environment.state,
    )


TELLING: Final = ("host", "gpu_driver", "torch")
"""Facts of an environment that tell a reader which of two equal machines is meant."""

Place = tuple[str, str]
"""An environment's id and the origin of the records: what is never pooled."""


def labels(hosts: Mapping[Place, Host]) -> dict[Place, str]:
    """The card or CPU of each; equal ones are told apart by the first fact in which all differ."""
    alike: dict[str, list[Place]] = {}
    for place, host in hosts.items():
        alike.setdefault(host.title, []).append(place)
    found = {}
    for label, places in alike.items():
        if len(places) == 1:
            found[places[0]] = label
            continue
        known = {place: hosts[place].identity for place in places}
        facts = [[_fact(key, known[place].get(key)) for place in places] for key in TELLING]
        facts += [[place[1] for place in places], [place[0][:8] for place in places]]
        sure = [f"{id_[:8]}, {origin}" for id_, origin in places]
        apart = next((each for each in facts if all(each) and len({*each}) == len(places)), sure)
        found |= {place: f"{label} ({text})" for place, text in zip(places, apart, strict=True)}
    return found


def _fact(name: str, value: Any) -> str:
    """A fact that tells machines apart, with its name; empty where it is not known."""
    return f"{name.removeprefix('gpu_')} {value}" if value else ""
