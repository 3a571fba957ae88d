"""Fetching a commit's files into the hub's own cache: resumed, checked, then put in their place.

`huggingface_hub` 2.4 deletes a half of a file when a download ends early, so that 5 GB would begin
anew; here the half is kept beside the cache's files and continued by the hub client's own
`http_get`. A file is put into the cache only when its sum is the one that the hub states, in the
layout that other tools read: `blobs/SUM`, and a link `snapshots/COMMIT/NAME` to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bench.errors import UnsupportedError
from bench.models.hub import HubFile, Ref, Say, Snapshot, storage, wanted
from bench.models.hub_errors import telling

HALF: Final = ".gpu-cost-bench.incomplete"
LIST: Final = "gpu-cost-bench-checked.json"
TOGETHER: Final = 4
"""Files fetched at once."""
SPARE_BYTES: Final = 256 * 2**20
"""Left free on the disk."""
EVERY_S: Final = 10.0
"""Seconds between two lines of progress."""
TRIES: Final = 4
"""Tries to go on after the connection was cut, each of which must bring something."""


class StoppedError(Exception):
    """Another file failed, or the user interrupted."""


class DownloadMeter:
    """Size and rate of what is being fetched, as a line now and then."""

    def __init__(self, total: int, say: Say, done: int = 0) -> None:
        self.total, self.done, self.stopped = total, done, False
        self._say, self._lock = say, threading.Lock()
        self._began, self._before = time.monotonic(), done
        self._next = self._began + 2.0

    def update(self, n: float | None = 1) -> None:
        if self.stopped:
            raise StoppedError
        with self._lock:
            self.done += int(n or 0)
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + EVERY_S
            rate = max((self.done - self._before) / (now - self._began), 1.0)
        left = (self.total - self.done) / rate
        self._say(
            f"  {size(self.done)} of {size(self.total)} ({self.done / max(self.total, 1):.0%}), "
            f"{rate / 1e6:.1f} MB/s, about {left / 60:.0f} min left"
        )

    def bar(self, **_: Any) -> ProgressBar:
        """What `http_get` reports to."""
        return ProgressBar(self)


class ProgressBar:
    """The part of tqdm that `http_get` uses."""

    def __init__(self, meter: DownloadMeter) -> None:
        self.update = meter.update

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def size(n_bytes: float) -> str:
    """`16.4 GB`, `538.1 MB`."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def fetch(snapshot: Snapshot, file: str | None, say: Say) -> Path:
    """The folder of a commit with what an engine needs in it; `file`: of its GGUF files that one,
    with all that it is split into.

    Goes on where an earlier run stopped; a run that fetches the same is waited for. Raises
    UnsupportedError if the disk is too small, before anything is fetched, or the hub fails.
    """
    files = wanted(snapshot, file)
    if all(is_checked(snapshot, one) for one in files):
        return snapshot.folder
    with _alone(snapshot, say):
        todo = [one for one in files if not _there(snapshot, one)]
        if todo:
            _all(snapshot, todo, say)
    return snapshot.folder


def fetch_one(snapshot: Snapshot, file: HubFile) -> Path:
    """One small file."""
    with _alone(snapshot, lambda _: None):
        if not _there(snapshot, file):
            _one(snapshot, file, DownloadMeter(file.bytes, lambda _: None))
    return snapshot.folder / file.name


@contextlib.contextmanager
def _alone(snapshot: Snapshot, say: Say) -> Iterator[None]:
    """No other run fetches the same commit meanwhile; a place that cannot be written is named."""
    from bench.models.weights import cache_folder, locked

    name = f"{snapshot.repo.replace('/', '--')}-{snapshot.revision}.lock"
    try:
        with locked(cache_folder() / "hub" / name, say, "fetches the same model"):
            yield
    except OSError as error:
        raise UnsupportedError(
            f"cannot keep {snapshot.repo} in {storage(snapshot.repo)}: {error.strerror or error}; "
            "HF_HUB_CACHE chooses another place"
        ) from error


