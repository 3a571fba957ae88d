"""The columnar copy of a results file: made once, part by part, and checked by its bytes.

`records.jsonl` stays the truth. It is read in parts of whole lines. Each part has a copy of its own
in the user's cache, named after the SHA-256 of the part and of the code that read it. A changed
byte changes the copy of its part alone, so of a file that has grown only the end is read again. The
copies of a file lie in one folder, which names the file; where new ones are made, those that are no
longer of use are removed, and those of files that are gone. docs/records.md.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from bench.errors import BenchError, InputError
from bench.models.weights import cache_folder
from bench.programs import own
from bench.summary.columns import part_as_columns, schema

if TYPE_CHECKING:
    import pyarrow

Say = Callable[[str], None]

PART: Final = 32 << 20
"""Bytes of a part; the line in which they end belongs to it."""
PIECE: Final = 1 << 20
MOST_READERS: Final = 4
"""Processes that read parts at once, if there are so many cores: each takes 300 MB at most."""
SOURCE: Final = "source"
"""File beside the copies that names the results file."""
UNNAMED_S: Final = 86_400.0
"""Seconds after which copies that name no file are removed: an older version made them."""
QUIET_S: Final = 3.0
"""Seconds after which the first word is said of how far it is, and between words."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Whole lines of a results file, by their bytes."""

    file: Path
    begin: int
    end: int
    digest: str
    """SHA-256 of these bytes."""


@dataclass(slots=True)
class PartCopy:
    """The columns of a part."""

    part: FilePart
    source: Path | bytes
    """Where the copy lies, or itself where it could not be kept."""
    footer: Any
    """Parquet's own, read once."""

    def read(self, columns: Sequence[str]) -> pyarrow.Table:
        """Some columns. A copy that was removed or broken meanwhile is made again, in memory.

        Raises InputError where the results file is another by now.
        """
        import pyarrow as pa

        try:
            return self._read(columns)
        except (OSError, pa.ArrowException):
            again = _kept_here(self.part)
            self.source, self.footer = again.source, again.footer
            return self._read(columns)

    def _read(self, columns: Sequence[str]) -> pyarrow.Table:
        import pyarrow.parquet as pq

        with self._open() as stream:
            found = pq.ParquetFile(stream, metadata=self.footer)
            return found.read(columns=list(columns), use_threads=False)

    def _open(self) -> IO[bytes]:
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        return os.fdopen(os.open(self.source, _FLAGS), "rb")


_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)


def copies_of(file: Path, say: Say | None = None) -> list[PartCopy]:
    """The copies of all parts of a results file, in order; those that are missing are made.

    `say` is told how far it is, where that takes time. Raises InputError where the file cannot be
    read. Copies that cannot be kept are made each time.
    """
    parts = parts_of(file)
    folder = _folder(file)
    if folder is None:
        return [_kept_here(part) for part in parts]
    places = [folder / f"{part.digest[:40]}-{_code()[:16]}.parquet" for part in parts]
    found = [
        _copy(part, place) if place.exists() else None
        for part, place in zip(parts, places, strict=True)
    ]
    missing = {
        place: part for part, place, copy in zip(parts, places, found, strict=True) if copy is None
    }
    if missing and not (folder.is_symlink() or folder.parent.is_symlink()):
        with suppress(OSError):
            _make(missing, folder, _Progress(file, len(missing), say))
            _remove_others(folder, places)
            _name_source(folder, file)
            _remove_gone(folder.parent)
    return [
        copy or _copy(part, place) or _kept_here(part)
        for part, place, copy in zip(parts, places, found, strict=True)
    ]


def parts_of(file: Path) -> list[FilePart]:
    """The parts of a results file, with their sums. Raises InputError where it cannot be read."""
    try:
        ends = list(_ends(file))
        begins = [0, *ends[:-1]]
        with _threads() as pool:
            digests = list(pool.map(lambda at: _digest(file, *at), zip(begins, ends, strict=True)))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error
    return [FilePart(file, *each) for each in zip(begins, ends, digests, strict=True)]


def _threads() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_cores())


def _cores() -> int:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(here or 1, MOST_READERS)


