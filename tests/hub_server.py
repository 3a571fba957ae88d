"""A model hub on 127.0.0.1 that speaks the hub's HTTP API to the real `huggingface_hub` client.

Model info with files, sizes and sums; `resolve` with ETag, Range, and a redirect for large files;
401, 403, 404, 429 with the hub's own error headers; and faults by order: connections cut after so
many bytes, a wrong ETag, a file that is short or altered. Every request is counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 20_000
"""Bytes from which a file is in large storage (LFS), reached by a redirect."""
TOKEN = "hf_secret"


def git_sum(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """A model: commits, each a set of files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""
    license: str | None = "apache-2.0"
    gated: bool = False
    private: bool = False
    no_sums: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        """Push files; returns the commit, which is main's from now on."""
        text = json.dumps([(n, git_sum(c)) for n, c in sorted(files.items())]) + self.main
        self.main = hashlib.sha1(text.encode()).hexdigest()
        self.commits[self.main] = files
        return self.main


@dataclass
class Faults:
    """What the server does wrong, until told otherwise."""

    cut_after: list[int] = field(default_factory=list)
    """The next GETs of large files are cut after so many bytes, one entry each."""
    busy: int = 0
    """The next so many requests are answered with 429."""
    broken: int = 0
    """The next so many requests are answered with 503."""
    wrong_etag: bool = False
    short_by: int = 0
    altered: bool = False
    bytes_per_s: float | None = None


class Hub:
    """The server; `url` is what HF_ENDPOINT is set to."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []
        self.sent: dict[str, int] = {}
        """Bytes of file content sent, by name."""
        self.ranges: list[str] = []
        self.leaked = False
        """Whether a token came to the large storage, which is not the hub."""
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}"
        """Another host, as the hub's large storage is."""
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def push(self, name: str, files: dict[str, bytes], **about: Any) -> str:
        repo = self.repos.setdefault(name, Repo(**about))
        return repo.commit(files)

    def push_folder(self, name: str, folder: Path, **about: Any) -> str:
        files = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
        return self.push(name, files, **about)

    def note(self, method: str, path: str) -> None:
        with self._lock:
            self.requests.append((method, path))

    def count(self, name: str, n_bytes: int) -> None:
        with self._lock:
            self.sent[name] = self.sent.get(name, 0) + n_bytes

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:  # http.server's name
        self.answer()

    def do_GET(self) -> None:  # http.server's name
        self.answer()

    def answer(self) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        hub.note(self.command, path)
        if hub.faults.busy > 0:
            hub.faults.busy -= 1
            self.send(429, b"slow down", {"Retry-After": "0"})
        elif hub.faults.broken > 0:
            hub.faults.broken -= 1
            self.send(503, b"maintenance")
        elif path.startswith("/api/models/"):
            self.info(path.removeprefix("/api/models/"))
        elif path.startswith("/large/"):
            self.large(*path.removeprefix("/large/").split("/", 1))
        elif "/resolve/" in path:
            repo, _, rest = path.lstrip("/").partition("/resolve/")
            self.resolve(repo, *rest.split("/", 1))
        else:
            self.send(404, b"no such page")

    def allowed(self, name: str, repo: Repo | None, *, content: bool) -> bool:
        """Answers with the hub's own error where the model is not there, private or gated."""
        token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not token):
            self.send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": name})
            return False
        if repo.gated and content:
            status = 403 if token else 401
            self.send(status, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
            return False
        return True

    def at(self, repo: Repo, revision: str) -> str | None:
        commit = repo.main if revision == "main" else revision
        if commit not in repo.commits:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def info(self, rest: str) -> None:
        if "/tree/" in rest:
            self.tree(*rest.split("/tree/", 1))
            return
        name, _, revision = rest.partition("/revision/")
        repo = self.served.repos.get(name)
        if not self.allowed(name, repo, content=False):
            return
        assert repo is not None
        if (commit := self.at(repo, revision or "main")) is None:
            return
        siblings = [self.sibling(repo, n, c) for n, c in repo.commits[commit].items()]
        table: dict[str, Any] = {
            "id": name,
            "sha": commit,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "tags": ["transformers", *([f"license:{repo.license}"] if repo.license else [])],
            "siblings": siblings,
        }
        if repo.license:
            table["cardData"] = {"license": repo.license}
        self.send(200, json.dumps(table).encode(), {"Content-Type": "application/json"})

    def tree(self, name: str, commit: str) -> None:
        repo = self.served.repos[name]
        rows = []
        for file, content in repo.commits[commit].items():
            about = self.sibling(repo, file, content)
            row = {"type": "file", "path": file, "size": len(content), "oid": about["blobId"]}
            if lfs := about.get("lfs"):
                row["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 134}
            rows.append(row)
        self.send(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})

    def sibling(self, repo: Repo, name: str, content: bytes) -> dict[str, Any]:
        about: dict[str, Any] = {"rfilename": name, "size": len(content)}
        if repo.no_sums:
            return about
        about["blobId"] = git_sum(content)
        if len(content) >= LARGE:
            digest = hashlib.sha256(content).hexdigest()
            about["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        return about

    def resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.served.repos.get(name)
        if not self.allowed(name, repo, content=True):
            return
        assert repo is not None
        if (commit := self.at(repo, revision)) is None:
            return
        content = repo.commits[commit].get(file)
        if content is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        if len(content) < LARGE:
            self.send(200, content, {"ETag": f'"{git_sum(content)}"', "X-Repo-Commit": commit})
            return
        digest = hashlib.sha256(content).hexdigest()
        etag = "0" * 64 if self.served.faults.wrong_etag else digest
        headers = {
            "Location": f"{self.served.storage}/large/{digest}/{name}/{commit}/{file}",
            "X-Repo-Commit": commit,
            "X-Linked-ETag": f'"{etag}"',
            "X-Linked-Size": str(len(content)),
        }
        self.send(302, b"", headers)

    def large(self, digest: str, rest: str) -> None:
        if "Authorization" in self.headers:
            self.served.leaked = True
        org, name, commit, file = rest.split("/", 3)
        content = self.served.repos[f"{org}/{name}"].commits[commit][file]
        faults = self.served.faults
        if faults.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        content = content[: len(content) - faults.short_by]
        etag = "0" * 64 if faults.wrong_etag else digest
        headers, status = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}, 200
        if (asked := self.headers.get("Range")) is not None:
            self.served.ranges.append(asked)
            begin, _, last = asked.removeprefix("bytes=").partition("-")
            first, end = int(begin), len(content)
            if last:
                end = min(end, int(last) + 1)
            if first >= len(content):
                self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            content, status = content[first:end], 206
        cut = faults.cut_after.pop(0) if faults.cut_after and self.command == "GET" else None
        self.send(status, content, headers, name=file, cut=cut)

    def send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        name: str = "",
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        rate = self.served.faults.bytes_per_s
        part = len(body) if rate is None else max(int(rate / 20), 1)
        end = len(body) if cut is None else min(cut, len(body))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for first in range(0, end, max(part, 1)):
                piece = body[first : min(first + part, end)]
                self.wfile.write(piece)
                if name:
                    self.served.count(name, len(piece))
                if rate is not None:
                    time.sleep(1 / 20)
            self.wfile.flush()
        if cut is not None:
            self.close_connection = True
