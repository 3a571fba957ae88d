"""What this very device reaches: copy bandwidth and matmul rate.

    python -m bench.devices.peaks DEVICE        JSON on stdout

A process of its own, so that whoever asks does not import torch. Each device of each environment
is measured once and kept in the cache; `bench doctor --peaks` measures it again.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.devices.figures import Figures, Unreadable
from bench.devices.host import load, machine
from bench.errors import InputError
from bench.experiment.devices import index_of, on_cpu
from bench.fields import convert, parse_json, read_json
from bench.programs import own
from bench.records import utc_now
from bench.records.shape import Peaks

SECONDS = 0.5
"""Time that each figure is measured for."""

LOOK_S = 0.5
"""Time for which a run looks whether the machine is at rest: counters of 10 ms to 2% of a core."""


def measure(device: str, timeout_s: float = 300.0) -> dict[str, Any]:
    """The peaks of a device, measured in a process of its own. Raises Unreadable."""
    command = own("bench.devices.peaks", device)
    before = Figures()
    before.read("times", load.times)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unreadable(f"not done after {timeout_s:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it ended without a message"]
        raise Unreadable(lines[-1])
    try:
        figures = checked(parse_json(done.stdout.strip().rpartition("\n")[2]), device)
    except InputError as error:
        raise Unreadable(f"what was measured cannot be used: {error}") from None
    return figures | {"time": utc_now(), "disturbed": _disturbed(device, before)}


def _disturbed(device: str, before: Figures) -> str | None:
    """Who else used the machine meanwhile: such rates are of what was left. None if nobody did."""
    if "times" not in before.values:
        return None  # nothing is known of it; the records' own reasons are as blind
    try:
        seen = load.between(before.values["times"], load.times())
    except Unreadable:
        return None
    cores, others = machine.cores(), seen.foreign_cores + seen.steal_cores
    limit = load.foreign_limit(cores) if on_cpu(device) else max(cores - 1, 1)
    return f"others used {others:.1f} cores meanwhile" if others > limit else None


def undisturbed(
    folder: Path, device: str, environment: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """The peaks that were kept, else those measured now. Raises Unreadable.

    A machine in use is looked at for `LOOK_S` only: there is nothing to be learned from it.
    """
    found = kept(folder, device, environment)
    if found is not None:
        return found
    before = Figures()
    before.read("times", load.times)
    time.sleep(LOOK_S)
    if busy := _disturbed(device, before):
        raise Unreadable(busy)
    say(f"measuring the rates that {device} reaches: once for each driver and version, seconds")
    found = measure_and_keep(folder, device, environment)
    if found["disturbed"]:
        raise Unreadable(found["disturbed"])
    return found


def kept(folder: Path, device: str, environment: str) -> dict[str, Any] | None:
    """The peaks of a device that were measured in this environment before; None if none were."""
    try:
        return checked(read_json(_file(folder, device, environment)), device)
    except InputError:
        return None


def checked(figures: Any, device: str) -> dict[str, Any]:
    """Figures of such a file or process as records hold them. Raises InputError."""
    problems: list[str] = []
    convert(Peaks, figures, "", problems)
    if not problems and figures["device"] != device:
        problems.append(f"device: {figures['device']}, not {device}")
    if problems:
        raise InputError(*problems)
    found: dict[str, Any] = figures
    return found


def measure_and_keep(folder: Path, device: str, environment: str) -> dict[str, Any]:
    """Measure now, for later runs in this environment too, unless others disturbed it.

    Raises Unreadable.
    """
    figures = measure(device)
    if figures["disturbed"]:
        return figures
    file = _file(folder, device, environment)
    with contextlib.suppress(OSError):  # a cache that cannot be written: measured again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = file.with_suffix(".part")
        whole.write_text(json.dumps(figures), encoding="utf-8")
        whole.replace(file)
    return figures


def _file(folder: Path, device: str, environment: str) -> Path:
    return folder / "peaks" / f"{environment}-{device.replace(':', '-')}.json"


def main(device: str) -> int:
    """Measure and print."""
    import torch

    if index := index_of(device):
        torch.accelerator.set_device_index(index)  # the one that `wait` waits for
    figures: dict[str, Any] = {"device": device, "torch": torch.__version__}
    figures["threads"] = torch.get_num_threads()
    figures |= copy_rate(torch, device)
    dtypes = ("float32", "bfloat16") if on_cpu(device) else ("bfloat16", "float16")
    figures["matmul_flop_s"] = {name: matmul_rate(torch, device, name) for name in dtypes}
    sys.stdout.write(json.dumps(figures, allow_nan=False) + "\n")
    return 0


def copy_rate(torch: Any, device: str) -> dict[str, Any]:
    """Bytes read and written a second by a copy within the device, larger than its caches."""
    size = (256 << 20) if on_cpu(device) else (1 << 30)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = per_call(torch, device, lambda: target.copy_(source))
    return {"copy_bytes_s": 2 * size / seconds, "copy_size_bytes": size}


def matmul_rate(torch: Any, device: str, dtype: str) -> float:
    """FLOP a second of a square matrix product, 2 n^3 FLOP each."""
    n = 1024 if on_cpu(device) else 8192
    kind = getattr(torch, dtype)
    # Random values: power, and with it the clock, depends on how many bits change.
    a = torch.randn(n, n, dtype=torch.float32, device=device).to(kind)
    b = torch.randn(n, n, dtype=torch.float32, device=device).to(kind)
    out = torch.empty(n, n, dtype=kind, device=device)
    seconds = per_call(torch, device, lambda: torch.matmul(a, b, out=out))
    return float(2 * n**3 / seconds)


def per_call(torch: Any, device: str, work: Callable[[], Any]) -> float:
    """Median seconds of a call: batches long enough for the host's clock, after a warm-up."""

    def batch(calls: int) -> float:
        wait(torch, device)
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        wait(torch, device)
        return (time.perf_counter() - begin) / calls

    batch(2)
    calls = max(1, round(0.02 / batch(2)))
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        times.append(batch(calls))
    return statistics.median(times)


def wait(torch: Any, device: str) -> None:
    """Until the device has done everything asked of it."""
    if device != "cpu":
        torch.accelerator.synchronize()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
