"""What each key of a line must hold for readers to use it: the one door that records come through.

Tables are open: other keys may stand beside those named here, and hold any JSON. What is named is
what readers compute with, so it has a type and bounds within which their arithmetic cannot fail.
docs/records.md says what the keys mean. Needs the standard library only.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal, NotRequired, Required, TypedDict

from bench.fields import Between, Converter, converter
from bench.records.quick import accepts

OWN: Final = ("measured", "synthetic")
"""Origins of what `bench run` made; every other origin names the tool it was imported from."""

TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)

Name = Annotated[str, Between(1, 1024)]
Words = Annotated[str, Between(0, 1 << 16)]
Count = Annotated[int, Between(0, 1 << 48)]
AtLeastOne = Annotated[int, Between(1, 1 << 32)]
Bytes = Annotated[int, Between(0, 1 << 60)]
Figure = Annotated[float, Between(-1e24, 1e24)]
NotNegative = Annotated[float, Between(0.0, 1e24)]
Positive = Annotated[float, Between(1e-12, 1e24)]
Seconds = Annotated[float, Between(1e-12, 1e9)]
Gap = Annotated[float, Between(0.0, 1e9)]
"""A server's chunks may come in one piece, 0 s apart."""
_ALL_GAPS: Final = {False: list[list[Seconds]], True: list[list[Gap]]}
"""By whether a server was measured."""
Reasons = Mapping[str, Words]
Codes = list[Annotated[str, Between(1, 64)]]


class OptionsTable(TypedDict, total=False):
    """Of a variant: those that readers know."""

    n_devices: AtLeastOne
    n_depth: Count
    split: str
    rate: Positive | None
    ttft_limit_s: Positive | None
    tpot_limit_s: Positive | None
    e2e_limit_s: Positive | None


class VariantTable(TypedDict, total=False):
    """One arm, with device and dtype as resolved."""

    name: Required[Name]
    model: Required[Name]
    engine: Required[Name]
    quant: Required[Name]
    device: Required[Name]
    dtype: Required[Name]
    mode: Name
    threads: Annotated[int, Between(1, 1 << 16)] | None
    options: OptionsTable | None
    source: str
    weights: str
    packages: str | None


class WorkloadTable(TypedDict):
    """Sizes; of an imported record a length may be 0 and the batch unknown."""

    n_prompt: Count
    n_gen: Count
    n_batch: AtLeastOne | None
    requests: NotRequired[Words]
    slo: NotRequired[Words]
    rate: NotRequired[Positive]
    n_requests: NotRequired[AtLeastOne]


class Warmup(TypedDict, total=False):
    steady: bool
    agreed: bool
    unsteady: list[str]
    prefill_s: list[Gap]
    decode_s: list[Gap]


class StepTable(TypedDict, total=False):
    copies_weights: bool | None


class Notes(TypedDict, total=False):
    cache_bytes: Bytes | None
    graph_bytes: Bytes | None
    early_tokens: Count
    tokens_checked: Count
    tokens_as_eager: Count
    step: StepTable | None


class Allocation(TypedDict, total=False):
    packed_bytes: Bytes
    bits: NotNegative
    levels: Mapping[str, str]


class Details(TypedDict, total=False):
    allocation: Allocation
    warning: Words | None


class ModelTable(TypedDict, total=False):
    """As loaded."""

    device: str
    dtype: str
    weights_bytes: Bytes | None
    n_params: Count | None
    quantized_fraction: Annotated[float, Between(0.0, 1.0)] | None
    dynamic: str | None
    kernel: Words | None
    load_s: Gap | None
    details: Details
    notes: Notes


class MemoryTable(TypedDict, total=False):
    peak_host_bytes: Bytes | None
    peak_device_bytes: Bytes | None
    device_loaded_bytes: Bytes | None
    cache_bytes: Bytes | None
    graph_bytes: Bytes | None
    device_workspace_bytes: Bytes | None
    host_other_bytes: Bytes | None
    peak_host_scope: str | None


class WindowTable(TypedDict, total=False):
    """Energy over one window; 0 J is no reading."""

    energy_j: Positive | None
    window_s: Seconds | None
    tokens: AtLeastOne
    mean_power_w: NotNegative | None
    idle_power_w: NotNegative | None
    scope: str | None
    cross_check_ratio: NotNegative | None
    cross_check_agrees: bool | None
    systematic_error: NotNegative | None
    absent: Reasons


class RequestsTable(TypedDict, total=False):
    """How many requests of a window ended how."""

    n_answered: Count
    n_failed: Count
    served_share: NotNegative