def _all(snapshot: Snapshot, todo: list[HubFile], say: Say) -> None:
    began, total = time.monotonic(), sum(one.bytes for one in todo)
    halves = sum(_half_bytes(snapshot, one) for one in todo)
    check_disk(snapshot, total - halves)
    goes_on = f", {size(halves)} of it here from before" if halves else ""
    licence = snapshot.license or "licence not stated"
    say(
        f"fetching {snapshot.repo} at {snapshot.revision[:12]} ({licence}): {size(total)} in "
        f"{len(todo)} files{goes_on}"
    )
    meter = DownloadMeter(total, say, halves)
    _together(lambda one: _one(snapshot, one, meter), todo, meter)
    say(f"fetched and checked {size(total)} in {time.monotonic() - began:.0f} s")


def _together(work: Callable[[HubFile], None], todo: list[HubFile], meter: DownloadMeter) -> None:
    """Do some at once. The first error stops the others; an interrupt waits for none of them."""
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    left: queue.SimpleQueue[HubFile] = queue.SimpleQueue()
    for one in todo:
        left.put(one)

    def some() -> None:
        with contextlib.suppress(queue.Empty):
            while not meter.stopped:
                one = left.get_nowait()
                try:
                    work(one)
                except BaseException as error:
                    ended.put(error)
                    return
                ended.put(None)

    threads = [threading.Thread(target=some, daemon=True) for _ in range(min(TOGETHER, len(todo)))]
    for thread in threads:
        thread.start()
    try:
        for _ in todo:
            if (error := ended.get()) is not None:
                meter.stopped = True
                for thread in threads:
                    thread.join()
                raise error
    finally:
        meter.stopped = True


def check_disk(snapshot: Snapshot, needed: int) -> None:
    """UnsupportedError if the disk of the hub's cache cannot take so much more."""
    place = storage(snapshot.repo)
    there = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed + SPARE_BYTES > free:
        raise UnsupportedError(
            f"{snapshot.repo} needs {size(needed)} more on the disk of {there}, and {size(free)} "
            "are free; HF_HUB_CACHE chooses another place"
        )


def _one(snapshot: Snapshot, file: HubFile, meter: DownloadMeter) -> None:
    """Fetch, check and publish one file."""
    if file.sum is None:
        raise UnsupportedError(f"{snapshot.repo}: the hub gives no checksum of {file.name}")
    blob, half = _blob(snapshot, file), _half(snapshot, file)
    half.parent.mkdir(parents=True, exist_ok=True)
    if not blob.exists() or digest(blob, file) != file.sum:
        resumed = half.exists()
        _download(snapshot, file, half, meter)
        if resumed and digest(half, file) != file.sum:
            half.unlink()  # of another file, or spoiled on the disk
            _download(snapshot, file, half, meter)
        if (found := digest(half, file)) != file.sum:
            half.unlink()
            kind = "sha256" if file.sha256 else "git sum"
            raise UnsupportedError(
                f"{snapshot.repo}: {file.name} has {kind} {found}, not {file.sum} as the hub "
                "states; it is not used"
            )
        half.replace(blob)
    _link(snapshot, file, blob)
    _note(snapshot, file)


