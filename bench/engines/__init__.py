"""Engines: load a model, take the two steps of generation, return logits.

An engine has no clock and no policy: `bench.worker` decides what is repeated and what is timed.
One file an engine; a file imports its packages only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench import quantization
from bench.device_names import members
from bench.engines import splitting
from bench.errors import InputError, unknown
from bench.gguf_file import FILE_TYPES, FLOATS

if TYPE_CHECKING:
    from bench.environments import Home
    from bench.experiment import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is known of an engine before anything is loaded."""

    module: str
    """`package.module:Class` of its Engine; imported in the worker."""
    modes: tuple[str, ...] = ("eager",)
    """Execution modes, the default first."""
    schemes: tuple[str, ...] | None = None
    """Schemes it does by itself; None: those of `bench.quantization`, applied to torch modules."""
    environment: str | None = None
    """Virtual environment of its own that its worker runs in (`bench.environments`); None: the
    one the harness is in."""
    packages: tuple[str, ...] = ()
    """Distributions that are the engine, the first installed counts; none: it needs none."""
    devices: tuple[str, ...] = ("cpu", "cuda", "mps", "xpu")
    """Device kinds it runs on."""
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
    remote: bool = False
    """It asks a server that holds the model: a model and a scheme are names that tell arms apart,
    and no device of this machine computes."""


