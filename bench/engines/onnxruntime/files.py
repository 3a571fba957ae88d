"""A model's ONNX files: exported and quantized once with Optimum, kept in the cache.

This runs in the parent and needs the standard library only; `export` does the
work, in the engine's environment. A folder is keyed by the weights, by the packages that made it
and by what was asked for, and appears only when it is whole.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.engines.messages import Order
from bench.errors import InputError, UnsupportedError, unknown
from bench.identity import key
from bench.models.weights import (
    cache_folder,
    import_root,
    intact,
    last_line,
    locked,
    publish,
    workshop,
)
from bench.programs import own

FORMAT: Final = 1
"""Raised when files that older versions made can no longer be used."""

MODEL: Final = "model.onnx"
FACTS: Final = "facts.json"
EXPORTER: Final = "bench.engines.onnxruntime.export"

OPTIONS: Final = ("per_channel", "instructions")
INSTRUCTIONS: Final = ("avx512_vnni", "avx512", "avx2", "arm64")
"""Names of `AutoQuantizationConfig`, the most able first."""

NEEDS: Final[Mapping[str, frozenset[str]]] = {
    "avx512_vnni": frozenset({"avx512f", "avx512_vnni"}),
    "avx512": frozenset({"avx512f"}),
    "avx2": frozenset({"avx2"}),
}
"""Flags of /proc/cpuinfo."""


def prepare(order: Order) -> Path:
    """The folder with model.onnx and facts.json for this order; see `Spec.prepare`.

    Raises InputError for an option that is not known, UnsupportedError if it cannot be made.
    """
    settings = options(order.options)
    if order.folder is None:
        raise UnsupportedError(
            "engine 'onnxruntime' exports real weights; random ones of a shape are measured with "
            "engine 'transformers'"
        )
    source, dtype = order.folder, resolve_dtype(order.dtype, order.device.kind)
    plain = _kept(order, {"dtype": dtype}, lambda made: _export(order, source, dtype, made))
    if order.quant == "none":
        return plain
    settings["instructions"] = settings["instructions"] or instructions()
    recipe = {"dtype": dtype, "quant": order.quant, **settings}
    return _kept(order, recipe, lambda made: _quantize(order, plain, settings, made))


def _kept(order: Order, recipe: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder of this recipe, made if it is not there whole."""
    assert order.home is not None
    name = key(
        "onnx", format=FORMAT, weights=order.identity, packages=order.home.fingerprint, **recipe
    )
    place = cache_folder() / "onnx" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', order.name)}-{name}"
    try:
        with locked(place.with_name(f"{name}.lock"), order.say, "exports the same model"):
            if not intact(place):
                with workshop(place) as made:
                    make(made)
                    publish(made, place)
    except OSError as error:
        raise UnsupportedError(
            f"cannot keep {order.name} as ONNX in {place.parent}: {error.strerror or error}; "
            "XDG_CACHE_HOME chooses another place"
        ) from error
    return place


def _export(order: Order, source: Path, dtype: str, made: Path) -> None:
    assert order.home is not None
    order.say(f"exporting {order.name} to ONNX with Optimum (once)")
    with tempfile.TemporaryDirectory(dir=made.parent) as scratch:
        expected = str(Path(scratch) / "expected.npz")
        # What the model says by our own transformers: the exporter's is older, and may read the
        # model's configuration otherwise.
        command = own("bench.models.convert", "expected", str(source), expected)
        _run(command, f"cannot load {order.name}")
        device = "cuda" if dtype == "float16" else "cpu"
        steps = ("export", str(source), expected, dtype, device, str(made))
        _run(order.home.program(EXPORTER, *steps), f"cannot export {order.name} to ONNX")


def _quantize(order: Order, plain: Path, settings: Mapping[str, Any], made: Path) -> None:
    assert order.home is not None
    width = "channel" if settings["per_channel"] else "tensor"
    chosen = settings["instructions"]
    order.say(f"quantizing {order.name} with Optimum for {chosen}, per {width} (once)")
    steps = ("quantize", str(plain), chosen, width, str(made))
    _run(order.home.program(EXPORTER, *steps), f"cannot quantize {order.name}")


def _run(command: Sequence[str], failing: str) -> None:
    """Run a program to its end; UnsupportedError with its last line."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=import_root(),
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode != 0:
        raise UnsupportedError(f"{failing}: {last_line(done.stderr)}")


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's options with their defaults; InputError for what is none."""
    for name in given:
        if name not in OPTIONS:
            raise InputError(unknown("option of onnxruntime", name, OPTIONS))
    per_channel = given.get("per_channel", False)
    if not isinstance(per_channel, bool):
        raise InputError(f"options.per_channel: {per_channel!r} is not true or false")
    wanted = given.get("instructions")
    if wanted is not None and wanted not in INSTRUCTIONS:
        raise InputError(unknown("option instructions", str(wanted), INSTRUCTIONS))
    return {"per_channel": per_channel, "instructions": wanted}


def resolve_dtype(name: str, kind: str) -> str:
    """float32 on a CPU, float16 on CUDA. Raises UnsupportedError for what has no kernels there."""
    if name == "auto":
        return "float32" if kind == "cpu" else "float16"
    if name == "float32" or (name == "float16" and kind == "cuda"):
        return name
    raise UnsupportedError(f"engine 'onnxruntime' does not run {name} on {kind}")


def instructions(cpuinfo: str | None = None, machine: str | None = None) -> str:
    """The quantization that Optimum has for this CPU: one of INSTRUCTIONS."""
    machine = machine or platform.machine()
    if machine.lower() in ("aarch64", "arm64"):
        return "arm64"
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            cpuinfo = ""
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    for name in INSTRUCTIONS:
        if name in NEEDS and flags >= NEEDS[name]:
            return name
    if not flags:
        return "avx2"  # not Linux: what every 64-bit x86 of the last ten years has
    raise UnsupportedError(
        "this CPU has neither AVX2 nor AVX-512, which dynamic quantization with Optimum needs"
    )
