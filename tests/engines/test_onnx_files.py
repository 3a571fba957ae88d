"""What is asked of Optimum, decided without it: CPU, options, devices, configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import quantization
from bench.engines.messages import Order
from bench.engines.onnxruntime.export import n_params, older
from bench.engines.onnxruntime.files import instructions, options, prepare, resolve_dtype
from bench.engines.registry import refusal
from bench.errors import InputError, UnsupportedError
from bench.experiment import ArmEntry, Experiment, Grid, Variant, Workload
from bench.models import resolve_model
from bench.runner.arms import Arm, check_names
from bench.runner.venvs import home

CPU = quantization.Device(name="cpu", kind="cpu")
CUDA = quantization.Device(name="cuda:0", kind="cuda")


@pytest.mark.parametrize(
    ("flags", "machine", "name"),
    [
        ("fpu sse avx avx2 avx512f avx512_vnni", "x86_64", "avx512_vnni"),
        ("fpu sse avx avx2 avx512f avx512bw", "x86_64", "avx512"),
        # AVX-VNNI without AVX-512 is not what `avx512_vnni` means.
        ("fpu sse avx avx2 avx_vnni", "x86_64", "avx2"),
        ("", "aarch64", "arm64"),
        ("", "AMD64", "avx2"),  # Windows shows no flags
    ],
)
def test_the_quantization_is_chosen_for_this_cpu(flags: str, machine: str, name: str) -> None:
    cpuinfo = f"model name\t: x\nflags\t\t: {flags}\nbugs\t\t:\n" if flags else ""
    assert instructions(cpuinfo, machine) == name


def test_a_cpu_without_the_instructions_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="neither AVX2 nor AVX-512"):
        instructions("flags : fpu sse sse2\n", "x86_64")


def test_options() -> None:
    assert options({}) == {"per_channel": False, "instructions": None}
    assert options({"per_channel": True, "instructions": "avx2"}) == {
        "per_channel": True,
        "instructions": "avx2",
    }
    with pytest.raises(InputError, match="did you mean 'per_channel'"):
        options({"per_chanel": True})
    with pytest.raises(InputError, match=r"options.per_channel: 'yes' is not true or false"):
        options({"per_channel": "yes"})
    with pytest.raises(InputError, match="did you mean 'avx512'"):
        options({"instructions": "avx51"})


def test_dtypes() -> None:
    assert (resolve_dtype("auto", "cpu"), resolve_dtype("auto", "cuda")) == ("float32", "float16")
    assert resolve_dtype("float16", "cuda") == "float16"
    for name in ("float16", "bfloat16"):
        with pytest.raises(UnsupportedError, match=f"does not run {name} on cpu"):
            resolve_dtype(name, "cpu")


def refused(engine: str, quant: str, device: quantization.Device) -> str:
    return str(refusal(Variant(model="m", engine=engine, quant=quant), device))


def test_int8_on_cuda_is_refused_with_the_reason() -> None:
    assert refused("onnxruntime", "none", CUDA) == "None"
    assert refused("onnxruntime", "int8-dynamic", CPU) == "None"
    assert "would run on the CPU" in refused("onnxruntime", "int8-dynamic", CUDA)
    mps = quantization.Device(name="mps:0", kind="mps")
    assert refused("onnxruntime", "none", mps) == (
        "engine 'onnxruntime' runs on cpu or cuda, not on mps:0"
    )
    # Schemes of torch are still judged by their own rules.
    assert "not on cuda:0" in refused("transformers", "torch-dynamic-int8", CUDA)


def order(**changes: Any) -> Order:
    given: dict[str, Any] = {
        "folder": None,
        "name": "m",
        "identity": "i",
        "quant": "none",
        "dtype": "auto",
        "device": CPU,
        "options": {},
        "home": home("onnxruntime"),
        "say": lambda _: None,
    }
    return Order(**given | changes)


def test_random_weights_are_not_exported() -> None:
    with pytest.raises(UnsupportedError, match="exports real weights"):
        prepare(order())


def test_a_wrong_option_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown option of onnxruntime 'fast'"):
        prepare(order(folder=tmp_path, options={"fast": True}))


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "gpu-cost-bench").mkdir()
    (tmp_path / "gpu-cost-bench" / "onnx").write_text("in the way")
    with pytest.raises(UnsupportedError, match=r"cannot keep m as ONNX .*XDG_CACHE_HOME") as error:
        prepare(order(folder=tmp_path))
    assert "\n" not in str(error.value)


def test_schemes_of_other_engines_are_refused_by_name() -> None:
    entry = ArmEntry(engine="onnxruntime", quant="int8-weight-only")
    experiment = Experiment(
        name="x", question="?", baseline="int8-weight-only", grid=Grid(), arm=(entry,)
    )
    with pytest.raises(InputError, match="unknown scheme of onnxruntime 'int8-weight-only'"):
        check_names(experiment)


def test_other_packages_are_another_measurement() -> None:
    model = resolve_model("smollm2-135m-instruct")
    experiment = Experiment(name="x", question="?")
    keys = {
        Arm(variant=Variant(model=model.ref), model=model, identity="i", home=place).key(
            experiment, Workload(n_prompt=1, n_gen=1), 0
        )
        for place in (None, home("onnxruntime"), home("onnxruntime", "cuda"))
    }
    assert len(keys) == 3


def test_a_configuration_of_transformers_5_is_told_in_the_words_of_4() -> None:
    new = {
        "hidden_size": 8,
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    }
    assert older(new) == {"hidden_size": 8, "rope_theta": 100000.0}
    scaled = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 32.0}}
    assert older(scaled) == {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0},
    }
    assert older({"rope_theta": 1e4}) == {"rope_theta": 1e4}  # written by transformers 4
    with pytest.raises(SystemExit, match="by kind of layer"):
        older({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}})


def test_weights_are_counted_by_the_headers_of_the_files(tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert n_params(tiny_folder) == sum(p.numel() for p in model.parameters())


def test_an_engine_without_torch_is_not_given_one_to_read_its_memory() -> None:
    program = (
        "import sys\n"
        "from bench.devices.gpu.torch_memory import TorchMemory\n"
        "memory = TorchMemory('cuda:0')\n"
        "memory.begin()\n"
        "assert 'does not allocate by torch' in memory.end().absent['peak_device_bytes']\n"
        "assert 'torch' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