ENGINES: Mapping[str, Spec] = {
    "transformers": Spec(
        module="bench.engines.transformers:TransformersEngine",
        modes=("eager", "compiled", "cuda-graph"),
        packages=("transformers",),
        spreads=True,
    ),
    "onnxruntime": Spec(
        module="bench.engines.onnxruntime:OnnxRuntimeEngine",
        schemes=("none", "int8-dynamic"),
        environment="onnxruntime",
        packages=("onnxruntime", "onnxruntime-gpu"),
        devices=("cpu", "cuda"),
        refuses={
            ("int8-dynamic", "cuda"): "ONNX Runtime has no CUDA kernels for dynamically quantized "
            "layers: they would run on the CPU, with copies to and fro"
        },
        prepare="bench.engines.onnx_files:prepare",
        check="bench.engines.onnx_files:options",
    ),
    "llama.cpp": Spec(
        module="bench.engines.llama_cpp:make",
        packages=("llama-cpp-python", "xllamacpp"),
        schemes=("none", *sorted(set(FILE_TYPES.values()) - set(FLOATS))),
        check="bench.engines.llama_common:settings_of",
        weights="gguf",
        spreads=True,
    ),
    "vllm": Spec(
        module="bench.engines.vllm:VllmEngine",
        modes=("eager", "cuda-graph"),
        schemes=("none", "fp8_per_tensor", "fp8_per_block", "mxfp8"),
        environment="vllm",
        packages=("vllm",),
        check="bench.engines.vllm:settings_of",
        devices=("cuda",),
        spreads=True,
    ),
    "endpoint": Spec(
        module="bench.engines.endpoint:EndpointEngine",
        check="bench.serving.settings:settings",
        weights="none",
        remote=True,
        devices=("remote",),
    ),
    "synthetic": Spec(
        module="bench.engines.synthetic:SyntheticEngine", weights="none", devices=("synthetic",)
    ),
}

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Of weights that are not quantized; `auto` is float32 on a CPU and bfloat16 elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one worker process is told to load."""

    architecture: Mapping[str, Any]
    """Keys of config.json, for seeded random weights; unused where `folder` is set."""
    folder: Path | None
    """Folder with config.json and safetensors; None makes random weights."""
    gguf: Path | None = None
    """The GGUF file, for an engine that loads one."""
    random_seed: int
    initializer_range: float
    quant: str
    mode: str
    dtype: str
    device: str
    threads: int | None
    seed: int
    """Seed of the prompt's tokens, the same for every arm."""
    replicate: int
    options: Mapping[str, Any] = field(default_factory=dict)
    made: Path | None = None
    """What the engine's `Spec.prepare` made; None for an engine without one."""

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Job:
        """From the JSON that one process sends to another."""
        paths = {n: Path(table[n]) if table[n] else None for n in ("folder", "gguf", "made")}
        return cls(**(dict(table) | paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `Spec.prepare` is given."""

    folder: Path | None
    """Folder with config.json and safetensors; None for random weights."""
    name: str
    """Of the model, for people."""
    identity: str
    """Of the weights: `bench.weights.identity`."""
    quant: str
    dtype: str
    device: quantization.Device
    options: Mapping[str, Any]
    home: Home | None
    """The engine's own environment, where it has one."""
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was really loaded. None where the engine cannot know; `absent` says why."""

    device: str
    """As resolved: `cpu`, `cuda:0`, ..."""
    dtype: str
    n_params: int | None
    weights_bytes: int | None
    """Bytes of all weights as held in memory, quantization scales included."""
    quantized_fraction: float | None
    """Share of the parameters that is held or computed in the scheme's low precision."""
    dynamic: str | None
    """Which meaning of dynamic quantization: `activations`, `online`, `bit-allocation`, or None."""
    kernel: str | None
    """What computes the quantized layers at decode, as far as it can be known."""
    absent: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One request by the engine's own clock, where it can only do whole requests."""

    prefill_s: float
    """Until every sequence has its first new token."""
    itl_s: list[float]
    """From when every sequence has its n-th new token until every one has its next: n_gen - 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One request of a server that had others beside it."""

    prefill_s: float
    """From sending it to its first new token."""
    itl_s: tuple[float, ...]
    """Gaps between chunks; a chunk need not be one token, so there may be fewer than n_gen - 1."""
    e2e_s: float
    """From sending it to its last new token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server did over a window of many requests."""

    requests: Sequence[Answered]
    wall_s: float
    """Seconds in which those requests were answered."""
    device: Mapping[str, Any] = field(default_factory=dict)
    """How requests ended, how late the client was, what the server says of itself."""
    reasons: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """One loaded model in one scheme.

    An engine that can only do whole requests has one more method, `request(n_gen) -> Timed`, which
    the worker then calls in place of the steps; its `prefill` is a request of one token, its `step`
    and `rewind` raise UnsupportedError, and its `clock` has the name of what timed it. An engine
    whose steps return only when the device has done them, by queues that torch does not see, sets
    `clock_device` to `cpu`; one that holds only so many sequences, `most_sequences`; one that has
    other processes compute a part of the model, `others` (`bench.engines.ranks.Ranks`).

    A server, which has many requests in flight, has `request` for the warm-up and one method more,
    `serve(rounds, seconds) -> Served`, for the measured window: at least `rounds` for each of
    `n_batch` sequences, and at least `seconds`. It counts its answers' tokens itself.

    The steps are `start` once a workload; then for each request `reset`, `prefill`, and
    `n_gen - 1` times `step`, then `tokens`. `rewind` goes back to the state just after `prefill`.
    """

    def load(self, job: Job) -> Loaded:
        """Load the weights and apply the scheme. Raises UnsupportedError."""

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        """Make the prompt and whatever memory the requests of this workload need."""

    def reset(self) -> None:
        """Forget everything but the prompt."""

    def prefill(self) -> None:
        """Process the prompt and choose the first new token of each sequence (greedy)."""

    def step(self) -> None:
        """One more token for each sequence. Must not wait for the device."""

    def rewind(self) -> None:
        """Back to the state after `prefill`."""

    def synchronize(self) -> None:
        """Wait until the device has done everything asked of it."""

    def tokens(self) -> list[list[int]]:
        """New tokens of each sequence since `reset`."""

    def notes(self) -> Mapping[str, Any]:
        """What is known of the workload that was started: seconds of compiling, kernels, ..."""

    def log_probs(self, window: Sequence[int]) -> Any:
        """Log-probabilities of the next token at each position of `window` but the last.

        A float32 array or tensor [len(window) - 1, vocabulary], on the host. Raises
        UnsupportedError where the engine cannot return logits.
        """

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens added. Raises UnsupportedError."""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of some tokens."""


def spec(name: str) -> Spec:
    """The engine of that name; InputError for an unknown one."""
    if name not in ENGINES:
        raise InputError(unknown("engine", name, ENGINES))
    return ENGINES[name]


def engine(name: str) -> Engine:
    """A new engine of that name; its packages are imported on `load`."""
    make: Callable[[], Engine] = attribute(spec(name).module)
    return make()


def attribute(where: str) -> Any:
    """What `package.module:name` names."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def refusal(variant: Variant, device: quantization.Device) -> str | None:
    """Why its engine cannot run this arm on this device, or None. Loads nothing."""
    name, of = variant.engine, spec(variant.engine)
    if device.kind not in of.devices:
        return f"engine '{name}' runs on {' or '.join(of.devices)}, not on {device.name}"
    if len(members(device.name)) > 1 and not of.spreads:
        return f"engine '{name}' runs on one device, not on {device.name}"
    if of.schemes is None:
        return quantization.refusal(
            variant.quant, device, variant.mode, variant.dtype
        ) or splitting.refusal(variant, device.name)
    if why := of.refuses.get((variant.quant, device.kind)):
        return f"engine '{name}': scheme '{variant.quant}' is not measured on {device.name}: {why}"
    return None
