"""Models of a hub by name: `ORG/NAME[@REVISION]`, `ORG/NAME:FILE.gguf`, `ORG/NAME:Q4_K_M`.

Of a GGUF model in several files FILE is the first, or a pattern such as `*UD-Q4_K_XL*`.

A name is looked up once and pinned to a commit; what the hub said of that commit (files, sizes,
sums, licence, config.json) is kept in the cache, so that later readers need no network. Files are
fetched by `bench.models.hub_fetch`, into the cache that every other tool of the hub shares.
`huggingface_hub` is imported only where the hub is asked: its endpoint, token and offline settings
count. Standard library otherwise.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from bench import fields
from bench.errors import BenchError, InputError, UnsupportedError
from bench.models.hub_errors import telling
from bench.models.hub_gguf import gguf_files, meant

Say = Callable[[str], None]

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
SHORT: Final = 12
"""Digits of a commit in the name of an arm."""

_REF: Final = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[\w./-]+?))?(?::(?P<file>[^:@]+))?"
)
CONFIG, INDEX, WHOLE = "config.json", "model.safetensors.index.json", "model.safetensors"
BESIDE: Final = frozenset(
    {
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "chat_template.jinja",
        "chat_template.json",
    }
)
"""What is fetched beside config.json and the weights: the tokenizer. Never `.bin`, never code."""

LARGEST_CONFIG: Final = 64 * 2**20
"""config.json and the index are read whole; a larger one is no such file."""

GENERATES: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of the names of architectures that continue text."""

TRIES: Final = 3
TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A name as a user writes it."""

    repo: str
    revision: str | None = None
    """Branch, tag or commit; None is the main branch."""
    file: str | None = None
    """A GGUF file, a pattern of its name, or the scheme that its name holds."""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return self.repo + revision + (f":{self.file}" if self.file else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a commit, as the hub describes it."""

    name: str
    bytes: int
    sha256: str | None = None
    """Of a file in large storage (LFS)."""
    blob: str | None = None
    """git's sum of a small file: SHA-1 of its header and content."""

    @property
    def sum(self) -> str | None:
        """The name of the file's content in the hub's cache."""
        return self.sha256 or self.blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a hub says of one commit."""

    repo: str
    revision: str
    """The commit: 40 hexadecimal digits."""
    license: str | None
    """As the model's page states it; None where it states none."""
    files: tuple[HubFile, ...]
    config: Mapping[str, Any]
    """Content of config.json; empty where there is none."""
    shards: tuple[str, ...] = ()
    """Names of the files of safetensors that hold the model."""

    @property
    def folder(self) -> Path:
        """Where the commit's files are in the hub's cache, once they are fetched."""
        return storage(self.repo) / "snapshots" / self.revision

    def pinned(self, file: str | None = None) -> str:
        """The name of exactly this commit, as an arm has it."""
        return str(Ref(repo=self.repo, revision=self.revision[:SHORT], file=file))


def parse(text: str) -> Ref | None:
    """The reference that a name is, or None for one that cannot be: a path, a card's name."""
    found = _REF.fullmatch(text)
    if found is None or text.endswith((".toml", ".safetensors")) or ".toml@" in text:
        return None
    if text.endswith(".gguf") and found["file"] is None:
        return None  # a file by its path
    if ".." in text:
        return None
    return Ref(repo=found["repo"], revision=found["revision"], file=found["file"])


def storage(repo: str) -> Path:
    """The folder of a model in the hub's own cache (HF_HUB_CACHE, HF_HOME)."""
    base = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if not base:
        xdg = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        home = os.environ.get("HF_HOME") or str(Path(xdg) / "huggingface")
        base = str(Path(home) / "hub")
    return Path(os.path.expandvars(base)).expanduser() / f"models--{repo.replace('/', '--')}"


def look_up(ref: Ref, say: Say) -> Snapshot:
    """What the hub says of a name now; of what is in the cache, where the hub cannot be reached.

    Raises InputError for a name or a kind of model that no machine could run, UnsupportedError
    where this machine cannot reach it: no network, no permission.
    """
    here = known(ref)
    if here is not None and ref.revision and here.revision.startswith(ref.revision):
        return here  # a commit never changes
    try:
        found = _ask(ref)
    except BenchError as error:
        if here is None or isinstance(error, InputError):
            raise
        say(f"{error}; going by commit {here.revision[:SHORT]}, which is in the cache")
        return here
    _keep(found, ref.revision)
    return found


