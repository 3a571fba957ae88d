"""How near a measured row is to the physical limit of its device, and what holds it back.

Needs a model card, and the device's data sheet (`bench gpus`) or the rates that were measured on
that very device; where these are missing the figures are None with the reason. Formulas:
`bench.roofline`, docs/predict.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bench.errors import BenchError
from bench.experiment.devices import count, members
from bench.experiment.modes import PARALLEL
from bench.models import ModelCard, resolve_model
from bench.models.shapes import shape
from bench.records import OWN
from bench.roofline import Bound, MeasuredRates, above_bound, bound, mbu, mfu, peak_flops
from bench.roofline.diagnosis import Symptoms, diagnose
from bench.roofline.gpus import Gpu, match
from bench.schemes.bytes import ON_MODULES, layout
from bench.schemes.cache import asked
from bench.summary.arm import ArmSettings, Host, Sizes

if TYPE_CHECKING:
    from bench.summary.rows import Row

FIGURES: Final = (
    "bound_decode_tok_s",
    "bound_prefill_tok_s",
    "limited_by",
    "mbu",
    "mfu",
    "diagnosis",
)
"""Against the data sheet."""

MEASURED: Final = ("mbu_measured", "mfu_measured")
"""Against the copy and matmul rates measured on that very device."""

NOT_RECORDED: Final = "no environment was recorded"
DEEP: Final = "the context was filled before the measurement (n_depth)"
REMOTE: Final = "the server's device is not known here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What the device of an arm allows for its workload."""

    gpu: Gpu | str
    """Its data sheet, or why there is none."""
    rates: MeasuredRates | str
    """What was measured on it, or why not."""
    card: ModelCard | None = None
    most: Bound | None = None
    """By the data sheet."""
    reached: Bound | None = None
    """By the measured rates."""
    at_once: int = 1
    """Devices that read their weights at the same time."""

    def passed(self, speeds: Mapping[str, float | None], sizes: Sizes) -> bool:
        """Whether a rate is beyond the data sheet, and beyond what was measured on the device.

        A measured rate alone bounds nothing: it was reached, which does not say that no more can
        be. But a device that was measured above its data sheet shows that the sheet is no bound.
        """
        if self.most is None:
            return False
        limits = [self.most]
        # Without a matmul rate the measured side is bounded by memory alone: too much.
        if self.reached is not None and self.reached.prefill_tok_s is not None:
            limits.append(self.reached)
        decode = max(limit.decode_tok_s for limit in limits)
        prefill = max((limit.prefill_tok_s or 0.0 for limit in limits), default=0.0)
        return (
            above_bound(speeds["decode_tok_s"], decode)
            or above_bound(speeds["output_tok_s"], decode)
            or (
                sizes.n_prompt > 0
                and self.most.prefill_tok_s is not None
                and above_bound(speeds["prefill_tok_s"], prefill)
            )
        )


class Ceilings:
    """Finds ceilings; each model's card, and each data sheet, is looked up once."""

    def __init__(self) -> None:
        self._cards: dict[str, ModelCard | str] = {}
        self._gpus: dict[str, Gpu | None] = {}

    def of(
        self, host: Host, arm: ArmSettings, sizes: Sizes, origin: str, absent: str | None
    ) -> Ceiling:
        """The ceiling of an arm on a machine; `absent`: why the batch is not known, if it is not.

        Where the model is not known, or not the batch, both sides say why instead.
        """
        gpu, rates = self._gpu(host, arm, origin), _rates(host, arm)
        if isinstance(gpu, str) and isinstance(rates, str):
            return Ceiling(gpu=gpu, rates=rates)
        if sizes.n_batch is None:
            why = absent or "the batch is not known"
            return Ceiling(gpu=why, rates=why)
        # An imported model of another name may have a catalogued one's shape.
        card = self._card(str(arm.settings.get("card") or arm.model))
        if isinstance(card, str):
            return Ceiling(gpu=card, rates=card)
        together = at_once(arm.settings)
        try:
            most = _bound(card, gpu, arm, sizes, together)
            reached = _bound(card, rates, arm, sizes, together)
        except BenchError as error:
            return Ceiling(gpu=str(error), rates=str(error))
        return Ceiling(
            gpu=gpu, rates=rates, card=card, most=most, reached=reached, at_once=together
        )

    def _gpu(self, host: Host, arm: ArmSettings, origin: str) -> Gpu | str:
        """The catalogued card that an arm was measured on, or why there is none."""
        if arm.remote:
            return REMOTE
        if arm.options.get("n_depth"):
            return DEEP
        if host.gpu is None and origin not in OWN and not arm.on_cpu:
            return f"{origin} does not say on which card"
        if host.gpu is None:
            return "a CPU has no data sheet here; `mbu_measured` is against its measured rates"
        if host.gpu not in self._gpus:
            self._gpus[host.gpu] = match(host.gpu)
        return self._gpus[host.gpu] or f"{host.gpu} is not in the catalog (`bench gpus`)"

    def _card(self, model: str) -> ModelCard | str:
        if model not in self._cards:
            try:
                self._cards[model] = resolve_model(model).card
            except BenchError as error:
                self._cards[model] = str(error)
        return self._cards[model]


