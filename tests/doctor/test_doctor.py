"""The doctor on invented machines and cards: every state of every check, and the exit codes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from bench import doctor
from bench.cli import doctor as cli
from bench.devices import peaks
from bench.devices.figures import Unreadable
from bench.devices.gpu import card, company
from bench.devices.gpu.nvidia import NvidiaCard
from bench.devices.host import load, machine, rapl
from bench.doctor import Check, examine, find_device
from bench.doctor import gpu as gpu_doctor
from bench.doctor import host as host_doctor
from bench.doctor import peaks as doctor_peaks
from bench.doctor.gpu import gpu_checks
from bench.doctor.support import support_check
from bench.engines.registry import ENGINES
from bench.errors import UnsupportedError
from tests.fake_nvml import FakeNvml, process


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where nothing is wrong, whatever this one is."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(company, "in_container", lambda: False)
    shown = {
        "cpu_model": "Invented CPU",
        "cpu_limit": None,
        "memory_limit": None,
        "governors": "performance",
        "turbo": False,
        "temperature_c": 40.0,
    }
    for name, value in shown.items():
        monkeypatch.setattr(machine, name, lambda value=value: value)
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "memory_info", lambda _name: 32 << 30)
    monkeypatch.setattr(rapl, "find", lambda: rapl.Rapl((Path("a"),)))
    use_load(monkeypatch, 0.01)


def use_load(monkeypatch: pytest.MonkeyPatch, cores: float) -> None:
    seen = load.Load(window_s=1, own_cores=0, foreign_cores=cores, steal_cores=0)
    monkeypatch.setattr(load, "between", lambda _before, _after: seen)
    monkeypatch.setattr(host_doctor.time, "sleep", lambda _seconds: None)


def use_card(monkeypatch: pytest.MonkeyPatch, library: FakeNvml) -> None:
    monkeypatch.setattr(card, "open_card", lambda device: NvidiaCard(device, library))


def of(checks: Any, name: str) -> Check:
    return next(check for check in checks if check.check == name)


def hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def unreadable() -> None:
        raise Unreadable(f"{name} is hidden")

    monkeypatch.setattr(machine, name, unreadable)


# --- host ------------------------------------------------------------------------------------


def test_a_machine_in_order_is_all_ok() -> None:
    checks = examine("cpu")
    assert [(c.check, c.found) for c in checks if c.state != "ok" and c.check != "disk"] == []


@pytest.mark.parametrize(("cores", "state"), [(0.1, "ok"), (0.5, "warn"), (5.0, "bad")])
def test_load(monkeypatch: pytest.MonkeyPatch, cores: float, state: str) -> None:
    use_load(monkeypatch, cores)
    assert of(examine("cpu"), "other load").state == state


def test_load_beside_a_gpu_matters_only_when_it_takes_every_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_card(monkeypatch, FakeNvml())
    monkeypatch.setattr(host_doctor, "built", lambda _device: "ok")
    use_load(monkeypatch, 5.0)
    assert of(examine("cuda:0"), "other load").state == "ok"
    use_load(monkeypatch, 7.5)
    assert of(examine("cuda:0"), "other load").state == "warn"


@pytest.mark.parametrize(
    ("name", "value", "check", "state"),
    [
        ("cpu_limit", 1.5, "cpu", "warn"),
        ("cpu_limit", 8.0, "cpu", "ok"),
        ("memory_limit", 1 << 30, "memory", "bad"),
        ("memory_limit", 3 << 30, "memory", "warn"),
        ("governors", "powersave", "governor", "warn"),
        ("turbo", True, "turbo", "warn"),
        ("temperature_c", 80.0, "cpu temperature", "warn"),
        ("temperature_c", 95.0, "cpu temperature", "bad"),
    ],
)
def test_what_is_out_of_order_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, check: str, state: str
) -> None:
    monkeypatch.setattr(machine, name, lambda: value)
    found = of(examine("cpu"), check)
    assert found.state == state
    assert state == "ok" or (found.meaning and found.advice)


@pytest.mark.parametrize(
    ("name", "check"),
    [("governors", "governor"), ("turbo", "turbo"), ("temperature_c", "cpu temperature")],
)
def test_what_is_hidden_is_a_warning_and_not_ok(
    monkeypatch: pytest.MonkeyPatch, name: str, check: str
) -> None:
    hide(monkeypatch, name)
    found = of(examine("cpu"), check)
    assert found.state == "warn"
    assert found.meaning == f"{name} is hidden"


def test_no_energy_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise Unreadable("RAPL counters are readable by root only: no")

    monkeypatch.setattr(rapl, "find", none)
    found = of(examine("cpu"), "energy counter")
    assert found.state == "warn"
    assert found.advice == "run as root"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.13.0+cpu", (2, 13, 0)), ("2.11", (2, 11)), ("5.0rc1", (5,)), ("dev", ())],
)
def test_version_of(text: str, numbers: tuple[int, ...]) -> None:
    assert host_doctor.version_of(text) == numbers


@pytest.mark.parametrize(
    ("version", "state"), [("2.13.0+cpu", "ok"), ("2.9.1", "warn"), (None, "bad")]
)
def test_packages(monkeypatch: pytest.MonkeyPatch, version: str | None, state: str) -> None:
    def lookup(name: str) -> str:
        if version is None:
            raise host_doctor.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(host_doctor.metadata, "version", lookup)
    found = host_doctor.package_check("torch", (2, 11), "bad")
    assert found.state == state
    assert state == "ok" or "torch>=2.11" in found.advice


def test_the_least_versions_are_those_of_the_project() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, least, _ in host_doctor.PACKAGES:
        assert f'"{name}>={".".join(map(str, least))}"' in text


# --- GPU -------------------------------------------------------------------------------------


def look(**answers: Any) -> list[Check]:
    return list(gpu_checks(NvidiaCard("cuda:0", FakeNvml(**answers))))


def test_a_card_in_order_is_all_ok() -> None:
    library = FakeNvml()
    library.answers["nvmlDeviceGetMemoryInfo"].used = 1 << 30
    checks = list(gpu_checks(NvidiaCard("cuda:0", library)))
    assert {check.state for check in checks} == {"ok"}


@pytest.mark.parametrize(
    ("answers", "check", "state"),
    [
        ({"nvmlDeviceGetPersistenceMode": 0}, "persistence", "warn"),
        ({"nvmlDeviceGetPowerManagementLimit": 300_000}, "power limit", "warn"),
        ({"nvmlDeviceGetComputeRunningProcesses": [process(4_000_000)]}, "other processes", "bad"),
        ({"nvmlDeviceGetTemperatureV": 70}, "thermal headroom", "warn"),
        ({"nvmlDeviceGetTemperatureV": 80}, "thermal headroom", "bad"),
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x40}, "clock events", "bad"),
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x01}, "clock events", "ok"),
        ({"nvmlDeviceGetMigMode": [1, 1]}, "mig", "warn"),
        ({"nvmlDeviceGetMigMode": [1, 1]}, "energy counter", "warn"),
        ({"nvmlDeviceGetVirtualizationMode": 2}, "virtualization", "warn"),
        ({}, "gpu memory", "warn"),  # the fake card has 17 of 80 GiB in use
    ],
)
def test_cards_out_of_order(answers: dict[str, Any], check: str, state: str) -> None:
    found = of(look(**answers), check)
    assert found.state == state
    assert state == "ok" or found.meaning


def test_in_a_container_the_doctor_is_not_one_of_the_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(company, "in_container", lambda: True)
    listed = [process(4_000_000)]
    assert of(look(nvmlDeviceGetComputeRunningProcesses=listed), "other processes").state == "bad"
    assert of(look(), "other processes").state == "warn"


def test_a_card_that_says_nothing_is_no_reason_to_fail() -> None:
    no = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    names = [name for name in FakeNvml().answers if name.startswith("nvmlDevice")]
    quiet = {name: no for name in names if "Count" not in name and "Handle" not in name}
    checks = look(**quiet)
    assert {check.state for check in checks} <= {"ok", "warn"}
    assert of(checks, "energy counter").state == "warn"
    assert of(checks, "gpu").found == "no name, driver 580.65.06"


def test_a_line_of_triton_is_built_and_run_by_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in Triton's interpreter, in a process of its own; without it there is no card."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (it is for Linux)")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert host_doctor.compiler_check("cpu").state == "ok"
    monkeypatch.delenv("TRITON_INTERPRET")
    found = host_doctor.compiler_check("cpu")
    assert (found.state, found.found) == (
        "bad", "RuntimeError: 0 active drivers ([]). There should only be one."
    )  # fmt: skip


def test_a_line_that_cannot_be_built_says_what_to_install() -> None:
    said = "a kernel could not be built: missing: a C compiler; sudo apt install gcc"
    found = host_doctor.compiler_check("cuda:0", said)
    assert found.found == "a kernel could not be built: missing: a C compiler"
    assert found.advice == "sudo apt install gcc"


# --- which device, and the command -----------------------------------------------------------


def test_the_first_card_is_examined_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    use_card(monkeypatch, FakeNvml())
    assert find_device(None)[0] == "cuda:0"


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    use_card(monkeypatch, FakeNvml(cards=1))
    with pytest.raises(UnsupportedError, match="cuda:3"):
        find_device("cuda:3")


def test_torch_is_asked_about_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 1, "", f"Traceback\nRuntimeError: {said}\n")

    said = "no xpu here"
    monkeypatch.setattr(doctor.subprocess, "run", ran)
    with pytest.raises(UnsupportedError, match="no xpu here"):
        find_device("xpu:0")
    said = "Expected one of cpu, cuda device type at start of device string: nosuch"
    with pytest.raises(UnsupportedError, match="torch knows no such kind"):
        doctor.ask_torch("nosuch")


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add(parser.add_subparsers())
    return cli.run(parser.parse_args(["doctor", *arguments]))


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "turbo", lambda: True)
    assert run("-d", "cpu") == 0
    assert "warn" in capsys.readouterr().out
    monkeypatch.setattr(machine, "temperature_c", lambda: 99.0)
    assert run("-d", "cpu") == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    run("-d", "cpu", "-o", "json")
    rows = json.loads(capsys.readouterr().out)
    assert {"check", "state", "found", "meaning", "advice", "value", "unit"} == set(rows[0])


def test_peaks_are_rows_with_a_value_and_a_unit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures = {"copy_bytes_s": 2e11, "matmul_flop_s": {"float32": 1e12}, "disturbed": None}
    monkeypatch.setattr(peaks, "measure", lambda _device: figures)
    monkeypatch.setattr(doctor_peaks, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor_peaks, "capture", lambda *_: SimpleNamespace(id="e1"))
    checks = examine("cpu", with_peaks=True)
    copy, matmul = of(checks, "copy bandwidth"), of(checks, "matmul float32")
    assert (copy.found, copy.value, copy.unit) == ("200.0 GB/s", 2e11, "B/s")
    assert (matmul.found, matmul.value, matmul.unit) == ("1 TFLOP/s", 1e12, "FLOP/s")


def test_peaks_are_kept_for_later_runs_in_the_same_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = [
        {
            "device": "cuda:0",
            "copy_bytes_s": float(n + 1),
            "matmul_flop_s": {},
            "threads": None,
            "disturbed": None,
        }
        for n in range(4)
    ]
    waiting = iter(rates[1:])
    monkeypatch.setattr(peaks, "measure", lambda _device: next(waiting))
    assert peaks.kept(tmp_path, "cuda:0", "e1") is None
    peaks.measure_and_keep(tmp_path, "cuda:0", "e1")
    assert peaks.kept(tmp_path, "cuda:0", "e1") == rates[1]
    assert peaks.kept(tmp_path, "cuda:1", "e1") is peaks.kept(tmp_path, "cuda:0", "e2") is None
    peaks.measure_and_keep(tmp_path, "cuda:0", "e1")  # measured again
    assert peaks.kept(tmp_path, "cuda:0", "e1") == rates[2]
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert peaks.measure_and_keep(in_the_way, "cpu", "e1") == rates[3]


def test_peaks_of_a_busy_machine_are_shown_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = '{"device": "cpu", "copy_bytes_s": 1.0, "matmul_flop_s": {}, "threads": 2}\n'
    done = subprocess.CompletedProcess([], 0, said, "")
    monkeypatch.setattr(peaks.subprocess, "run", lambda *_, **__: done)
    busy = load.Load(window_s=1.0, own_cores=1.0, foreign_cores=1.5, steal_cores=0.0)
    monkeypatch.setattr(peaks.load, "between", lambda _before, _after: busy)
    monkeypatch.setattr(peaks.machine, "cores", lambda: 2)
    found = peaks.measure_and_keep(tmp_path, "cpu", "e1")
    assert found["disturbed"] == "others used 1.5 cores meanwhile"
    assert peaks.kept(tmp_path, "cpu", "e1") is None
    monkeypatch.setattr(peaks, "LOOK_S", 0.0)
    with pytest.raises(Unreadable, match="others used"):  # a run does not even try
        peaks.undisturbed(tmp_path, "cpu", "e1", pytest.fail)
    monkeypatch.setattr(doctor_peaks, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor_peaks, "capture", lambda *_: SimpleNamespace(id="e1"))
    checks = list(doctor_peaks.peak_checks("cpu"))
    assert [(check.check, check.state) for check in checks] == [
        ("peaks", "warn"),
        ("copy bandwidth", "ok"),
    ]


def test_peaks_that_cannot_be_measured_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_device: str) -> None:
        raise Unreadable("no torch")

    monkeypatch.setattr(doctor_peaks, "capture", lambda *_: SimpleNamespace(id="e1"))
    monkeypatch.setattr(peaks, "measure", fail)
    found = of(examine("cpu", with_peaks=True), "peaks")
    assert (found.state, found.meaning) == ("warn", "no torch")


def test_a_peak_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: broken\n")

    monkeypatch.setattr(peaks.subprocess, "run", ran)
    with pytest.raises(Unreadable, match="RuntimeError: broken"):
        peaks.measure("cpu")


class Ticking:
    """Stands for torch where only time matters: nothing is measured."""

    def __init__(self) -> None:
        self.calls = 0

    def work(self) -> None:
        self.calls += 1


def test_time_per_call_is_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: float(next(clock)))
    ticking = Ticking()
    assert peaks.per_call(None, "cpu", ticking.work) == 1.0
    assert ticking.calls >= 5


def test_the_doctor_does_not_import_what_is_measured() -> None:
    code = (
        "import sys; from bench.doctor import examine; examine('cpu');"
        "print(sorted({'torch', 'numpy', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_advice_names_no_setting_that_the_doctor_makes_itself() -> None:
    for module in (doctor, gpu_doctor, host_doctor):
        text = Path(module.__file__ or "").read_text(encoding="utf-8")
        assert "os.system" not in text
        assert "write_text" not in text


@pytest.mark.parametrize(
    ("flags", "checks"),
    [
        ("avx2 fma", ["int8"]),
        ("avx2 avx512f avx512_vnni", []),
        ("avx2 avx_vnni", []),
        ("sse2", ["int8"]),
    ],
)
def test_a_cpu_without_int8_products_is_warned_of(
    tmp_path: Path, flags: str, checks: list[str]
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"flags\t\t: {flags}\n")
    assert [found.check for found in host_doctor.int8_check(tmp_path)] == checks


@pytest.mark.parametrize(
    ("kind", "vendor", "state", "words"),
    [
        ("cpu", "", "ok", "measured"),
        ("cuda", "", "warn", "never seen on a card"),
        ("cuda", "amd", "warn", "never seen on a card"),
        ("xpu", "", "warn", "speed and memory only"),
        ("mps", "", "warn", "speed and memory only"),
        ("tpu", "", "bad", "not supported"),
    ],
)
def test_what_was_never_seen_running_is_said(
    kind: str, vendor: str, state: str, words: str
) -> None:
    found = support_check(kind, vendor)
    assert found.state == state
    assert words in found.found
    assert ("ROCm" in found.meaning) == (vendor == "amd")


def test_every_kind_of_device_that_an_engine_takes_has_a_word_on_support() -> None:
    local = [one for one in ENGINES.values() if not (one.scripted or one.remote)]
    kinds = {kind for one in local for kind in one.devices}
    assert {support_check(kind).state for kind in kinds} <= {"ok", "warn"}
    assert kinds >= {"cpu", "cuda", "xpu", "mps"}
