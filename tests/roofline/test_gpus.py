"""The catalog of cards and the recognition of device names."""

from __future__ import annotations

import re

import pytest

from bench.errors import InputError
from bench.roofline.gpus import FIGURES, gpus, match, resolve_gpu, validate_gpus


def test_the_shipped_catalog_has_no_problems() -> None:
    assert validate_gpus() == []


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA GeForce RTX 4080 SUPER", "rtx-4080-super"),
        ("NVIDIA GeForce RTX 4080", "rtx-4080"),
        ("NVIDIA GeForce RTX 3080", "rtx-3080"),
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA L40S", "l40s"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_names_that_drivers_report_are_recognised(reported, name) -> None:
    card = match(reported)

    assert card is not None
    assert card.name == name


@pytest.mark.parametrize(
    "reported", ["NVIDIA GeForce RTX 4075 Laptop GPU", "NVIDIA GeForce GTX 750 Ti", "cpu", ""]
)
def test_a_card_that_is_not_in_the_catalog_is_not_guessed(reported) -> None:
    assert match(reported) is None


def test_an_unknown_card_is_an_input_error_with_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean 'rtx-4080-super'"):
        resolve_gpu("rtx-4080-supr")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("4060 Ti", "rtx-4060-ti"),
        ("5080", "rtx-5080"),
        ("7900 XTX", "rx-7900-xtx"),
        ("B580", "arc-b580"),
        ("RTX 3090", "rtx-3090"),
    ],
)
def test_a_card_is_known_without_its_series(said: str, name: str) -> None:
    assert resolve_gpu(said).name == name
    assert match("GeForce 5080x") is None  # what a driver reports is taken at its word
    assert match("5080") is None


@pytest.mark.parametrize(
    ("said", "name", "gib"),
    [
        ("4080S", "rtx-4080-super", 16),
        ("RTX 4070 Ti S", "rtx-4070-ti-super", 16),
        ("4090 mobile", "rtx-4090-laptop", 16),
        ("RTX 4070M", "rtx-4070-laptop", 8),
        ("4060 ti 16g", "rtx-4060-ti-16gb", 16),
        ("Arc A770 (16GB)", "arc-a770", 16),
        ("H100 80GB", "h100-sxm", 80),
        ("MacBook Pro M4 Max 64GB", "apple-m4-max", 64),
        ("m4 max 36 GB", "apple-m4-max-32c", 36),
        ("Mac Studio M3 Ultra", "apple-m3-ultra", 512),
        ("strix halo 64gb", "strix-halo", 64),
        ("AI Max 395", "strix-halo", 128),
        ("Arc Pro B60", "arc-pro-b60", 24),
        ("5090D", "rtx-5090-d", 32),
        ("a5500", "rtx-a5500", 24),
    ],
)
def test_a_card_is_known_in_short_and_with_its_memory(said: str, name: str, gib: int) -> None:
    card = resolve_gpu(said)
    assert (card.name, card.vram_gib) == (name, gib)
    assert match("NVIDIA GeForce 4080S") is None


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("3090 x 2", "name one card, and their number by --n-gpus 2"),
        ("t4x2", "name one card, and their number by --n-gpus 2"),
        ("dual RTX 3090", "name one card, and their number by --n-gpus 2"),
        ("2080 Ti 22GB", "rtx-2080-ti is sold with 11 GiB; for another size, `bench predict "),
        ("RTX 3050 4GB", "rtx-3050 is sold with 8 GiB"),
        ("m3 128 gb", "apple-m3 is sold with 8, 16, 24 GiB"),
        ("r9700", "did you mean 'ai-pro-r9700'"),
        ("RTX 4050", "did you mean 'rtx-4050-laptop'"),
        ("2x3090", "name one card, and their number by --n-gpus 2"),
        ("8 x h100-sxm", "name one card, and their number by --n-gpus 8"),
        ("a100", "did you mean 'a100-pcie-40gb' or "),
        ("", "known: "),
        ("4080x", "did you mean 'rtx-4080'"),
    ],
)
def test_what_is_not_one_card_is_refused(said: str, hint: str) -> None:
    with pytest.raises(InputError, match=re.escape(hint)):
        resolve_gpu(said)


def test_every_figure_has_a_source_or_a_reason() -> None:
    for card in gpus().values():
        for figure in FIGURES:
            assert (
                card.source_of(figure)
                if getattr(card, figure) is not None
                else (card.absent[figure])
            )


