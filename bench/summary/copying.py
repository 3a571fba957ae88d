"""A process that reads parts of results files into columns: `bench.summary.copies` starts it.

Of each line on stdin, a JSON list of the file, where the part begins and ends, its SHA-256 and the
copy's place, it makes the copy and answers with a line. It ends when stdin does.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from bench.errors import BenchError
from bench.summary.copies import FilePart, make_copy


def main() -> int:
    """Make what is asked for until nothing is; 1 where a copy cannot be made."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process by closing stdin
    for order in sys.stdin:
        file, begin, end, digest, place = json.loads(order)
        try:
            make_copy(FilePart(Path(file), begin, end, digest), Path(place))
        except (OSError, BenchError):
            return 1
        sys.stdout.write("\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
