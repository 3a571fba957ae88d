"""What torch's compiler and Triton need of this machine, and what their failures mean.

Triton builds a small C module when it first meets a card, torch's compiler C++ on a CPU: both need
a compiler and Python's headers, which stock Ubuntu and WSL2 lack. What they raise names neither.
Standard library only.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

CODE: Final = "NO_COMPILER"
"""Of `bench.records.codes`: every arm that is compiled would fail alike."""

SIGNS: Final[Mapping[str, str]] = {
    "Failed to find C compiler": "no C compiler",
    "No working C++ compiler found": "no C++ compiler",
    "Python.h: No such file": "Python's headers are not installed",
    "libcuda.so cannot found": "the driver's libcuda.so.1 is not where /sbin/ldconfig looks",
    "cannot find -l:libcuda": "the driver's libcuda.so.1 is not where /sbin/ldconfig looks",
    "cannot find -lcuda": "the driver's libcuda.so.1 is not where /sbin/ldconfig looks",
}
"""Words of Triton 3.7's, torch 2.13's and gcc's errors, and what each means."""

BUILDS: Final = ("cuda_utils", "__triton_launcher", "hip_utils", "spirv_utils", "arch_utils")
"""Sources that Triton hands to the C compiler, by whose names its failed command is known."""


def lacking() -> list[str]:
    """What is missing here: `a C compiler`, `Python's headers (Python.h)`."""
    found = []
    named = os.environ.get("CC")
    if not any(map(shutil.which, [named] if named else ["gcc", "clang", "cc"])):
        found.append(f"a C compiler (CC names {named})" if named else "a C compiler")
    if not (headers() / "Python.h").is_file():
        found.append("Python's headers (Python.h)")
    return found


def headers() -> Path:
    """The folder that Triton's and torch's builds take Python.h from."""
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme  # as Triton, for Debian
    return Path(sysconfig.get_paths(scheme=scheme)["include"])


def advice() -> str:
    """The packages that bring what is missing, on Debian, Ubuntu and WSL2's Ubuntu."""
    major, minor = sys.version_info[:2]
    return f"sudo apt install gcc g++ python{major}.{minor}-dev"


def explained(error: BaseException) -> str | None:
    """What a failed build means, in a line with what to do; None if the error is another one."""
    for one in chain(error):
        text = str(one)
        sign = next((means for words, means in SIGNS.items() if words in text), None)
        command = getattr(one, "cmd", None)
        words = list(map(str, command)) if isinstance(command, list | tuple) else []
        built = any(name in word for name in BUILDS for word in words)
        if sign is None and not built:
            continue
        missing = ", ".join(lacking())
        why = sign or (f"missing: {missing}" if missing else f"{words[0]} failed")
        if "libcuda" in why:
            return f"a kernel could not be built: {why}; sudo ldconfig, or mend the driver"
        return f"a kernel could not be built: {why}; {advice()}"
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, also where torch keeps that apart."""
    todo, seen = [error], set()
    while todo:
        one = todo.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = getattr(one, "inner_exception", None)
        todo += [e for e in (inner, one.__cause__, one.__context__) if e is not None]