def _ends(file: Path) -> Iterator[int]:
    """Where the parts end: each with the line that its `PART` bytes end in."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        end = 0
        while end < size:
            stream.seek(end + PART - 1)
            while (text := stream.readline(PIECE)) and not text.endswith(b"\n"):
                pass
            end = min(stream.tell(), size)
            yield end


def _digest(file: Path, begin: int, end: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        stream.seek(begin)
        while begin < end and (data := stream.read(min(PIECE, end - begin))):
            digest.update(data)
            begin += len(data)
    return digest.hexdigest()


# --- making ------------------------------------------------------------------------------------


class _Progress:
    """Says how many parts are read, but not at once and not too often."""

    def __init__(self, file: Path, n_parts: int, say: Say | None) -> None:
        self._text = f"{file}: read once into columns"
        self._n_parts = n_parts
        self._say = say
        self._done = 0
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def one_more(self) -> None:
        with self._lock:
            self._done += 1
            moment = time.monotonic()
            if self._say is not None and moment - self._last >= QUIET_S:
                self._last = moment
                self._say(f"{self._text}: {self._done / self._n_parts:.0%}")


def _make(missing: dict[Path, FilePart], folder: Path, progress: _Progress) -> None:
    """Make copies, in as many processes as there are cores. Raises OSError where there is no room;
    what a process could not make is made later, by this one."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    n_readers = min(len(missing), _cores())
    if n_readers < 2:
        for place, part in missing.items():
            make_copy(part, place)
            progress.one_more()
        return
    todo = list(missing.items())
    lock = threading.Lock()

    def one_reader(_: int) -> None:
        command = own("bench.summary.copying")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None
            try:
                while True:
                    with lock:
                        if not todo:
                            break
                        place, part = todo.pop(0)
                    _ask(reader.stdin, part, place)
                    if not reader.stdout.readline():
                        break
                    progress.one_more()
            except OSError:  # it ended: its parts are made by this process
                pass
            finally:
                with suppress(OSError):
                    reader.stdin.close()

    with _threads() as pool:
        try:
            list(pool.map(one_reader, range(n_readers)))
        except BaseException:  # Ctrl-C: no further part is begun
            todo.clear()
            raise


def _ask(stream: IO[str], part: FilePart, place: Path) -> None:
    import json

    order = [str(part.file.absolute()), part.begin, part.end, part.digest, str(place)]
    stream.write(json.dumps(order) + "\n")
    stream.flush()


def make_copy(part: FilePart, place: Path) -> None:
    """Read a part, and keep its columns; nothing is kept if its bytes are others by now.

    Raises OSError where they cannot be kept, InputError where the file cannot be read.
    """
    made = part_as_columns(part.file, part.begin, part.end)
    if _digest(part.file, part.begin, part.end) == part.digest:
        _keep(made, place)


def _kept_here(part: FilePart) -> PartCopy:
    """A copy in memory, where none can be kept. Raises InputError if the file changed meanwhile."""
    import pyarrow.parquet as pq

    made = part_as_columns(part.file, part.begin, part.end)
    if _digest(part.file, part.begin, part.end) != part.digest:
        raise InputError(f"{part.file}: changed while it was read; try again")
    return PartCopy(part, made, pq.read_metadata(io.BytesIO(made)))


# --- where they lie ----------------------------------------------------------------------------


def _folder(file: Path) -> Path | None:
    """Where the copies of a file lie; None where the cache cannot be trusted."""
    try:
        cache_root = cache_folder()
    except BenchError:
        return None
    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()
    return cache_root / "columns" / name[:32]


@cache
def _code() -> str:
    """A hash of the code that reads records: other code may read other figures."""
    package = Path(__file__).parent.parent
    files = [
        file for room in ("summary", "records", "demand") for file in (package / room).glob("*.py")
    ]
    files += [
        package / "fields.py",
        package / "statistics" / "__init__.py",
        package / "experiment" / "devices.py",
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _copy(part: FilePart, place: Path) -> PartCopy | None:
    """A copy, if it is a file of this user's own and whole; a link is not followed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        held = os.open(place, _FLAGS)
    except OSError:
        return None
    with os.fdopen(held, "rb") as stream:
        facts = os.fstat(stream.fileno())
        its_own = not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()
        if not its_own or not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o022:
            return None
        try:
            found = pq.ParquetFile(stream)
        except (OSError, pa.ArrowException):  # cut short, or no Parquet
            return None
        words = found.schema_arrow.metadata or {}
        if not found.schema_arrow.equals(schema()) or b"about" not in words:
            return None
        return PartCopy(part, place, found.metadata)


def _keep(made: bytes, place: Path) -> None:
    """Write it beside and put it in its place, so that nobody reads half of it."""
    held, name = tempfile.mkstemp(dir=place.parent, suffix=".part")  # 0600, and no link
    try:
        with os.fdopen(held, "wb") as stream:
            stream.write(made)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _remove_others(folder: Path, places: Sequence[Path]) -> None:
    """Remove the copies of bytes that the file no longer has."""
    for old in set(folder.iterdir()) - set(places):
        if old.suffix == ".parquet":
            old.unlink(missing_ok=True)


def _name_source(folder: Path, file: Path) -> None:
    name = os.fsencode(file.resolve())
    place = folder / SOURCE
    if not place.is_file() or place.read_bytes() != name:
        _keep(name, place)


def _remove_gone(root: Path) -> None:
    """Remove the copies of results files that are there no longer; links are not followed."""
    for folder in root.iterdir():
        with suppress(OSError):  # another process removes it too, or the file cannot be looked at
            if folder.is_symlink() or not folder.is_dir() or not _is_gone(folder):
                continue
            for old in folder.iterdir():
                old.unlink(missing_ok=True)
            folder.rmdir()


def _is_gone(folder: Path) -> bool:
    try:
        return not Path(os.fsdecode((folder / SOURCE).read_bytes())).exists()
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > UNNAMED_S
