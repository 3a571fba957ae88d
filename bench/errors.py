"""Every error that a user can meet.

BenchError                  one line: what is wrong, where, what to do
├── InputError         (2)  bad input: a file, a key, a flag, a name
└── UnsupportedError   (3)  this machine cannot do it: device, memory, package

The number is the exit code. A failed gate is not an error: it is a result, with exit code 1.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Any, Final

EXIT_OK = 0
EXIT_GATE = 1
EXIT_INPUT = 2
EXIT_UNSUPPORTED = 3
EXIT_INTERRUPTED = 130


class BenchError(Exception):
    """An error whose message is meant for the user, without a traceback."""

    exit_code = EXIT_INPUT


class InputError(BenchError):
    """Bad input. `problems` holds every problem found, one line each."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class UnsupportedError(BenchError):
    """This machine cannot do what was asked; `code` names why (see `bench.records.codes`)."""

    exit_code = EXIT_UNSUPPORTED

    def __init__(
        self, message: str, code: str = "UNSUPPORTED", about: Mapping[str, Any] | None = None
    ) -> None:
        self.code = code
        self.about = dict(about or {})
        """What was counted before it failed; it goes into the record of the failure."""
        super().__init__(message)


OUT_OF_MEMORY: Final = (
    "out of memory",  # CUDA, HIP, XPU and MPS, also where it is a plain RuntimeError
    "not enough memory",  # torch's allocator on a CPU
    "can't allocate memory",
    "Invalid buffer size",  # MPS: more than Metal's largest buffer
    "UR_RESULT_ERROR_OUT_OF_",  # Level Zero: device memory, host memory, resources
    "BLAS_STATUS_ALLOC_FAILED",  # cuBLAS and hipBLAS: no room for a workspace
)
"""Words of errors that torch 2.13 raises when memory ran out, beside its OutOfMemoryError: on MPS
always a RuntimeError, on XPU sometimes (pytorch#177714)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of any device or of the host."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


WRONG_PATH: Final = frozenset(
    {
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ENXIO,
        errno.ENODEV,
    }
)
"""What an operating system says of a path that no right and no room would make good."""


def of_path(error: Exception, where: object, hint: str = "") -> BenchError:
    """The error of a path: bad input where the path is wrong, else what this machine cannot do."""
    number = error.errno if isinstance(error, OSError) else errno.ELOOP
    ours = {
        errno.ELOOP: "is a loop of symbolic links",
        errno.EEXIST: "a file of that name is in the way",
        errno.ENXIO: "is a pipe that nobody reads",
    }
    said = ours.get(number or 0) or (isinstance(error, OSError) and error.strerror) or str(error)
    kind = InputError if number in WRONG_PATH else UnsupportedError
    return kind(f"{where}: {said}{f'; {hint}' if hint else ''}")


LONGEST: Final = 200
"""Characters of a name that an error shows."""

MANY: Final = 16
"""More names than this are not all listed in an error."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not known, with those that begin so, or the nearest."""
    from difflib import get_close_matches

    names = sorted(set(known))
    shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    shown = shown.replace("\r", "\\r").replace("\n", "\\n")
    said = _signs(name)
    begun = [one for one in names if len(said) > 1 and _signs(one).startswith(said)]
    within = [one for one in names if len(said) > 3 and said in _signs(one)]
    lowered = {one.lower(): one for one in names}
    near = (begun or within)[:3] or [
        lowered[one] for one in get_close_matches(name.lower(), lowered, n=3)
    ]
    if near:
        hint = f"did you mean {' or '.join(repr(one) for one in near)}?"
    elif len(names) > MANY:
        hint = f"known: {', '.join(names[:MANY])} and {len(names) - MANY} more"
    else:
        hint = f"known: {', '.join(names)}"
    return f"unknown {kind} '{shown}'; {hint}"


def _signs(name: str) -> str:
    """Letters and digits alone: `RTX 4050` begins `rtx-4050-laptop`."""
    return "".join(sign for sign in name.lower() if sign.isalnum())
