"""What the baseline arm predicted, kept on disk, so that other arms can be compared with it.

Every arm runs in a process of its own and a vocabulary has 10^5 entries, so logits of all arms
cannot be held at once. Small baselines (`EXACT_BYTES`) are kept whole. Of larger ones the `TOP_K`
most likely tokens of each position are kept, and the mass of all others as one group: 3 KB a
position instead of 600 KB. The divergence over such groups is never above the true one (grouping
outcomes loses information; Cover & Thomas, Elements of Information Theory, 2.7), so it is a lower
bound and is named so. torch and numpy are imported inside functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

VERSION: Final = 1
EXACT_BYTES: Final = 256 * 2**20
TOP_K: Final = 256
ROWS: Final = 64
"""Positions handled at once in double precision: 64 x 150,000 x 8 bytes = 77 MB."""


def fingerprint(windows: Sequence[Sequence[int]]) -> str:
    """Identity of the tokens and of how they are cut into windows."""
    text = json.dumps([list(window) for window in windows], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """The baseline's prediction at some positions of one window.

    `groups` [position, group]: natural logarithms of the probabilities of groups of tokens.
    `indices` [position, k]: the token of each group but the last, which holds all other tokens;
    None where every token is a group of its own. `top1` [position]: the most likely token.
    """

    groups: Tensor
    indices: Tensor | None
    top1: Tensor

    def rows(self, start: int, stop: int) -> StoredPrediction:
        """Positions `start` up to `stop`."""
        chosen = None if self.indices is None else self.indices[start:stop]
        return StoredPrediction(self.groups[start:stop], chosen, self.top1[start:stop])


def normalised(log_probs: Tensor) -> Tensor:
    """The same log-probabilities in double precision, summing to one again."""
    exact = log_probs.double()
    return exact - exact.logsumexp(-1, keepdim=True)


def grouped(log_probs: Tensor, indices: Tensor | None) -> Tensor:
    """Log-probabilities of the tokens in `indices` [position, k], then of all others together."""
    import torch

    if indices is None:
        return log_probs
    others = log_probs.scatter(-1, indices, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, indices), others], -1)


def divergence(base: Tensor, other: Tensor) -> Tensor:
    """KL(base || other) in nats at each position; both [position, group], log-probabilities.

    Not below 0 but for rounding of the order of 1e-16, which is cut off.
    """
    import torch

    terms = base.exp() * (base - other)
    impossible = base == -torch.inf  # p ln p -> 0
    return terms.masked_fill(impossible, 0.0).sum(-1).clamp(min=0.0)


def predict(log_probs: Tensor, k: int | None) -> StoredPrediction:
    """What is kept of log-probabilities [position, vocabulary]; `k` None keeps them whole."""
    import torch

    top1 = log_probs.argmax(-1)
    if k is None:
        return StoredPrediction(log_probs, None, top1)
    groups, chosen = [], []
    for start in range(0, len(log_probs), ROWS):
        exact = normalised(log_probs[start : start + ROWS])
        indices = exact.topk(min(k, exact.shape[-1]), dim=-1).indices
        chosen.append(indices)
        groups.append(grouped(exact, indices))
    return StoredPrediction(torch.cat(groups), torch.cat(chosen), top1)


def kept_k(positions: int, vocabulary: int) -> int | None:
    """How many tokens of each position to keep: all (None) where that is small."""
    return None if positions * vocabulary * 4 <= EXACT_BYTES else min(TOP_K, vocabulary)


class StoreWriter:
    """Keeps predictions in `path`, which appears only when it is whole."""

    def __init__(self, path: Path, windows: Sequence[Sequence[int]]) -> None:
        self._path = path
        self._windows = windows
        self._positions = sum(len(window) - 1 for window in windows)
        self._count = 0
        self.k: int | None = None
        self.meta: dict[str, Any] = {}
        """More to keep: anything JSON can hold."""

    def __enter__(self) -> StoreWriter:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            os.close(handle)
            self._partial = Path(name)
            self._zip = zipfile.ZipFile(self._partial, "w")
        except OSError as error:
            raise _no_room(self._path, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as error:
            raise _no_room(self._path, error) from error
        finally:
            with contextlib.suppress(OSError):
                self._zip.close()
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        meta = self.meta | {
            "version": VERSION,
            "fingerprint": fingerprint(self._windows),
            "windows": self._count,
            "k": self.k,
        }
        self._zip.writestr("meta.json", json.dumps(meta))
        self._zip.close()
        self._partial.replace(self._path)

    def add(self, log_probs: Tensor) -> StoredPrediction:
        """Keep the next window's log-probabilities [position, vocabulary]."""
        if self._count == 0:
            self.k = kept_k(self._positions, log_probs.shape[-1])
        return self.keep(predict(log_probs, self.k))

    def keep(self, made: StoredPrediction) -> StoredPrediction:
        """Keep what is left of the next window's predictions."""
        if made.indices is not None:
            self.k = made.indices.shape[-1]
        try:
            self._put("groups", made.groups)
            if made.indices is not None:
                self._put("indices", made.indices)
        except OSError as error:
            raise _no_room(self._path, error) from error
        self._put("top1", made.top1)
        self._count += 1
        return made

    def _put(self, name: str, tensor: Tensor) -> None:
        from numpy.lib import format as npy

        with self._zip.open(f"{self._count}.{name}.npy", "w", force_zip64=True) as stream:
            npy.write_array(stream, tensor.contiguous().numpy(), allow_pickle=False)


def _no_room(path: Path, error: OSError) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: cannot keep the baseline's predictions ({error.strerror or error}); "
        "make room or set XDG_CACHE_HOME"
    )


class StoreReader:
    """Predictions that `Writer` kept, one window at a time.

    Raises InputError if the file is broken or of other tokens; it is then removed, so that the
    next run makes it again.
    """

    def __init__(self, path: Path, windows: Sequence[Sequence[int]]) -> None:
        self._path = path
        with self._guard():
            self._zip = zipfile.ZipFile(path)
        with self._guard():
            self.meta: dict[str, Any] = json.loads(self._zip.read("meta.json"))
            if self.meta["version"] != VERSION:
                raise ValueError("another version wrote it")
            if self.meta["fingerprint"] != fingerprint(windows):
                raise ValueError("it was made from other tokens or windows")
            self.k: int | None = self.meta["k"]

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(self, *rest: object) -> None:
        self._zip.close()

    def window(self, number: int) -> StoredPrediction:
        """The prediction of that window, from 0."""
        with self._guard():
            indices = None if self.k is None else self._get(number, "indices")
            return StoredPrediction(self._get(number, "groups"), indices, self._get(number, "top1"))

    def _get(self, number: int, name: str) -> Tensor:
        import torch
        from numpy.lib import format as npy

        data = BytesIO(self._zip.read(f"{number}.{name}.npy"))  # read whole: checks its sum
        return torch.from_numpy(npy.read_array(data, allow_pickle=False))

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError, OSError, TypeError) as error:
            self._path.unlink(missing_ok=True)
            raise InputError(
                f"{self._path}: the baseline's predictions cannot be used ({error}) and were "
                "removed; run the same command again to make them anew"
            ) from error
