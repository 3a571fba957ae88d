"""Make ONNX files with Optimum. Run as a process of its own, in the engine's environment.

    PYTHON -I boot.py bench.engines.onnxruntime.export export SOURCE EXPECTED DTYPE DEVICE FOLDER
    PYTHON -I boot.py bench.engines.onnxruntime.export quantize SOURCE INSTRUCTIONS WIDTH FOLDER

The graph is Optimum's own, with its key-value cache, but for its end (`graft`): there the output
head sees only the positions that are asked for, and the likeliest token is chosen in the graph.
Beside it stands facts.json: what the runtime really holds and runs.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.engines.onnxruntime.files import FACTS, MODEL

MAX_KLD: Final = {"float32": 1e-5, "float16": 1e-2}
"""Most that an export's predictions may diverge from the model's, mean over positions, nats.

Rounding in float32 gives 1e-9; a rotary base read wrongly, 0.1 and more.
"""

FLOATS: Final = {1: 4, 10: 2, 11: 8, 16: 2}
"""onnx.TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16 -> bytes of a number."""
INT8: Final = {2: 1, 3: 1}
"""UINT8, INT8."""


def export(source: Path, expected: Path, dtype: str, device: str, folder: Path) -> None:
    """A folder of safetensors as model.onnx, checked against `expected`."""
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # The check against `expected` below is of the whole way, not of the last part of it.
        main_export(
            readable(source, Path(scratch)),
            folder,
            task="text-generation-with-past",
            device=device,
            dtype={"float32": "fp32", "float16": "fp16"}[dtype],
            local_files_only=True,
            trust_remote_code=False,
            do_validation=False,
        )
    graft(folder / MODEL)
    kld = divergence(folder / MODEL, device, expected)
    if not kld <= MAX_KLD[dtype]:
        raise SystemExit(
            f"the exported model's predictions differ from the model's: KLD {kld:.2g} nats, "
            f"at most {MAX_KLD[dtype]:g} is rounding"
        )
    about = {"n_params": n_params(source), "dtype": dtype, "exported_kld": kld}
    write_facts(folder, device, about)


def quantize(source: Path, instructions: str, width: str, folder: Path) -> None:
    """The dynamic quantization that Optimum has for these instructions, of an exported model."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    make = getattr(AutoQuantizationConfig, instructions)
    config = make(is_static=False, per_channel=width == "channel")
    external = any(source.glob(f"{MODEL}_data*"))
    ORTQuantizer.from_pretrained(source, file_name=MODEL).quantize(
        save_dir=folder,
        quantization_config=config,
        file_suffix=None,
        use_external_data_format=external,
    )
    (made,) = folder.glob("*.onnx")
    made.replace(folder / MODEL)
    facts = json.loads((source / FACTS).read_text(encoding="utf-8"))
    about = {"instructions": instructions, "weights": f"int8 per {width}", "optimum": str(config)}
    write_facts(folder, "cpu", facts | about)  # where alone it runs


def readable(source: Path, scratch: Path) -> str:
    """The same model with a config.json that the exporter's older transformers understands."""
    for file in source.iterdir():
        if file.name != "config.json":
            (scratch / file.name).symlink_to(file.resolve())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (scratch / "config.json").write_text(json.dumps(older(config)), encoding="utf-8")
    return str(scratch)