class DeviceTable(TypedDict, total=False):
    """As read around the window."""

    clock: str
    temperature_start_c: Figure | None
    temperature_end_c: Figure | None
    sw_power_cap_share: NotNegative | None
    requests: RequestsTable
    client: Mapping[str, Any]


class Peaks(TypedDict, total=False):
    """Rates measured on the device: `bench.devices.peaks`."""

    device: Required[Name]
    copy_bytes_s: Required[Positive]
    matmul_flop_s: Required[Mapping[str, Positive]]
    threads: Required[Annotated[int, Between(1, 1 << 16)] | None]
    copy_size_bytes: Bytes
    disturbed: Words | None
    time: str
    torch: str | None


class State(TypedDict, total=False):
    peaks: Peaks | None
    absent: Reasons
    commit: str | None
    dirty: bool | None
    time: str | None
    load_average: NotNegative | None
    memory_bytes: Bytes | None


class Identity(TypedDict, total=False):
    gpu: Annotated[str, Between(0, 1024)] | None
    gpus: Annotated[int, Between(1, 1 << 16)]
    gpu_memory_bytes: Bytes | None
    gpu_power_limit_w: NotNegative | None
    cpu: Annotated[str, Between(0, 1024)] | None
    cpu_cores: Annotated[int, Between(1, 1 << 24)] | None
    memory_bytes: Bytes | None
    settings: Mapping[str, Any]


class TextTable(TypedDict, total=False):
    name: str
    sha256: str
    max_tokens: Count | None
    window: Count | None


class Continuation(TypedDict, total=False):
    agreed_tokens: Count
    new_tokens: Count
    prompt: str
    text: str
    baseline: str | None


class QualityFigures(TypedDict, total=False):
    method: str | None
    """How a divergence was made; None where there is none."""
    scored_tokens: Count | None
    continuations: list[Continuation]
    rest_mass: NotNegative | None


ENVIRONMENT: Final[Mapping[str, Any]] = {"id": Name, "identity": Identity, "state": State}

COMMON: Final[Mapping[str, Any]] = {
    "key": Name,
    "environment": Name,
    "experiment": Name,
    "variant": VariantTable,
    "started_at": Name,
    "status": Literal["ok", "failed"],
    "message": Words | None,
    "absent": Reasons,
    "origin": Name,
}

MEASUREMENT: Final[Mapping[str, Any]] = {
    **COMMON,
    "workload": WorkloadTable,
    "replicate": Annotated[int, Between(0, 1 << 32)],
    "position": Annotated[int, Between(0, 1 << 32)],
    "reasons": Codes,
    "samples": dict[str, Any],
    "warmup": Warmup,
    "model": ModelTable,
    "memory": MemoryTable,
    "energy": dict[str, Any],
    "device": DeviceTable,
}

QUALITY: Final[Mapping[str, Any]] = {
    **COMMON,
    "text": TextTable,
    "nll": list[Annotated[float, Between(-1e-3, 1e6)]],
    "kld": list[Annotated[float, Between(-1e-3, 1e6)]],
    "same_top1": list[Annotated[int, Between(0, 1)]],
    "baseline": Name | None,
    "figures": QualityFigures,
}


def problems(table: Mapping[str, Any], shape: Mapping[str, Any]) -> list[str]:
    """Everything for which the readers would refuse a line's table, each with its key path."""
    found: list[str] = []
    if not accepts(_whole(id(shape)))(table):
        for name, check in _checks(id(shape)).items():
            if name in table:
                check(table[name], name, found)
    if found:
        return found
    if shape is MEASUREMENT:
        found += _when(table["started_at"])
        found += _energy(table.get("energy", {}))
        if extra := table["workload"].keys() - WorkloadTable.__annotations__.keys():
            found.append(f"workload: unknown keys: {', '.join(sorted(extra))}")
        found += _own(table) if table.get("origin", OWN[0]) in OWN else _imported(table)
    elif shape is QUALITY:
        found += _when(table["started_at"])
        found += _quality(table)
    return found


def _check(kind: Any, value: object, at: str, found: list[str]) -> None:
    """Add what is wrong with a value of a line."""
    if not accepts(kind)(value):
        converter(kind)(value, at, found)


@cache
def _whole(shape: int) -> Any:
    """One of this module's shapes, by its identity, as the type of a table that has some of it."""
    (one,) = (each for each in (ENVIRONMENT, MEASUREMENT, QUALITY) if id(each) == shape)
    return TypedDict("Shape", dict(one), total=False)  # type: ignore[operator]


@cache
def _checks(shape: int) -> dict[str, Converter]:
    """What converts each key of one of this module's shapes, by its identity."""
    (one,) = (each for each in (ENVIRONMENT, MEASUREMENT, QUALITY) if id(each) == shape)
    return {name: converter(kind) for name, kind in one.items()}