def _bound(
    card: ModelCard,
    device: Gpu | MeasuredRates | str,
    arm: ArmSettings,
    sizes: Sizes,
    together: int,
) -> Bound | None:
    """The bound by a device; None where the device is a reason why there is none."""
    if isinstance(device, str):
        return None
    return bound(
        card,
        device,
        arm.quant,
        sizes.n_prompt,
        sizes.n_gen,
        sizes.n_batch or 1,
        dtype=arm.dtype,
        kv_dtype=asked(arm.engine, arm.options),
        engine=arm.engine,
        n_devices=together,
    )


def at_once(variant: Mapping[str, Any]) -> int:
    """Devices that read their weights at the same time.

    With layers on several, one waits for the other: so much memory, and no more bandwidth.
    """
    split = (variant.get("options") or {}).get("split")
    together = split in ("tensor", "row") or variant["engine"] in PARALLEL
    return count(variant["device"]) if together else 1


def _rates(host: Host, arm: ArmSettings) -> MeasuredRates | str:
    """The rates measured on the device of an arm, or why there are none."""
    if arm.remote:
        return REMOTE
    if arm.options.get("n_depth"):
        return DEEP
    if host.recorded is None:
        return NOT_RECORDED
    peaks: Mapping[str, Any] | None = host.state.get("peaks")
    if peaks is None or peaks["device"] != members(arm.device)[0]:
        why = host.state.get("absent", {}).get("peaks", "`bench doctor --peaks` does, for new runs")
        return f"the rates of {arm.device} were not measured: {why}"
    if arm.on_cpu and arm.threads not in (None, peaks["threads"]):
        return f"rates were measured with {peaks['threads']} threads, this arm has {arm.threads}"
    return MeasuredRates(
        name=arm.device,
        bandwidth=peaks["copy_bytes_s"],
        vram_bytes=host.gpu_memory_bytes or host.memory_bytes or 0,  # nothing asks if it fits
        rates=peaks["matmul_flop_s"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A row against its ceiling; None with the reason in `absent`."""

    bound_decode_tok_s: float | None = None
    bound_prefill_tok_s: float | None = None
    limited_by: str | None = None
    mbu: float | None = None
    """Share of the data sheet's bandwidth that decoding used."""
    mfu: float | None = None
    """Share of the data sheet's operations that prefill used."""
    diagnosis: str | None = None
    mbu_measured: float | None = None
    mfu_measured: float | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


def limits(row: Row, beside: Iterable[Row]) -> Limits:
    """How near a row is to what its device allows. `beside`: rows that a diagnosis may look at."""
    ceiling = row.ceiling
    gpu, rates = ceiling.gpu, ceiling.rates
    figures: dict[str, Any] = {}
    absent: dict[str, str] = {}
    if isinstance(rates, str) or ceiling.reached is None:
        absent |= dict.fromkeys(MEASURED, str(rates))
    else:
        figures |= _measured(row, rates, ceiling.reached, absent)
    if isinstance(gpu, str) or ceiling.most is None or ceiling.card is None:
        absent |= dict.fromkeys(FIGURES, str(gpu))
    else:
        figures |= _of_sheet(row, beside, ceiling.card, gpu, ceiling.most)
        if _overlap(row):
            absent["diagnosis"] = "requests overlap: a step is not alone"
    return Limits(**figures, absent=absent)


def _measured(
    row: Row, rates: MeasuredRates, reached: Bound, absent: dict[str, str]
) -> dict[str, Any]:
    """MBU and MFU against rates that were measured."""
    step_s, ttft_s = _times(row)
    compute = layout(row.arm.quant, row.arm.engine).compute
    peak = peak_flops(rates, compute, row.arm.dtype)
    together = row.ceiling.at_once
    if peak is None:
        what = row.arm.dtype if compute == "float" else compute
        absent["mfu_measured"] = f"the matmul rate of {what} was not measured on {rates.name}"
    return {
        "mbu_measured": None
        if step_s is None
        else mbu(reached.decode_bytes, step_s, rates.bandwidth * together),
        "mfu_measured": None
        if ttft_s is None or peak is None
        else mfu(reached.prefill_flops, ttft_s, peak * together),
    }


def _of_sheet(
    row: Row, beside: Iterable[Row], card: ModelCard, gpu: Gpu, most: Bound
) -> dict[str, Any]:
    step_s, ttft_s = _times(row)
    arm, together = row.arm, row.ceiling.at_once
    peak = peak_flops(gpu, layout(arm.quant, arm.engine).compute, arm.dtype)
    return {
        "bound_decode_tok_s": most.decode_tok_s if row.sizes.n_gen else None,
        "bound_prefill_tok_s": most.prefill_tok_s if row.sizes.n_prompt else None,
        "limited_by": most.limited_by,
        "mbu": None if step_s is None else mbu(most.decode_bytes, step_s, gpu.bandwidth * together),
        "mfu": None
        if ttft_s is None or peak is None
        else mfu(most.prefill_flops, ttft_s, peak * together),
        "diagnosis": None
        if row.value("decode_tok_s") is None or step_s is None or _overlap(row)
        else diagnose(_evidence(row, beside, card, gpu.vram_bytes * arm.devices, most)).line,
    }


def _times(row: Row) -> tuple[float | None, float | None]:
    """Seconds of a step and of a prefill, where they were measured alone and took some time."""
    return row.value("tpot_s") or None, row.value("ttft_s") if row.value("prefill_tok_s") else None


def _overlap(row: Row) -> bool:
    """Whether requests overlapped: a step then waits for other requests' prompts as well."""
    return row.value("ttft_s") is not None and row.value("prefill_tok_s") is None


def _evidence(
    row: Row, beside: Iterable[Row], card: ModelCard, memory_bytes: int, most: Bound
) -> Symptoms:
    arm, speed = row.arm, row.value("decode_tok_s")
    assert speed is not None, "a step was measured"
    assert row.sizes.n_batch is not None, "a bound needs the batch"

    def other(**changed: str) -> float | None:
        """The rate of the same row but for what is changed; a mode may be another engine's."""
        names = ("model", "quant", "mode", "dtype")
        engines = {arm.engine}
        if "mode" in changed and arm.engine in ON_MODULES:
            engines |= set(ON_MODULES)  # the same modules, stepped in another way
        wanted = {name: getattr(arm, name) for name in names} | changed
        rates = (
            one.value("decode_tok_s")
            for one in beside
            if one.sizes == row.sizes
            and one.host.hardware == row.host.hardware
            and one.arm.engine in engines
            and all(getattr(one.arm, name) == value for name, value in wanted.items())
        )
        return next((rate for rate in rates if rate is not None), None)

    return Symptoms(
        decode_tok_s=speed,
        bound_decode_tok_s=most.decode_tok_s,
        limited_by=most.limited_by,
        mode=arm.mode,
        eager_tok_s=other(mode="eager") if arm.mode != "eager" else None,
        graph_tok_s=other(mode="cuda-graph") if arm.mode == "eager" else None,
        quantized=arm.quant != "none",
        unquantized_tok_s=other(quant="none") if arm.quant != "none" else None,
        needed_bytes=most.memory_bytes,
        memory_bytes=memory_bytes,
        kernel=row.weights.kernel,
        layers=sum(attention.layers for attention in shape(card).attention),
        n_batch=row.sizes.n_batch,
    )
