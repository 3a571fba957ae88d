"""The host's reader on invented systems: what it reads, what it says where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.devices.figures import Figures, Unreadable, number_of
from bench.devices.host import HostReader, host_identity, load, machine, peak_bytes, rapl
from bench.devices.opening import reader_for

LINUX = sys.platform == "linux"
TICK = os.sysconf("SC_CLK_TCK")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def zones(root: Path, *energies: int, limit: int = 1_000_000) -> Path:
    for number, energy in enumerate(energies):
        write(
            root,
            {
                f"intel-rapl:{number}/name": f"package-{number}\n",
                f"intel-rapl:{number}/energy_uj": f"{energy}\n",
                f"intel-rapl:{number}/max_energy_range_uj": f"{limit}\n",
                f"intel-rapl:{number}:0/name": "core\n",
                f"intel-rapl:{number}:0/energy_uj": "999999\n",
            },
        )
    return root


# --- figures ---------------------------------------------------------------------------------


def test_a_figure_is_read_or_absent_with_its_reason(tmp_path: Path) -> None:
    figures = Figures()
    assert figures.read("good", lambda: 3) == 3
    assert figures.read("missing", lambda: number_of(tmp_path / "none")) is None
    assert figures.values == {"good": 3}
    assert figures.absent == {"missing": f"{tmp_path / 'none'}: No such file or directory"}


def test_a_file_that_holds_no_number_is_unreadable_not_zero(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="'' is not a number"):
        number_of(write(tmp_path, {"empty": ""}) / "empty")


# --- machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ("processor : 0\nmodel name\t: AMD EPYC 9654\nflags : a b\n", "AMD EPYC 9654"),
        ("processor : 0\nCPU part\t: 0xd0c\n", "0xd0c"),
    ],
)
def test_cpu_model(tmp_path: Path, info: str, name: str) -> None:
    assert machine.cpu_model(write(tmp_path, {"proc/cpuinfo": info})) == name


def test_governors_that_differ_are_all_named(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    write(
        tmp_path,
        {
            f"{cpu}/cpu0/cpufreq/scaling_governor": "performance\n",
            f"{cpu}/cpu1/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "2000000\n",
            f"{cpu}/cpu1/cpufreq/scaling_cur_freq": "3000000\n",
            f"{cpu}/intel_pstate/no_turbo": "1\n",
            f"{cpu}/cpu0/thermal_throttle/package_throttle_count": "4\n",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "3\n",
        },
    )
    assert machine.governors(tmp_path) == "performance+powersave"
    assert machine.frequency_mhz(tmp_path) == 2500.0
    assert machine.turbo(tmp_path) is False
    assert machine.throttle_count(tmp_path) == 7


def test_a_bare_system_says_what_is_missing(tmp_path: Path) -> None:
    for ask in (
        machine.governors,
        machine.frequency_mhz,
        machine.turbo,
        machine.throttle_count,
        machine.temperature_c,
        machine.cpu_limit,
        machine.memory_limit,
        machine.cpu_throttled_s,
    ):
        with pytest.raises(Unreadable):
            ask(tmp_path)


def test_temperature_is_the_hottest_cpu_sensor(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "sys/class/hwmon/hwmon0/name": "nvme\n",
            "sys/class/hwmon/hwmon0/temp1_input": "90000\n",
            "sys/class/hwmon/hwmon1/name": "k10temp\n",
            "sys/class/hwmon/hwmon1/temp1_input": "41000\n",
            "sys/class/hwmon/hwmon1/temp3_input": "43500\n",
        },
    )
    assert machine.temperature_c(tmp_path) == 43.5


def test_limits_of_cgroup_2_take_the_tightest_of_all_parents(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a/b"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            f"{group}/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            f"{group}/memory.max": "2147483648\n",
            "sys/fs/cgroup/a/memory.max": "max\n",
            f"{group}/cpu.stat": "usage_usec 1\nthrottled_usec 2500000\n",
        },
    )
    assert machine.cpu_limit(tmp_path) == 1.5
    assert machine.memory_limit(tmp_path) == 2 << 30
    assert machine.cpu_throttled_s(tmp_path) == 2.5


def test_limits_of_cgroup_1(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n",
            # The container sees its own group at the top.
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.stat": "nr_throttled 3\nthrottled_time 500000000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert machine.cpu_limit(tmp_path) is None
    assert machine.memory_limit(tmp_path) is None
    assert machine.cpu_throttled_s(tmp_path) == 0.5


def test_the_host_is_told_apart_but_not_named(tmp_path: Path) -> None:
    name = machine.host_id(write(tmp_path, {"etc/machine-id": "0123456789abcdef\n"}))
    assert name == machine.host_id(tmp_path)
    assert len(name) == 12
    assert "0123456789abcdef"[:12] != name
    assert name != machine.host_id(write(tmp_path, {"etc/machine-id": "fedcba\n"}))


# --- load ------------------------------------------------------------------------------------


def at(at_s: float, *, busy: float, own: float, steal: float = 0.0) -> load.Times:
    return load.Times(at_s=at_s, busy_s=busy, own_s=own, steal_s=steal)


def test_load_is_split_into_own_and_foreign() -> None:
    seen = load.between(at(0, busy=100, own=10), at(10, busy=125, own=25, steal=1))
    assert seen == load.Load(window_s=10, own_cores=1.5, foreign_cores=1.0, steal_cores=0.1)


def test_foreign_load_is_not_negative_when_counters_differ_by_a_tick() -> None:
    assert load.between(at(0, busy=0, own=0), at(10, busy=9.99, own=10)).foreign_cores == 0.0


def test_a_window_too_short_for_the_counters_is_refused() -> None:
    with pytest.raises(Unreadable, match="too short"):
        load.between(at(0, busy=0, own=0), at(0.01, busy=1, own=0))


@pytest.mark.parametrize(("cores", "limit"), [(1, 0.2), (2, 0.2), (8, 0.4), (64, 3.2)])
def test_foreign_limit(cores: int, limit: float) -> None:
    assert load.foreign_limit(cores) == pytest.approx(limit)


def stat(ppid: int, ticks: int) -> str:
    zeros = " ".join(["0"] * 9)
    return f"1 (a (b) c) S {ppid} {zeros} {ticks} 0 0 0 20 0\n"


def test_descendants_are_found_through_their_parents(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/11/stat": stat(10, 5),
            "proc/12/stat": stat(11, 7),
            "proc/13/stat": stat(1, 1000),
            "proc/14/stat": "broken",
        },
    )
    assert sorted(load.descendants(10, tmp_path)) == [(11, 5), (12, 7)]


def test_times_counts_everything_but_waiting(tmp_path: Path) -> None:
    line = "cpu  100 20 30 4000 500 6 7 8 90 0\ncpu0 1 1 1 1\n"
    read = load.times(write(tmp_path, {"proc/stat": line}))
    assert read.busy_s == pytest.approx(163 / TICK)
    assert read.steal_s == pytest.approx(8 / TICK)


# --- RAPL ------------------------------------------------------------------------------------


def test_rapl_reads_packages_and_not_their_parts(tmp_path: Path) -> None:
    assert rapl.find(zones(tmp_path, 5, 7)).read_uj() == (5, 7)


@pytest.mark.parametrize(("before", "after", "rise"), [(10, 30, 20), (95, 4, 10), (7, 7, 0)])
def test_rapl_unwraps(before: int, after: int, rise: int) -> None:
    assert rapl.unwrap(before, after, 100) == rise


def test_no_rapl_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no RAPL"):
        rapl.find(tmp_path / "powercap")
    with pytest.raises(Unreadable, match="no CPU package"):
        rapl.find(tmp_path)


def test_unreadable_rapl_says_that_it_needs_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones(tmp_path, 5)
    whole = Path.read_text

    def refuse(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return whole(path, *args, **kwargs)  # type: ignore[arg-type]  # passed through as given

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Unreadable, match=r"root only.*Permission denied"):
        rapl.find(tmp_path)


# --- the reader ------------------------------------------------------------------------------


class Times:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def host(folder: Path, clock: Times) -> HostReader:
    return HostReader(find_rapl=lambda: rapl.find(folder), now=clock)


def test_energy_of_two_packages_one_of_which_wrapped(tmp_path: Path) -> None:
    clock = Times()
    reader = host(zones(tmp_path, 100_000_000, 199_000_000, limit=199_999_999_999), clock)
    assert reader.has_energy
    reader.begin()
    clock.s += 40
    zones(tmp_path, 2_100_000_000, 199_000_000 + 2_000_000_000, limit=199_999_999_999)
    energy = reader.end().energy
    assert energy["energy_j"] == pytest.approx(4000)
    assert energy["mean_power_w"] == pytest.approx(100)
    assert energy["scope"] == "cpu-package"
    assert energy["short_window"] is False
    reader.begin()
    clock.s += 10
    zones(tmp_path, 100_000_000, 2_299_000_000, limit=199_999_999_999)
    energy = reader.end().energy
    assert energy["energy_j"] == pytest.approx(200_000 - 2000 + 100, rel=1e-6)
    assert energy["short_window"] is True


@pytest.mark.parametrize(
    ("after", "seconds", "why"),
    [
        (5, 10, "did not move"),
        (6, 1000, "may wrap around twice"),
    ],
)
def test_energy_that_cannot_be_known_is_absent(
    tmp_path: Path, after: int, seconds: float, why: str
) -> None:
    clock = Times()
    reader = host(zones(tmp_path, 5, limit=60_000_000_000), clock)
    reader.begin()
    clock.s += seconds
    zones(tmp_path, after, limit=60_000_000_000)
    reading = reader.end()
    assert reading.energy == {}
    assert why in reading.absent["energy_j"]


PEAKS = """
import json
from bench.devices.host import HostReader
reader = HostReader()
reader.begin()
held = b"x" * (64 << 20)
del held
first = reader.end().memory
reader.begin()
print(json.dumps([first, reader.end().memory]))
"""


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_peak_memory_is_of_the_window() -> None:
    """In a process of its own: one that has held more finds room that it already has."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    first, second = json.loads(done.stdout)
    if second["peak_host_scope"] == "window":
        assert first["peak_host_bytes"] - second["peak_host_bytes"] > 32 << 20
    else:
        assert second["peak_host_bytes"] >= first["peak_host_bytes"]


