"""The AMD reader on a stand-in for amdsmi, which is not installed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.devices.figures import Unreadable
from bench.devices.gpu import card as cards
from bench.devices.gpu import company
from bench.devices.gpu.amd import HIDING, AmdCard
from bench.devices.gpu.card import open_card
from bench.devices.gpu.nvml import short_hash
from bench.devices.gpu.reader import GpuReader
from tests.fake_amd import AmdSmiError, FakeAmd
from tests.replay import TracePace


@pytest.fixture(autouse=True)
def _no_hidden_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HIDING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(company, "in_container", lambda: False)


def read(library: FakeAmd) -> Any:
    reader = GpuReader(AmdCard("cuda:0", library), pace=TracePace())
    reader.begin()
    reader._pace.sleep(3.0)
    return reader.end()


def test_a_card_in_order() -> None:
    reading = read(FakeAmd())
    assert reading.reasons == ()
    assert reading.energy["scope"] == "gpu-socket"
    assert reading.energy["energy_j"] > 0
    assert reading.energy["systematic_error"] is None
    assert reading.device["power_w"] == 400.0
    assert reading.device["temperature_c"] == 61.0
    assert reading.device["events"] == ["sw_power_cap"]
    assert reading.memory["device_used_bytes"] == 12 << 30


def test_identity() -> None:
    assert AmdCard("cuda:1", FakeAmd()).identity() == {
        "gpu": "AMD Instinct MI300X OAM",
        "gpu_id": short_hash("abc"),
        "gpu_memory_bytes": 192 << 30,
        "gpu_driver": "6.1",
        "gpu_arch": "gfx942",
        "gpu_power_limit_w": 750.0,
        "gpu_partition": "SPX",
    }


@pytest.mark.parametrize(
    ("call", "figure"),
    [
        ("amdsmi_get_energy_count", "energy_j"),
        ("amdsmi_get_power_info", "power_w"),
        ("amdsmi_get_temp_metric", "temperature_c"),
        ("amdsmi_get_clock_info", "sm_mhz"),
        ("amdsmi_get_violation_status", "events"),
        ("amdsmi_get_gpu_process_list", "foreign_processes"),
    ],
)
def test_what_fails_is_absent_with_its_reason(call: str, figure: str) -> None:
    reading = read(FakeAmd(**{call: AmdSmiError("not supported")}))
    assert "not supported" in reading.absent[figure]
    assert figure not in {**reading.energy, **reading.device}


@pytest.mark.parametrize(
    ("call", "answer", "figure"),
    [
        ("amdsmi_get_power_info", {"current_socket_power": "N/A"}, "power_w"),
        ("amdsmi_get_power_info", {"socket_power": 0}, "power_w"),
        ("amdsmi_get_clock_info", {"clock": 5}, "sm_mhz"),
        ("amdsmi_get_temp_metric", "N/A", "temperature_c"),
        ("amdsmi_get_gpu_memory_usage", "N/A", "device_used_bytes"),
        ("amdsmi_get_violation_status", {"active_vr_thrm": "N/A"}, "events"),
        ("amdsmi_get_energy_count", {"timestamp": 5}, "energy_j"),
        (
            "amdsmi_get_energy_count",
            {"energy_accumulator": 2**64 - 1, "counter_resolution": 15.3},
            "energy_j",
        ),
        (
            "amdsmi_get_energy_count",
            {"energy_accumulator": 0, "counter_resolution": 15.3},
            "energy_j",
        ),
        ("amdsmi_get_gpu_process_list", [{"name": "x"}], "foreign_processes"),
    ],
)
def test_an_answer_without_the_figure_is_absent_and_not_zero(
    call: str, answer: Any, figure: str
) -> None:
    reading = read(FakeAmd(**{call: answer}))
    assert reading.absent[figure]
    assert figure not in {**reading.energy, **reading.device, **reading.memory}


def test_heat_and_company_are_reasons() -> None:
    hot = {"active_vr_thrm": True}
    assert read(FakeAmd(amdsmi_get_violation_status=hot)).reasons == ("THERMAL_THROTTLE",)
    others = [{"pid": 4_000_000}]
    assert read(FakeAmd(amdsmi_get_gpu_process_list=others)).reasons == ("FOREIGN_PROCESS",)


BEFORE_64: dict[str, Any] = {"amdsmi_get_gpu_enumeration_info": AmdSmiError("not supported")}
"""amdsmi told HIP's numbers from ROCm 6.4 on."""