def known(ref: Ref) -> Snapshot | None:
    """What is in the cache of a name; the hub is not asked."""
    place = _place(ref.repo)
    revision = ref.revision or "main"
    if re.fullmatch(r"[0-9a-f]{7,40}", revision):
        kept = [p for p in place.glob(f"{revision}*.json") if COMMIT.fullmatch(p.stem)]
        if len(kept) == 1 and (found := _read(kept[0])):
            return found
        elsewhere = [p.name for p in (storage(ref.repo) / "snapshots").glob(f"{revision}*")]
        revision = elsewhere[0] if len(elsewhere) == 1 else revision
    commit = _text(place / "refs" / revision) or _text(storage(ref.repo) / "refs" / revision)
    if commit is None and COMMIT.fullmatch(revision):
        commit = revision
    if commit is None or not COMMIT.fullmatch(commit):
        return None
    return _read(place / f"{commit}.json") or _of_cache(ref.repo, commit)


def is_meant(pinned: str, named: str) -> bool:
    """Whether a model that was pinned is the one that a name means, at whatever commit."""
    one, other = parse(pinned), parse(named)
    if one is None or other is None or one.repo != other.repo:
        return False
    if one.file is None or other.file is None:
        return one.file == other.file
    return bool(meant([one.file], other.file))


def wanted(snapshot: Snapshot, file: str | None) -> list[HubFile]:
    """What has to be fetched: the one GGUF file, or weights, config and tokenizer."""
    if file is not None:
        return list(gguf_files(snapshot, file))
    names = {CONFIG, *BESIDE, *snapshot.shards}
    if WHOLE not in snapshot.shards:
        names.add(INDEX)
    return [one for one in snapshot.files if one.name in names]


def refuse(ref: Ref, snapshot: Snapshot) -> None:
    """InputError for a model that is not made of safetensors, or does not continue text."""
    if ref.file is not None:
        gguf_files(snapshot, ref.file)
        return
    names = {one.name for one in snapshot.files}
    if "adapter_config.json" in names and not snapshot.shards:
        raise InputError(f"{ref.repo} is an adapter; name a model with its weights merged in")
    if any(name.endswith(".gguf") for name in names) and not snapshot.shards:
        schemes = ", ".join(sorted(n for n in names if n.endswith(".gguf"))[:6])
        raise InputError(
            f"{ref.repo} holds GGUF files; name one, as {ref.repo}:Q4_K_M, for the engine "
            f"llama.cpp: {schemes}"
        )
    if CONFIG not in names:
        raise InputError(f"{ref.repo} has no {CONFIG}: not a language model of transformers")
    made = snapshot.config.get("architectures")
    kinds = [str(one) for one in made] if isinstance(made, list) else []
    if snapshot.config.get("is_encoder_decoder") is True or (
        kinds and not any(one.endswith(GENERATES) for one in kinds)
    ):
        kind = ", ".join(kinds) or "an encoder and a decoder"
        raise InputError(f"{ref.repo} is {kind}: not a language model that continues text")
    if not snapshot.shards:
        raise InputError(
            f"{ref.repo} has no {WHOLE} and no {INDEX}; other weight formats are not loaded"
        )


