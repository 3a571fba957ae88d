"""Loading a layer at a time: the same numbers as at once, and never the whole model in floats."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench import quantization, schemes
from bench.engines.transformers import loading
from bench.models import load_card, model_cards
from bench.quantization import holding, layers, streaming
from tests.conftest import TINY

CPU = schemes.Device(name="cpu", kind="cpu")
ON_CPU = [
    name
    for name in ("int8-weight-only", "int8-dynamic", "int8-dynamic-fused", "torch-dynamic-int8",
                 "fp8-weight-only", "bnb-int8", "bnb-nf4", "quanto-int8")
    if quantization.refusal(name, CPU) is None
]  # fmt: skip


def on_meta(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    with torch.device("meta"):
        config = AutoConfig.for_model(**TINY | changes)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def at_once(scheme: str, model: Any) -> Any:
    wanted = schemes.scheme(scheme)
    return layers.convert(wanted, model, layers.choose(wanted, model).names).eval()


def logits(model: Any) -> torch.Tensor:
    tokens = torch.arange(24)[None] * 7 % 256
    with torch.inference_mode():
        return model(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scheme", ON_CPU)
def test_random_weights_are_those_of_quantizing_at_once(scheme: str, tied: bool) -> None:
    changes = {"tie_word_embeddings": tied, "hidden_size": 64, "intermediate_size": 128}
    torch.manual_seed(3)
    config = AutoConfig.for_model(**TINY | changes)
    whole = loading.random(config, AutoModelForCausalLM, torch.float32, "cpu")
    one = at_once(scheme, whole.eval())
    torch.manual_seed(3)
    made = streaming.load(on_meta(**changes), "cpu", schemes.scheme(scheme), None)
    assert torch.equal(logits(made.model), logits(one))
    assert holding.held(made.model) == holding.held(one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["int8-weight-only", "bnb-nf4", "int8-dynamic-fused"])
def test_weights_of_files_are_those_of_quantizing_at_once(
    scheme: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    changes = {"hidden_size": 64, "intermediate_size": 128}
    config = AutoConfig.for_model(**TINY | changes)
    whole = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    whole.save_pretrained(tmp_path, max_shard_size="60KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    one = at_once(scheme, AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval())
    model = on_meta(dtype, **changes)
    found = streaming.pieces(tmp_path)
    assert streaming.matches(model, found)
    made = streaming.load(model, "cpu", schemes.scheme(scheme), found)
    assert torch.equal(logits(made.model), logits(one))
    assert not [n for n, p in made.model.named_parameters() if p.is_meta]


def test_a_model_on_the_host_is_moved_module_by_module() -> None:
    torch.manual_seed(1)
    whole = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY)).eval()
    before = logits(at_once("int8-weight-only", copy.deepcopy(whole)))
    made = streaming.load(whole, "cpu", schemes.scheme("int8-weight-only"), None)
    assert torch.equal(logits(made.model), before)


def test_what_transformers_would_rename_is_left_to_it(tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY))
    whole.model.save_pretrained(tmp_path)  # without the prefix `model.`
    assert not streaming.matches(on_meta(), streaming.pieces(tmp_path))
    whole.save_pretrained(tmp_path)
    assert streaming.matches(on_meta(), streaming.pieces(tmp_path))
    assert not streaming.matches(on_meta(hidden_size=64), streaming.pieces(tmp_path))


def test_only_schemes_that_go_layer_by_layer() -> None:
    assert streaming.streams(schemes.scheme("int8-weight-only"))
    assert not streaming.streams(schemes.scheme("none"))
    assert not streaming.streams(schemes.scheme("mixed:5.0bit"))


PEAK = """
import json, re, sys, pathlib, torch
from bench import schemes
from bench.engines.transformers import loading
from bench.models import load_card, model_cards
from bench.quantization import holding, streaming
from transformers import AutoConfig, AutoModelForCausalLM
shape, scheme, folder = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
def status(name):
    text = open("/proc/self/status").read()
    return int(re.search(name + r":\\s+(\\d+)", text)[1]) * 1024
def load(shape, found):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), dtype=torch.float32)
    largest = max(p.numel() * 4 for p in model.parameters())
    pieces = streaming.pieces(pathlib.Path(found)) if found else None
    torch.manual_seed(0)
    made = streaming.load(model.eval(), "cpu", schemes.scheme(scheme), pieces)
    return made, largest
tiny = shape | {"vocab_size": 256, "num_hidden_layers": 1}
load(tiny, None)  # libraries
streaming.give_back("cpu")
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
made, largest = load(shape, folder)
held = holding.held(made.model).weights_bytes
print(json.dumps({"peak": status("VmHWM") - before, "held": held, "largest": largest}))
"""

SHAPE = {
    "model_type": "llama",
    "vocab_size": 16_384,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
"""280 million weights: 1.1 GB in floats, so that what an allocator keeps does not decide."""


def peak_of(shape: dict[str, Any], scheme: str, folder: str) -> dict[str, int]:
    """Resident memory that loading took, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(shape), scheme, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("scheme", "source"),
    [
        ("int8-weight-only", "random"),  # of a billion weights below, and bnb-nf4
        pytest.param("bnb-nf4", "files", marks=pytest.mark.slow),
    ],
)
def test_the_peak_is_the_quantized_model_and_one_layer(
    scheme: str, source: str, tmp_path: Path
) -> None:
    folder = ""
    if source == "files":
        folder = str(tmp_path)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE)).save_pretrained(folder)
    # bitsandbytes' own function for 4 bits copies parts of a matrix in 32 bits, which shows here.
    check_peak(peak_of(SHAPE, scheme, folder), times=1.5 if scheme == "bnb-nf4" else 1.0)


def check_peak(found: dict[str, int], times: float = 1.0) -> None:
    """The quantized model and its largest tensor in floats, with 15% for what lies between."""
    assert found["peak"] <= 1.15 * found["held"] + times * found["largest"]


@pytest.mark.large
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("scheme", ["int8-weight-only", "bnb-nf4"])
def test_the_peak_of_a_billion_weights(scheme: str) -> None:
    shape = {**load_card(model_cards()["llama-3.2-1b"]).architecture}
    check_peak(peak_of(shape, scheme, ""))