def _download(snapshot: Snapshot, file: HubFile, half: Path, meter: DownloadMeter) -> None:
    """Bring `half` to the file's size, from where it ends now."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented

    url = hf_hub_url(snapshot.repo, file.name, revision=snapshot.revision)
    ref = Ref(repo=snapshot.repo, revision=snapshot.revision[:12])
    for left in reversed(range(TRIES)):
        with half.open("ab") as stream:
            before = stream.tell()
            if before > file.bytes:
                stream.truncate(0)
                before = 0
            headers = build_hf_headers() | {"Accept-Encoding": "identity"}
            try:
                with telling(ref), _plain_log():
                    http_get(
                        url,
                        stream,
                        resume_size=before,
                        headers=headers,
                        expected_size=file.bytes,
                        displayed_filename=file.name,
                        tqdm_class=meter.bar,  # type: ignore[arg-type]  # called, not subclassed
                    )
                return
            except UnsupportedError as error:
                stream.flush()
                if _status(error) == 416 and before and left:  # the half is not of this file
                    stream.truncate(0)
                    continue
                came = stream.tell() > before
                if not came or left == 0:
                    raise UnsupportedError(
                        f"{error}; {file.name} has {size(stream.tell())} of {size(file.bytes)} "
                        "here: run the same command to resume"
                    ) from error


def _status(error: BaseException) -> int:
    return int(getattr(getattr(error.__cause__, "response", None), "status_code", 0))


@contextlib.contextmanager
def _plain_log() -> Iterator[None]:
    """The client logs each cut connection; the line that ends a download is ours."""
    import logging

    log = logging.getLogger("huggingface_hub.file_download")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _blob(snapshot: Snapshot, file: HubFile) -> Path:
    return storage(snapshot.repo) / "blobs" / str(file.sum)


def _half(snapshot: Snapshot, file: HubFile) -> Path:
    return storage(snapshot.repo) / "blobs" / f"{file.sum}{HALF}"


def _half_bytes(snapshot: Snapshot, file: HubFile) -> int:
    try:
        return min(_half(snapshot, file).stat().st_size, file.bytes)
    except OSError:
        return 0


def _link(snapshot: Snapshot, file: HubFile, blob: Path) -> None:
    """Put the file into its commit's folder: a link to its content, as the hub's client does."""
    place = snapshot.folder / file.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    try:
        place.symlink_to(os.path.relpath(blob, place.parent))
    except OSError:  # a system without links
        shutil.copyfile(blob, place)


def digest(path: Path, file: HubFile) -> str:
    """The sum of a file of the kind that the hub states of it."""
    with path.open("rb") as stream:
        if file.sha256 is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        start: Callable[[], Any] = lambda: hashlib.sha1(  # noqa: E731  # git's own sum, no secret
            f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False
        )
        return hashlib.file_digest(stream, start).hexdigest()


def is_checked(snapshot: Snapshot, file: HubFile) -> bool:
    """Whether the file is there, whole, and unchanged since its sum was checked."""
    path = snapshot.folder / file.name
    try:
        found = path.stat()
    except OSError:
        return False
    if found.st_size != file.bytes:
        return False
    return file.sum is None or _list(snapshot).get(file.name) == _mark(path, file)


def _there(snapshot: Snapshot, file: HubFile) -> bool:
    """As `is_checked`, with the sum taken now where it was not before."""
    if is_checked(snapshot, file):
        return True
    path = snapshot.folder / file.name
    try:
        if path.stat().st_size != file.bytes or digest(path, file) != file.sum:
            return False
    except OSError:
        return False
    _note(snapshot, file)
    return True


def _mark(path: Path, file: HubFile) -> list[Any]:
    found = path.stat()
    return [file.sum, found.st_size, found.st_mtime_ns, found.st_ino]


def _list_path(snapshot: Snapshot) -> Path:
    from bench.models.weights import cache_folder

    name = snapshot.repo.replace("/", "--")
    return cache_folder() / "hub" / name / f"{snapshot.revision}-{LIST}"


def _list(snapshot: Snapshot) -> dict[str, Any]:
    try:
        table = json.loads(_list_path(snapshot).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


_noting: Final = threading.Lock()


def _note(snapshot: Snapshot, file: HubFile) -> None:
    with _noting:
        path = _list_path(snapshot)
        listed = _list(snapshot) | {file.name: _mark(snapshot.folder / file.name, file)}
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{path.name}.{os.getpid()}.part")
        half.write_text(json.dumps(listed, indent=1), encoding="utf-8")
        half.replace(path)