def _ask(ref: Ref) -> Snapshot:
    """Ask the hub. Raises BenchError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    def asked(revision: str | None) -> Any:
        return _patiently(
            lambda: HfApi().model_info(
                ref.repo, revision=revision, files_metadata=True, timeout=TIMEOUT_S
            )
        )

    with telling(ref):
        try:
            info = asked(ref.revision)
        except RevisionNotFoundError:
            # A name from another machine holds the beginning of a commit: is it still the newest?
            if ref.revision is None or not re.fullmatch(r"[0-9a-f]{7,39}", ref.revision):
                raise
            info = asked(None)
            if not str(info.sha).startswith(ref.revision):
                raise
    commit = str(info.sha or "")
    if not COMMIT.fullmatch(commit):
        raise UnsupportedError(f"the hub names no commit of {ref}; is HF_ENDPOINT a model hub?")
    if (kept := _read(_place(ref.repo) / f"{commit}.json")) is not None:
        refuse(ref, kept)
        return kept
    snapshot = Snapshot(
        repo=ref.repo,
        revision=commit,
        license=_license(info),
        files=tuple(_files(info)),
        config={},
    )
    names = {one.name for one in snapshot.files}
    snapshot = replace(
        snapshot,
        config=_json(ref, snapshot, CONFIG) if CONFIG in names else {},
        shards=_shards(ref, snapshot, names),
    )
    refuse(ref, snapshot)
    return snapshot


def _patiently(call: Callable[[], Any]) -> Any:
    """Call the hub; a server that is busy is asked again, after the seconds that it names."""
    import time

    for left in reversed(range(TRIES)):
        try:
            return call()
        except OSError as error:
            answer: Any = getattr(error, "response", None)
            status = getattr(answer, "status_code", 0)
            if left == 0 or not (status == 429 or status >= 500):
                raise
            said = str(answer.headers.get("Retry-After", ""))
            time.sleep(min(float(said) if said.isdigit() else TRIES - left, 8.0))
    raise AssertionError("the last try returns or raises")


def _files(info: Any) -> Iterator[HubFile]:
    for one in info.siblings or ():
        name, size = str(one.rfilename), one.size
        lfs = one.lfs
        digest = None if lfs is None else str(getattr(lfs, "sha256", ""))
        blob = str(one.blob_id or "")
        if size is None or name.startswith("/") or ".." in Path(name).parts:
            continue
        yield HubFile(
            name=name,
            bytes=int(size),
            sha256=digest if digest and re.fullmatch(r"[0-9a-f]{64}", digest) else None,
            blob=blob if COMMIT.fullmatch(blob) else None,
        )


def _license(info: Any) -> str | None:
    stated = getattr(info.card_data, "license", None) if info.card_data is not None else None
    if isinstance(stated, str) and stated:
        return stated
    tags = [str(tag) for tag in info.tags or ()]
    return next((t.removeprefix("license:") for t in tags if t.startswith("license:")), None)


def _shards(ref: Ref, snapshot: Snapshot, names: set[str]) -> tuple[str, ...]:
    if WHOLE in names:
        return (WHOLE,)
    if INDEX not in names:
        return ()
    table = _json(ref, snapshot, INDEX).get("weight_map")
    held = sorted({str(v) for v in table.values()}) if isinstance(table, dict) else []
    if gone := [name for name in held if name not in names]:
        raise InputError(f"{ref.repo}: {INDEX} names {gone[0]}, which is not there")
    return tuple(held)


def _json(ref: Ref, snapshot: Snapshot, name: str) -> dict[str, Any]:
    """A small JSON file of a commit, fetched and checked."""
    from bench.models.hub_fetch import fetch_one

    (file,) = (one for one in snapshot.files if one.name == name)
    if file.bytes > LARGEST_CONFIG:
        raise InputError(f"{ref.repo}: {name} has {file.bytes} bytes: not a valid file")
    with telling(ref):
        path = fetch_one(snapshot, file)
    return read_json(path, f"{ref.repo}: {name}")


def read_json(path: Path, name: str) -> dict[str, Any]:
    """An object of a JSON file. Raises InputError."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise InputError(f"{name}: not a JSON object")
    return table


def _place(repo: str) -> Path:
    """Where what a hub said of a model is kept."""
    from bench.models.weights import cache_folder

    return cache_folder() / "hub" / repo.replace("/", "--")


def _keep(snapshot: Snapshot, revision: str | None) -> None:
    """Keep what the hub said. A cache that cannot be written costs only the next question."""
    import contextlib

    place = _place(snapshot.repo)
    with contextlib.suppress(OSError):
        _write(place / f"{snapshot.revision}.json", json.dumps(asdict(snapshot), indent=1))
        if not (revision and snapshot.revision.startswith(revision)):
            _write(place / "refs" / (revision or "main"), snapshot.revision)
    _parsed.cache_clear()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def _read(path: Path) -> Snapshot | None:
    text = _text(path)
    return None if text is None else _parsed(text)


@cache
def _parsed(text: str) -> Snapshot | None:
    try:
        return fields.build(Snapshot, json.loads(text), "", [])
    except (ValueError, TypeError, AttributeError):
        return None


def _of_cache(repo: str, commit: str) -> Snapshot | None:
    """A commit that another tool has fetched whole into the hub's cache."""
    folder = storage(repo) / "snapshots" / commit
    files = tuple(
        HubFile(name=path.relative_to(folder).as_posix(), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    names = {one.name for one in files}
    try:
        config = read_json(folder / CONFIG, CONFIG) if CONFIG in names else {}
        table = read_json(folder / INDEX, INDEX).get("weight_map") if INDEX in names else None
    except InputError:
        return None
    held = sorted({str(v) for v in table.values()}) if isinstance(table, dict) else []
    shards = (WHOLE,) if WHOLE in names else tuple(held)
    if not files or not names.issuperset(shards):
        return None
    return Snapshot(
        repo=repo, revision=commit, license=None, files=files, config=config, shards=shards
    )
