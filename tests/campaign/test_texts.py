"""Names of others in every output: 11 hostile texts, 12 places, each way out."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.records import to_json
from bench.text import csv_cell, markdown_cell, plain
from tests.campaign import base
from tests.campaign.seeds import report

HOSTILE = {
    "title": "\x1b]0;owned\x07x",
    "clear": "\x1b[2J\x1b[H",
    "link": "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "c1": "\x9b31m\x85",
    "return": "good\rbad",
    "direction": "a\u202eb\u2066c",
    "pipe": "a | b || c",
    "newline": "a\nb: c\r\nd",
    "backslash": "a\\",
    "html": "<img src=x onerror=alert(1)></script><script>alert(1)</script>",
    "formula": "=HYPERLINK(1)",
    "at": "@SUM(1)",
    "markdown": "[x](javascript:alert(1)) ![y](http://evil)",
}
PLACES = ("name", "model", "engine", "quant", "device", "dtype", "mode", "reason", "message")
OUTPUTS = (
    ("compare",),
    ("compare", "-o", "csv"),
    ("cost", "--rent", "1"),
    ("cost", "--rent", "1", "-o", "csv"),
    ("export", "--to", "md"),
    ("export", "--to", "csv"),
    ("validate",),
)


def written(folder: Path, text: str) -> Path:
    """Results with the text in every place that a name of others reaches."""
    lines: list[Any] = [replace(base.machine(), identity={"gpu": text, "cpu": text, "host": text})]
    for replicate in range(6):
        for quant in ("none", "int8-weight-only"):
            found = base.full(quant, 1, replicate)
            about = found.variant | {
                "name": f"{text}/{quant}",
                "model": text,
                "mode": text,
                "dtype": text,
                "quant": quant,
            }
            kernel = found.model | {"kernel": text}
            lines.append(replace(found, variant=about, model=kernel, absent={"energy_j": text}))
    failed = replace(
        base.full("none", 1, 9), status="failed", message=text, reasons=(text[:60],), samples={}
    )
    folder.mkdir()
    (folder / "records.jsonl").write_text("".join(to_json(one) + "\n" for one in [*lines, failed]))
    return folder


def wrong(output: tuple[str, ...], said: str) -> str | None:
    """What of hostile text got through."""
    odd = {c for c in said if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160}
    odd |= {c for c in said if c in "\u202e\u2066"}
    if odd:
        return f"control characters {sorted(odd)}"
    if "csv" in output:
        cells = [cell for row in csv.reader(io.StringIO(said)) for cell in row]
        bad = [c for c in cells if re.match(r"[=@]|[+-](?![\d.])", c) and c != "-"]
        return f"formulas {bad[:2]}" if bad else None
    tables = [line for line in said.splitlines() if line.startswith("|")]
    bare = [line.replace("\\\\", "").replace("\\|", "") for line in tables]
    counts = [len(line.split("|")) for line in bare]
    blocks = {tuple(sorted(set(counts)))}
    if tables and len(set(counts)) > 2:  # two tables at most
        return f"cells {blocks}"
    if any(re.search(r"(?<!\\)<(?:img|script)", line) for line in tables):
        return "a tag"
    if any(re.search(r"\](?<!\\)\(", line) for line in tables):
        return "a link"
    return None


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_others(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, failures = written(tmp_path / "r", HOSTILE[name]), []
    for output in OUTPUTS:
        main([output[0], str(folder), *output[1:]])
        captured = capsys.readouterr()
        found = [wrong(output, captured.out), wrong((), captured.err)]
        failures += [f"{' '.join(output)}: {why}" for why in found if why]
    report(f"texts/{name}", len(OUTPUTS), failures)


@pytest.mark.parametrize("name", ["html", "title", "c1", "direction"])
def test_a_page_of_names_of_others(name: str, tmp_path: Path) -> None:
    folder, to = written(tmp_path / "r", HOSTILE[name]), tmp_path / "page.html"
    assert main(["report", str(folder), "--to", str(to)]) == 0
    page = to.read_text(encoding="utf-8")
    assert "<img" not in page
    assert "<script>alert" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


def test_each_character_alone() -> None:
    failures = []
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2028, 0xFEFF, 0xD800, 0xDFFF):
        text = f"a{chr(code)}b"
        for made in (plain(text), markdown_cell(text), csv_cell(text)):
            if chr(code) in made and chr(code) not in "\n\t ":
                failures.append(f"{code:#x}: {made!r}")
            made.encode()
    report("characters", 69 * 3, failures)