def _when(text: str) -> Iterator[str]:
    try:
        moment = datetime.datetime.fromisoformat(text) if TIME.fullmatch(text) else None
    except ValueError:
        moment = None
    if moment is None or moment.year < 1970:
        yield "started_at: not a time such as 2026-01-31T12:00:00+00:00"


def _energy(energy: Mapping[str, Any]) -> list[str]:
    """Of the whole window, and of each part that has one of its own."""
    found: list[str] = []
    _check(WindowTable, energy, "energy", found)
    for name, part in energy.items():
        at = f"energy.{name}"
        if name == "absent" or not isinstance(part, Mapping):
            if name in ("prefill", "decode", "host"):
                found.append(f"{at}: expected a table")
            continue
        _check(WindowTable, part, at, found)
        if name not in ("prefill", "decode") or part.get("energy_j") is None:
            continue
        if "tokens" not in part:
            found.append(f"{at}.tokens: missing")
        if part.get("idle_power_w") is not None and part.get("window_s") is None:
            found.append(f"{at}.window_s: missing")
    return found


def _own(table: Mapping[str, Any]) -> list[str]:
    """Of a record that `bench run` made."""
    sizes = table["workload"]
    found = [
        f"workload.{name}: expected a whole number of at least 1"
        for name in ("n_prompt", "n_gen", "n_batch")
        if not sizes[name]
    ]
    if table["status"] == "failed":
        return found
    return found or _samples(table.get("samples", {}), sizes["n_gen"])


LENGTHS: Final = ("n_prompt", "n_gen", "n_shared", "n_cached")
"""Tokens of each request, where requests differ."""


def _samples(samples: Mapping[str, Any], n_gen: int) -> list[str]:
    """One entry an iteration; of a server `wall_s`, and fewer gaps than tokens."""
    found: list[str] = []
    server = "wall_s" in samples
    if server:
        _check(Seconds, samples["wall_s"], "samples.wall_s", found)
    for name in ("prefill_s", "e2e_s", "host_s"):
        if name in samples:
            _check(list[Seconds], samples[name], f"samples.{name}", found)
    _check(_ALL_GAPS[server], samples.get("itl_s", []), "samples.itl_s", found)
    if found:
        return found
    first, gaps, whole = (samples.get(name, []) for name in ("prefill_s", "itl_s", "e2e_s"))
    if not first or not len(first) == len(gaps) == len(whole):
        return ["samples: prefill_s, itl_s and e2e_s must hold one entry for each iteration"]
    for name in LENGTHS:
        if name in samples:
            kind_of_count = list[Count | None] if name == "n_cached" else list[Count]
            _check(kind_of_count, samples[name], f"samples.{name}", found)
            if not found and len(samples[name]) != len(first):
                found.append(f"samples.{name}: must hold one entry for each iteration")
    if found:
        return found
    made = samples.get("n_gen", [n_gen] * len(gaps))
    if any(
        len(one) > n - 1 if server else len(one) != n - 1 for one, n in zip(gaps, made, strict=True)
    ):
        return ["samples.itl_s: an iteration does not have n_gen - 1 gaps"]
    return []


def _imported(table: Mapping[str, Any]) -> list[str]:
    """Another tool's record: what it holds are durations and rates, what it lacks says why."""
    found: list[str] = []
    samples = table.get("samples", {})
    if not samples and table["status"] == "ok":
        found.append("samples: there are none")
    for name, values in samples.items():
        at = f"samples.{name}"
        if name == "wall_s":
            _check(Seconds, values, at, found)
        elif name == "itl_s":
            _check(list[list[Gap]], values, at, found)
        elif isinstance(values, list) and not values:
            found.append(f"{at}: is empty")
        else:
            _check(list[Positive], values, at, found)
    if not found and "wall_s" in samples:
        lengths = {len(samples.get(name, ())) for name in ("prefill_s", "e2e_s")}
        if len(lengths) > 1 or 0 in lengths:
            found.append("samples: prefill_s and e2e_s must hold one entry for each request")
    return found


def _quality(table: Mapping[str, Any]) -> Iterator[str]:
    scored = len(table.get("nll", ()))
    for name in ("kld", "same_top1"):
        if len(table.get(name, ())) not in (0, scored):
            yield f"{name}, nll: not of one length"
    for i, one in enumerate(table.get("figures", {}).get("continuations", ())):
        if one.get("new_tokens") and "agreed_tokens" not in one:
            yield f"figures.continuations[{i}].agreed_tokens: missing"