def which(device: str, library: FakeAmd) -> str:
    return str(AmdCard(device, library)._handle)


def test_cards_are_matched_as_hip_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor's own graphics before the card on the bus, and after it for HIP."""
    turned = FakeAmd(
        amdsmi_get_gpu_enumeration_info=lambda card: {"hip_id": {"card-0": 1, "card-1": 0}[card]}
    )
    assert [which(f"cuda:{i}", turned) for i in (0, 1)] == ["card-1", "card-0"]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert which("cuda:0", turned) == "card-0"
    with pytest.raises(Unreadable, match="HIP_VISIBLE_DEVICES='1' shows no device 1"):
        which("cuda:1", turned)


def test_a_container_with_some_of_the_cards_counts_those() -> None:
    third = FakeAmd(amdsmi_get_gpu_enumeration_info=lambda card: {"hip_id": 2 + int(card[-1])})
    assert [which(f"cuda:{i}", third) for i in (0, 1)] == ["card-0", "card-1"]


@pytest.mark.parametrize("answers", [{}, BEFORE_64])
def test_which_card_is_not_guessed(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreadable, match="no device 5"):
        AmdCard("cuda:5", FakeAmd(**answers))
    names = iter(["AMD Radeon RX 7900 XTX", "AMD Radeon Graphics"] * 2)
    models: dict[str, Any] = {"amdsmi_get_gpu_asic_info": lambda _: {"market_name": next(names)}}
    if answers:
        with pytest.raises(Unreadable, match="cards of several models"):
            AmdCard("cuda:0", FakeAmd(**answers, **models))
    for name in (*HIDING[:1], *(HIDING[1:] if answers else ())):
        monkeypatch.setenv(name, "1")
        with pytest.raises(Unreadable, match=f"{name} is set"):
            AmdCard("cuda:0", FakeAmd(**answers))
        monkeypatch.delenv(name)


def test_a_part_of_a_card_has_no_energy_of_its_own() -> None:
    reading = read(FakeAmd(amdsmi_get_gpu_compute_partition="CPX"))
    assert reading.absent["energy_j"] == "partitioned (CPX): the counter is the whole card's"
    radeon = FakeAmd(amdsmi_get_gpu_compute_partition=AmdSmiError("not supported"))
    assert read(radeon).energy["energy_j"] > 0
    assert AmdCard("cuda:0", radeon).identity()["gpu_partition"] is None


def test_in_a_container_one_of_the_hosts_processes_is_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """/sys/class/kfd names processes by the host's ids: none of them is this one's own."""
    monkeypatch.setattr(company, "in_container", lambda: True)
    mine, others = [{"pid": 4_000_001}], [{"pid": 4_000_001}, {"pid": 4_000_002}]
    assert read(FakeAmd(amdsmi_get_gpu_process_list=mine)).reasons == ()
    assert read(FakeAmd(amdsmi_get_gpu_process_list=others)).reasons == ("FOREIGN_PROCESS",)
    assert (
        "lists no processes here"
        in read(FakeAmd(amdsmi_get_gpu_process_list=[])).absent["foreign_processes"]
    )


def test_another_power_cap_is_another_machine() -> None:
    caps = [{"power_cap": w * 1_000_000, "default_power_cap": 750_000_000} for w in (750, 550)]
    found = [AmdCard("cuda:0", FakeAmd(amdsmi_get_power_cap_info=cap)) for cap in caps]
    assert [one.identity()["gpu_power_limit_w"] for one in found] == [750.0, 550.0]
    assert found[1].health()["default_power_limit_w"] == 750.0
    guest = FakeAmd(amdsmi_get_power_cap_info={"power_cap": 0, "default_power_cap": 0})
    assert AmdCard("cuda:0", guest).identity()["gpu_power_limit_w"] is None
    assert "default_power_limit_w" not in AmdCard("cuda:0", guest).health()


