"""2,700 mutated lines of records through the verbs that read them: one line each, or figures."""

from __future__ import annotations

import contextlib
import io
import traceback
from pathlib import Path
from random import Random

import pytest

from bench.cli import main
from bench.errors import InputError
from bench.records import from_json
from bench.records.file import lines as read_lines
from bench.records.file import read
from tests.campaign import base
from tests.campaign.mutate import mutated_line
from tests.campaign.seeds import report, rng

LINES = 900
"""Mutated, of each kind of results."""
AT_ONCE = 30
VERBS = (
    ("compare",),
    ("cost", "--rent", "0.4", "-o", "json"),
    ("export", "--to", "csv"),
    ("export", "--to", "md"),
)


def harm(*arguments: str) -> str | None:
    """What a verb did that it must not; None if it ended as the contract has it."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error!s:.90}"
        )
    if code not in (0, 1, 2, 3):
        return f"exit code {code}"
    said = out.getvalue() + err.getvalue()
    odd = sorted({c for c in said if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160})
    return f"control characters {odd}" if odd else None


def tried(text: bytes, file: Path) -> list[str]:
    """Harm of each verb on such a file."""
    file.write_bytes(text)
    return [f"{verb[0]}: {why}" for verb in VERBS if (why := harm(verb[0], str(file), *verb[1:]))]


@pytest.mark.parametrize("kind", ["card", "server", "imported"])
def test_no_line_breaks_a_reader(kind: str, tmp_path: Path) -> None:
    random: Random = rng(f"records/{kind}")
    whole = [line.encode() for line in base.lines(kind)]
    file, failures = tmp_path / "records.jsonl", []
    for _ in range(LINES // AT_ONCE):
        mutants = [mutated_line(random.choice(whole).decode(), random) for _ in range(AT_ONCE)]
        texts = [text.replace(b"\n", b" ") for text, _ in mutants]
        if tried(b"\n".join([*whole, *texts]) + b"\n", file):
            # Which one was it? Each alone; if none is, all of them together.
            for text, what in zip(texts, (what for _, what in mutants), strict=True):
                failures += [
                    f"{what}: {why}" for why in tried(b"\n".join([*whole, text]) + b"\n", file)
                ]
            failures = failures or ["only together: " + "; ".join(what for _, what in mutants)]
    report(f"records/{kind}", LINES, failures)


def test_validate_finds_whatever_readers_refuse(tmp_path: Path) -> None:
    random = rng("validate")
    whole = base.lines()
    file, failures = tmp_path / "records.jsonl", []
    for _ in range(10):
        texts = [mutated_line(random.choice(whole), random)[0] for _ in range(30)]
        file.write_bytes("\n".join(whole).encode() + b"\n" + b"\n".join(texts) + b"\n")
        refused = []
        for number, text in read_lines(file):
            try:
                from_json(text)
            except InputError:
                refused.append(f"{file}:{number}: ")
        said = read(file).problems
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main(["validate", str(file)])
        failures += [at for at in refused if not any(one.startswith(at) for one in said)]
        failures += [at for at in refused if at.removesuffix(" ") not in out.getvalue()]
        failures += ["exit code 0"] if refused and code != 2 else []
    report("validate", 300, failures)


def test_the_page_is_made_of_whatever_can_be_read(tmp_path: Path) -> None:
    random = rng("page")
    failures = []
    for kind in ("card", "server"):
        folder = base.write(tmp_path / kind, kind)
        whole = base.lines(kind)
        mutants = [mutated_line(random.choice(whole), random) for _ in range(150)]
        with (folder / "records.jsonl").open("ab") as stream:
            for text, _ in mutants:
                stream.write(text.replace(b"\n", b" ") + b"\n")
        why = harm("report", str(folder), "--to", str(tmp_path / f"{kind}.html"))
        failures += [f"{kind}: {why}: {'; '.join(what for _, what in mutants)}"] if why else []
        failures += [why] if (why := harm("claims", str(folder), "-o", "json")) else []
    about = ("-m", "llama-3.1-8b", "--gpu", "rtx-4080-super", "--with", str(tmp_path / "card"))
    failures += [why] if (why := harm("predict", *about)) else []
    report("page", 300, failures)