def older(config: dict[str, Any]) -> dict[str, Any]:
    """Keys of transformers 5 under their names of 4.57.

    There the rotary base stood beside its scaling; read in configuration_llama.py of both.
    """
    table = dict(config)
    rope = dict(table.pop("rope_parameters", None) or {})
    if any(isinstance(value, dict) for value in rope.values()):
        raise SystemExit("rotary parameters by kind of layer are not exported yet")
    if "rope_theta" in rope:
        table["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        table["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope.get("rope_type", "default") != "default":
        table["rope_scaling"] = rope
    return table


def graft(path: Path) -> None:
    """Let the head see the last `logits_to_keep` positions; add the output `next_tokens`.

    As exported, the head's matmul runs over the whole prompt, of which one position is used:
    a fifth of a small model's prefill, and gigabytes of logits of a long prompt. `next_tokens`
    [batch, kept] is the argmax, so that no step copies logits out of the runtime.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    makes = {name: node for node in graph.node for name in node.output}
    node = makes["logits"]
    while node.op_type not in ("MatMul", "Gemm"):
        if node.input[0] not in makes:
            raise SystemExit(f"the graph's logits are not made by a matmul but by {node.op_type}")
        node = makes[node.input[0]]
    hidden, place = node.input[0], list(graph.node).index(node)
    node.input[0] = "kept_hidden"
    for name, value in (("kept_end", 2**63 - 1), ("kept_axis", 1)):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
    cut = ["kept_start", "kept_end", "kept_axis"]
    graph.node.insert(place, helper.make_node("Neg", ["logits_to_keep"], ["kept_start"]))
    graph.node.insert(place + 1, helper.make_node("Slice", [hidden, *cut], ["kept_hidden"]))
    graph.node.append(helper.make_node("ArgMax", ["logits"], ["next_tokens"], axis=-1, keepdims=0))
    graph.input.append(helper.make_tensor_value_info("logits_to_keep", TensorProto.INT64, [1]))
    kept = ["batch_size", "kept_length"]
    graph.output.append(helper.make_tensor_value_info("next_tokens", TensorProto.INT64, kept))
    for output in graph.output:
        if output.name == "logits":
            output.type.tensor_type.shape.dim[1].dim_param = "kept_length"
    onnx.save(model, path)


def divergence(path: Path, device: str, expected: Path) -> float:
    """Mean KL divergence of an ONNX model from `expected` (`bench.models.convert`), nats."""
    import numpy as np

    from bench.engines.onnxruntime.session import OnnxSession, log_softmax

    with np.load(expected) as file:
        tokens, logits = file["tokens"], file["logits"]
    found = log_softmax(OnnxSession(path, device=device).logits(tokens)[0])
    base = log_softmax(logits)
    return float((np.exp(base) * (base - found)).sum(-1).mean())


def write_facts(folder: Path, device: str, about: dict[str, Any]) -> None:
    """What the runtime holds and runs of folder/model.onnx, as it has optimized it."""
    import onnx

    from bench.engines.onnxruntime.session import OnnxSession

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        optimized = Path(scratch) / MODEL
        OnnxSession(folder / MODEL, device=device, optimized=optimized)
        graph = onnx.load(optimized, load_external_data=False).graph
    facts = about | held(graph) | {"operators": operators(graph)}
    (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def held(graph: Any) -> dict[str, Any]:
    """Bytes and numbers of the weights in a graph, scales and zero points in the bytes alone."""
    weights_bytes = floats = quantized = 0
    for tensor in graph.initializer:
        count = math.prod(tensor.dims)
        kind = tensor.data_type
        if kind not in FLOATS | INT8:
            continue  # numbers that shapes are computed with
        weights_bytes += count * (FLOATS | INT8)[kind]
        if tensor.name.endswith(("_scale", "_zero_point")):
            continue
        if kind in INT8:
            quantized += count
        else:
            floats += count
    return {
        "weights_bytes": weights_bytes,
        "quantized_fraction": quantized / (quantized + floats),
        "held_weights": quantized + floats,
    }


def operators(graph: Any) -> dict[str, int]:
    """How many there are of each operator, the most frequent first."""
    return dict(Counter(node.op_type for node in graph.node).most_common())


def n_params(source: Path) -> int:
    """Number of weights in a folder of safetensors, by the headers of its files."""
    return sum(math.prod(shape) for file in source.glob("*.safetensors") for shape in shapes(file))


def shapes(file: Path) -> Iterator[list[int]]:
    """Shape of each tensor; the header is JSON after its length in 8 bytes, little-endian."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    yield from (about["shape"] for name, about in header.items() if name != "__metadata__")


def main(arguments: list[str]) -> None:
    verb, source, *rest = arguments
    if verb == "export":
        expected, dtype, device, folder = rest
        export(Path(source), Path(expected), dtype, device, Path(folder))
    else:
        instructions, width, folder = rest
        quantize(Path(source), instructions, width, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
