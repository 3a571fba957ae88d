"""A key sent back in 20 wrappings, at random cuts: it is in no record and on no terminal."""

from __future__ import annotations

import base64
import html
import json
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from bench import hiding
from bench.records.file import Writer
from tests.campaign import base
from tests.campaign.seeds import report, rng

WRAPPINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.lower,
    str.upper,
    json.dumps,
    lambda k: json.dumps({"e": json.dumps({"key": k})}),
    lambda k: "".join(f"\\u{ord(c):04x}" for c in k),
    lambda k: "".join(f"\\x{ord(c):02x}" for c in k),
    lambda k: k.replace("/", "\\/"),
    lambda k: quote(k, safe=""),
    lambda k: quote(quote(k, safe=""), safe=""),
    quote_plus,
    lambda k: "".join(f"%{ord(c):02X}" for c in k),
    lambda k: "".join(f"&#{ord(c)};" for c in k),
    lambda k: "".join(f"&#x{ord(c):x};" for c in k),
    html.escape,
    lambda k: base64.b64encode(k.encode()).decode(),
    lambda k: base64.b64encode(b"user:" + k.encode()).decode(),
    lambda k: base64.urlsafe_b64encode(b"x" + k.encode()).decode(),
    lambda k: f"https://{k}.example.org/?k={k}",
    lambda k: f"Bearer {k}",
    lambda k: repr(k.encode()),
)


def bare(text: str) -> str:
    """The text with every wrapping off, as somebody who looks for a key would read it."""
    for _ in range(3):
        text = html.unescape(text)
        text = text.replace("\\/", "/")
        for code in range(33, 127):
            for form in (f"\\u{code:04x}", f"\\x{code:02x}", f"%{code:02x}", f"%{code:02X}"):
                text = text.replace(form, chr(code))
    return text.lower()


def leaks(text: str, key: str) -> bool:
    """Whether 8 characters of the key, or of its base64, can be read."""
    seen = bare(text)
    parts = [key.lower()[i : i + 8] for i in range(len(key) - 7)]
    coded = base64.b64encode(key.encode()).decode()[:12]
    return any(part in seen for part in parts) or coded in text


def test_no_key_is_kept_or_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    random, failures, tried = rng("keys"), [], 0
    letters = string.ascii_letters + string.digits + "-_/+"
    for _ in range(12):
        key = "sk-" + "".join(random.choice(letters) for _ in range(random.randrange(17, 60)))
        monkeypatch.setenv("CAMPAIGN_API_KEY", key)
        for number, wrap in enumerate(WRAPPINGS):
            text = f"HTTP 500: bad key {wrap(key)}, try again"
            cut = random.randrange(20, len(text))
            for said in (text, text[:cut]):
                tried += 1
                if leaks(hiding.hide(said), key):
                    failures.append(f"wrapping {number}: {hiding.hide(said)}")
        # In parts, as chunks bring it.
        at = random.randrange(9, len(key) - 9)
        if leaks(hiding.hide(f"{key[:at]}\n data: {key[at:]}"), key):
            failures.append("in parts")
    report("keys", tried, failures)


def test_no_key_home_or_host_reaches_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-9f8e7d6c5b4a39281706f5e4d3c2"
    monkeypatch.setenv("CAMPAIGN_TOKEN", key)
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr("socket.gethostname", lambda: "alices-workstation")
    places = (
        "/home/alice/models/x",
        "/Users/bob/x.gguf",
        "C:\\Users\\carol\\x",
        "/mnt/home/dave/x",
        "/root/x",
        "alices-workstation:8000",
    )
    with Writer(tmp_path) as writer:
        for number, place in enumerate(places):
            told = f"cannot load {place}: key {quote(key)}"
            found = base.full("none", 1, number)
            writer.append(
                replace(
                    found,
                    status="failed",
                    message=told,
                    samples={},
                    device={"details": [told], told: 1},
                    absent={"energy_j": told},
                )
            )
    text = (tmp_path / "records.jsonl").read_text()
    for secret in ("alice", "bob", "carol", "dave", "/root", "workstation", key[:12]):
        assert secret not in text