def test_every_problem_of_a_file_is_listed(tmp_path) -> None:
    file = tmp_path / "gpus.toml"
    file.write_text(
        """
[some-card]
title = "Some Card"
arch = "Ada"
kind = "consumer"
vram_gib = 16
bandwidth_gbs = 700
bf16_tflops = 100
fp8_tflops = 500
int8_tops = 400
sms = 60
boost_mhz = 2000
tdp_w = 300
launch_usd = 999
released = 2024-01-01
source = "a test"
read = 2026-01-01

[other]
title = "Some Card"
arch = "Ada"
kind = "datacenter"
vram_gib = 16
bandwidth_gb_s = 700
bf16_tflops = 100
fp8_tflops = 400
sms = 60
boost_mhz = 2000
tdp_w = 300
launch_usd = 999
released = 2024-01-01
source = "a test"
read = 2026-01-01
""",
        encoding="utf-8",
    )
    problems = "\n".join(validate_gpus(file))

    assert "some-card.bandwidth_gbs: unknown key; did you mean 'bandwidth_gb_s'?" in problems
    assert "other.absent.int8_tops: say why the figure is missing" in problems
    assert "other.fp8_tflops: 4.0x bf16; is it a sparse figure?" in problems


def test_two_cards_cannot_share_a_name(tmp_path) -> None:
    table = """
title = "Same"
arch = "Ada"
kind = "consumer"
vram_gib = 16
bandwidth_gb_s = 700
tdp_w = 300
released = 2024-01-01
source = "a test"
read = 2026-01-01
sms = 1
boost_mhz = 1000
absent = { bf16_tflops = "x", fp8_tflops = "x", int8_tops = "x", launch_usd = "x" }
"""
    file = tmp_path / "gpus.toml"
    file.write_text(f"[one]{table}\n[two]{table}", encoding="utf-8")

    assert validate_gpus(file) == [f"{file}: two: 'same' also names one"]


def test_laptop_versions_are_cards_of_their_own_with_their_power_range() -> None:
    laptop, desktop = match("NVIDIA GeForce RTX 4080 Laptop GPU"), match("NVIDIA GeForce RTX 4080")

    assert laptop is not None
    assert desktop is not None
    assert (laptop.name, desktop.name) == ("rtx-4080-laptop", "rtx-4080")
    assert laptop.power_range_w == (60, 150)
    assert laptop.bandwidth < desktop.bandwidth


def test_a_processor_s_bandwidth_is_channels_by_eight_bytes_by_transfers() -> None:
    assert gpus()["cpu-ddr5-6000-2ch"].bandwidth == 2 * 8 * 6000e6


@pytest.mark.parametrize(("gib", "mib"), [(16, 10922), (32, 21845), (36, 27648), (96, 73728)])
def test_macos_keeps_a_third_or_a_quarter_of_the_memory(gib: int, mib: int) -> None:
    """As llama.cpp logs it: `recommendedMaxWorkingSetSize`."""
    mac = gpus()["apple-m4-max"].with_memory(gib)

    assert mac.usable_bytes // 2**20 == mib


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", "rx-7900-xtx"),
        ("AMD Radeon 8060S (RADV GFX1151)", "strix-halo"),
        ("Intel(R) Arc(TM) B580 Graphics (BMG G21)", "arc-b580"),
        ("NVIDIA GeForce RTX 4090 (NVK AD102)", "rtx-4090"),
    ],
)
def test_a_card_behind_vulkan_is_the_same_card(reported: str, name: str) -> None:
    card = match(reported)
    assert card is not None
    assert card.name == name
    assert match(reported.replace("(", "(Laptop ")) is None


OPERATIONS = {"8.0": 2048, "9.0": 4096}
"""Dense 16-bit operations that an SM of a large chip does in a clock."""


def test_peaks_are_those_of_the_chip_not_of_a_smaller_kin() -> None:
    """An H100 NVL, an H200 NVL and an A30 had the operations a clock of smaller chips."""
    cards = [card for card in gpus().values() if card.compute_capability in OPERATIONS]
    assert {"h100-nvl", "h200-nvl", "a30"} <= {card.name for card in cards}
    for card in cards:
        assert card.bf16_tflops is not None
        assert card.sms is not None
        assert card.boost_mhz is not None
        most = card.sms * card.boost_mhz * OPERATIONS[str(card.compute_capability)] / 1e6
        assert 0.8 < card.bf16_tflops / most < 1.02, card.name


def test_stacks_of_memory_have_the_bandwidth_of_their_kind() -> None:
    """An MI325X, of eight stacks of HBM3E, had 10.3 TB/s; a stack gives at most 1.2."""
    card = gpus()["mi325x"]
    assert (card.vram_gib, card.bandwidth_gb_s) == (256, 6000)
    assert all(c.bandwidth_gb_s < 8 * 1200 for c in gpus().values())