def test_a_system_that_shows_nothing_gives_reasons_and_no_zeros(tmp_path: Path) -> None:
    reader = HostReader(root=tmp_path, find_rapl=lambda: rapl.find(tmp_path / "none"))
    assert not reader.has_energy
    reader.begin()
    reading = reader.end()
    assert reading.energy == {}
    assert reading.device == {}
    assert reading.reasons == ()
    assert reading.memory["peak_host_scope"] == "process"
    for name in ("energy_j", "host_foreign_cores", "governor", "cpu_mhz", "cpu_temperature_c"):
        assert reading.absent[name]


def proc_stat(root: Path, busy_ticks: int) -> None:
    write(root, {"proc/stat": f"cpu  {busy_ticks} 0 0 0 0 0 0 0 0 0\n"})


@pytest.mark.parametrize(
    ("computes", "foreign_cores", "reasons"),
    [(True, 0.9, ("FOREIGN_PROCESS",)), (True, 0.05, ()), (False, 0.9, ())],
)
def test_foreign_load_disturbs_a_host_that_computes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    computes: bool,
    foreign_cores: float,
    reasons: tuple[str, ...],
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(load.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(load, "own_cpu_s", lambda _root: 0.0)
    reader = HostReader(computes=computes, root=tmp_path, find_rapl=lambda: rapl.find(tmp_path))
    proc_stat(tmp_path, 0)
    reader.begin()
    proc_stat(tmp_path, round(foreign_cores * 10 * TICK))
    reading = reader.end()
    assert reading.device["host_foreign_cores"] == pytest.approx(foreign_cores)
    assert reading.reasons == reasons


def test_throttling_in_the_window_is_a_reason(tmp_path: Path) -> None:
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    write(tmp_path, {count: "4\n"})
    reader = HostReader(root=tmp_path, find_rapl=lambda: rapl.find(tmp_path))
    reader.begin()
    write(tmp_path, {count: "6\n"})
    reading = reader.end()
    assert reading.device["cpu_throttle_events"] == 2
    assert reading.reasons == ("THERMAL_THROTTLE",)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flags\t\t: fpu avx avx2 avx512f avx512_vnni rdpid", "avx2 avx512f avx512_vnni"),
        ("flags\t\t: fpu avx avx2", "avx2"),
        ("Features\t: fp asimd asimddp i8mm bf16", "asimddp i8mm bf16"),
    ],
)
def test_two_cpus_of_one_name_differ_in_what_they_can_multiply(
    tmp_path: Path, line: str, found: str
) -> None:
    root = write(tmp_path, {"proc/cpuinfo": f"processor\t: 0\nmodel name\t: AMD EPYC\n{line}\n"})
    assert machine.cpu_extensions(root) == found
    assert host_identity(root)["cpu_extensions"] == found


def test_extensions_that_nobody_lists_are_missing(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/cpuinfo": "processor\t: 0\n"})
    with pytest.raises(Unreadable, match="lists no instruction sets"):
        machine.cpu_extensions(root)
    assert host_identity(root)["cpu_extensions"] is None


def test_identity_holds_no_name_of_the_machine() -> None:
    import socket

    found = host_identity()
    assert found["cpu_cores"] >= 1
    assert socket.gethostname() not in str(found)


def test_peak_bytes_is_what_this_process_holds() -> None:
    assert peak_bytes() > 5 << 20


def test_the_reader_of_the_cpu_is_the_host() -> None:
    assert isinstance(reader_for("cpu"), HostReader)


def test_rapl_here_is_read_or_its_absence_is_told() -> None:
    """Whatever machine this runs on: a figure above zero or a reason, never a zero."""
    reader = HostReader()
    reader.begin()
    sum(range(3_000_000))
    reading = reader.end()
    if reader.has_energy and reading.energy:
        assert reading.energy["energy_j"] > 0
    else:
        assert reading.energy == {}
        assert reading.absent["energy_j"]