def test_a_torch_for_rocm_asks_amds_library_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cards, "NvidiaCard", lambda _device: asked.append("nvidia"))
    monkeypatch.setattr(cards, "AmdCard", lambda device: AmdCard(device, FakeAmd()))
    for build, expected in (("hip", []), ("cuda", ["nvidia"]), (None, ["nvidia"])):
        monkeypatch.setattr(cards, "built_for", lambda build=build: build)
        asked.clear()
        open_card("cuda:0")
        assert asked == expected


@pytest.mark.parametrize("device", ["xpu:0", "mps:0"])
def test_no_library_is_asked_of_other_devices(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's would answer for its own first card, beside an Intel card that is measured."""
    monkeypatch.setattr(cards, "NvidiaCard", lambda _device: pytest.fail("it was asked"))
    with pytest.raises(Unreadable, match="no library here reads"):
        open_card(device)


VERSIONS = {
    "hip": "cuda: Optional[str] = None\ngit_version = 'ab'\nhip: Optional[str] = '7.0.5'\n",
    "cuda": "cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\nxpu: Optional[str] = None\n",
    "xpu": "cuda: Optional[str] = None\nhip: Optional[str] = None\nxpu: Optional[str] = '2025'\n",
    None: "cuda: Optional[str] = None\nhip: Optional[str] = None\n",
}
"""What `torch/version.py` says in the builds of pytorch.org."""


@pytest.mark.parametrize("build", VERSIONS)
def test_what_torch_was_built_for_is_read_from_its_file(build: str | None, tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text(VERSIONS[build])
    assert cards.built_for(tmp_path) == build
    assert cards.built_for(tmp_path / "nowhere") is None


def test_what_is_free_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "open_card", lambda device: AmdCard(device, FakeAmd()))
    assert cards.free_bytes("cuda:0") == 180 << 30
    assert cards.used_bytes("cuda:0") == 12 << 30
    mute = FakeAmd(amdsmi_get_gpu_memory_total="N/A")
    monkeypatch.setattr(cards, "open_card", lambda device: AmdCard(device, mute))
    with pytest.raises(Unreadable, match="does not report"):
        cards.free_bytes("cuda:0")


def test_without_any_library_both_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.devices.gpu import card

    def no(name: str) -> Any:
        def refuse(_device: str) -> None:
            raise Unreadable(f"no {name}")

        return refuse

    monkeypatch.setattr(card, "NvidiaCard", no("NVIDIA"))
    monkeypatch.setattr(card, "AmdCard", no("AMD"))
    with pytest.raises(Unreadable, match="no NVIDIA; no AMD"):
        open_card("cuda:0")


def test_the_doctor_examines_it() -> None:
    from bench.doctor.gpu import gpu_checks

    states = {c.check: c.state for c in gpu_checks(AmdCard("cuda:0", FakeAmd()))}
    assert states["gpu"] == states["energy counter"] == states["other processes"] == "ok"
    assert "persistence" not in states
    assert states["power limit"] == states["thermal headroom"] == "ok"


def test_the_doctor_names_amds_tools() -> None:
    from bench.doctor.gpu import gpu_checks

    library = FakeAmd(
        amdsmi_get_power_cap_info={"power_cap": 550_000_000, "default_power_cap": 750_000_000},
        amdsmi_get_gpu_process_list=[{"pid": 4_000_000}],
        amdsmi_get_gpu_memory_usage=100 << 30,
        amdsmi_get_gpu_compute_partition="DPX",
    )
    checks = {one.check: one for one in gpu_checks(AmdCard("cuda:0", library))}
    said = " ".join(one.advice for one in checks.values())
    assert "nvidia-smi" not in said
    assert checks["power limit"].advice.startswith("sudo amd-smi set --power-cap 750")
    assert "amd-smi process" in checks["other processes"].advice
    assert checks["partition"].found == "DPX"
