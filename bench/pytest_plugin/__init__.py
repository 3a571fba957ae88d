"""pytest plugin: inference benchmarks beside a project's other tests. docs/pytest.md.

Public hooks and fixtures of pytest and pytest-benchmark only. This module is imported in every
pytest run of an environment that has gpu-cost-bench installed, so it imports nothing but pytest and
the standard library; what measures is imported by the fixture when it is called.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.pytest_plugin.run import MeasuredCase

    InferenceBenchmark = Callable[..., MeasuredCase]

FIXTURE = "inference_benchmark"
MARKER = "inference"
INFO = "inference"
"""Key of `machine_info` in pytest-benchmark's files."""

_REPLAY = pytest.StashKey["Replay"]()
_DONE = pytest.StashKey[list["MeasuredCase"]]()
_STARTED = pytest.StashKey[str]()


class Replay:
    """A clock that shows durations measured elsewhere: each is the difference of two readings."""

    __name__ = "measured_by_gpu_cost_bench"  # pytest-benchmark's files name the timer

    def __init__(self) -> None:
        self._readings: list[float] = []

    def load(self, seconds: tuple[float, ...]) -> None:
        """Show these next. A round reads the clock twice: 0, then the duration, to the last bit."""
        self._readings = [reading for second in reversed(seconds) for reading in (second, 0.0)]

    def __call__(self) -> float:
        if not self._readings:
            raise RuntimeError(
                f"this test's timer reports what {FIXTURE} measured; "
                "benchmark other code in a separate test"
            )
        return self._readings.pop()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("inference", "inference benchmarks (gpu-cost-bench)")
    group.addoption(
        "--inference-level",
        choices=("quick", "standard", "strict"),
        help="how long to measure (default: quick, or standard where a baseline is given)",
    )
    group.addoption(
        "--inference-into",
        metavar="DIR",
        type=Path,
        help="keep the records below DIR, a folder for each run and test "
        "(default: pytest's temporary folder)",
    )
    group.addoption(
        "--inference-fail-below",
        metavar="RATIO",
        type=float,
        help="gate of every test that has a baseline: the whole interval of candidate / baseline "
        "must be at or above RATIO; replaces the tests' own fail_below",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**settings): settings of `{FIXTURE}` for this test, such as "
        "quant='int8-dynamic', baseline='none', fail_below=0.97",
    )
    config.stash[_DONE] = []
    config.stash[_STARTED] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    there = config.pluginmanager.hasplugin("benchmark")  # by its entry point, or by -p
    there = there or config.pluginmanager.hasplugin("pytest_benchmark.plugin")
    config.pluginmanager.register(Fixtures() if there else NoFixtures(), "inference-fixtures")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give the test's `benchmark` fixture the clock that shows what was measured."""
    if FIXTURE not in getattr(item, "fixturenames", ()):
        return
    replay = item.stash[_REPLAY] = Replay()
    marker = item.get_closest_marker("benchmark")
    settings = dict(marker.kwargs) if marker else {}
    item.add_marker(pytest.mark.benchmark(**settings | {"timer": replay}), append=False)


class Fixtures:
    """Registered only where pytest-benchmark is there: its fixture is asked for by name."""

    @pytest.fixture
    def inference_benchmark(
        self, request: pytest.FixtureRequest, benchmark: Any, tmp_path: Path
    ) -> InferenceBenchmark:
        """Measure inference in fresh processes; see docs/pytest.md for its settings."""
        used: list[bool] = []

        def measure(**settings: Any) -> MeasuredCase:
            if used:
                pytest.fail(f"{FIXTURE}: once a test; use pytest.mark.parametrize for more")
            used.append(True)
            return _measure(request, benchmark, tmp_path, settings)

        return measure


class NoFixtures:
    """Says what is missing, where pytest-benchmark is not there."""

    @pytest.fixture
    def inference_benchmark(self) -> InferenceBenchmark:
        """Needs pytest-benchmark."""
        pytest.fail(
            f"{FIXTURE} needs pytest-benchmark: pip install pytest-benchmark", pytrace=False
        )


def _measure(
    request: pytest.FixtureRequest, benchmark: Any, tmp_path: Path, settings: Mapping[str, Any]
) -> MeasuredCase:
    from bench.errors import BenchError, UnsupportedError
    from bench.pytest_plugin.run import measure, wanted

    config = request.config
    if hasattr(config, "workerinput") or "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip(
            f"{FIXTURE}: not beside other workers of pytest-xdist, which would slow each other "
            "down; run these tests without -n"
        )
    marked = [marker.kwargs for marker in request.node.iter_markers(MARKER)]
    level, gate = (config.getoption(f"--inference-{name}") for name in ("level", "fail-below"))
    failed: BenchError | None = None
    try:
        want = wanted([*reversed(marked), settings], level=level, fail_below=gate)
        folder = _folder(config, request.node, tmp_path)
        found = measure(want, request.node.nodeid, folder, once=not benchmark.enabled)
    except BenchError as error:
        failed = error
    if failed is not None:  # outside `except`, so that pytest shows the one line and no more
        _give_up(request, benchmark)
        if isinstance(failed, UnsupportedError):
            pytest.skip(f"{FIXTURE}: {failed}")
        pytest.fail(f"{FIXTURE}: {failed}", pytrace=False)
    config.stash[_DONE].append(found)
    request.node.stash[_REPLAY].load(found.seconds)
    benchmark.extra_info.update(found.extra_info)
    benchmark.pedantic(lambda: None, rounds=len(found.seconds), iterations=1)
    if found.failures:
        pytest.fail("\n".join(found.failures), pytrace=False)
    return found


class _NotMeasuredError(Exception):
    """Told to pytest-benchmark, so that a benchmark without figures is left out of its files."""


def _give_up(request: pytest.FixtureRequest, benchmark: Any) -> None:
    def target() -> None:
        raise _NotMeasuredError

    request.node.stash[_REPLAY].load((0.0,))
    with contextlib.suppress(_NotMeasuredError):
        benchmark.pedantic(target)


def _folder(config: pytest.Config, node: pytest.Item, tmp_path: Path) -> Path:
    """A new folder for each test of each run: nothing measured before stands in for measuring."""
    into: Path | None = config.getoption("--inference-into")
    if into is None:
        return tmp_path / "inference"
    from bench.pytest_plugin.run import slug

    return into / config.stash[_STARTED] / slug(node.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What pytest-benchmark's table has no columns for."""
    done = terminalreporter.config.stash.get(_DONE, [])
    if done:
        terminalreporter.section("inference")
        for found in done:
            terminalreporter.write_line(found.line)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Add the device, its driver and what was installed, if this run measured inference."""
    done = config.stash.get(_DONE, [])
    if done:
        from bench.pytest_plugin.run import machine

        machine_info[INFO] = machine(done)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_compare_machine_info(
    machine_info: dict[str, Any], compared_benchmark: Mapping[str, Any]
) -> None:
    """Refuse to compare with inference that was measured on another device."""
    saved = compared_benchmark.get("machine_info", {}).get(INFO)
    if not saved:
        return
    from bench.pytest_plugin.run import machine_now, other_device

    # Nothing has run yet: what is here now, on the devices that the saved run used. It is put into
    # the current machine's facts, so that pytest-benchmark's own comparison sees both alike.
    now = machine_info[INFO] = machine_now(saved)
    if why := other_device(saved, now):
        raise pytest.UsageError(
            f"--benchmark-compare: {why}; times of different devices are not compared. "
            "`pytest-benchmark compare` shows them side by side"
        )
