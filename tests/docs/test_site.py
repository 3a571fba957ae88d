"""The pages of docs/: they build as a site, and the commands that they show exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import parser

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SHOWN = re.compile(
    r"^    (?:[^`\n]*\| |\$ )?(?:scripts/)?bench ((?:[^\n\\]|\\\n)+?)(?: {2,}| #| \||$)",
    re.MULTILINE,
)
"""A line of a block that calls bench, without the remark or the pipe after it."""
NAMED = re.compile(r"`bench ([a-z]+)( [^`]*)?`")
"""A verb in a sentence, with its flags."""


def commands() -> list[tuple[str, str]]:
    return [
        (page.name, shown.replace("\\\n", " "))
        for page in PAGES
        for shown in SHOWN.findall(page.read_text(encoding="utf-8"))
    ]


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "gpu-cost-bench" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "method" / "index.html").exists()


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_of_the_pages_are_understood(page: str, command: str) -> None:
    parser().parse_args(shlex.split(command))


def test_verbs_and_flags_that_sentences_name_exist(capsys: pytest.CaptureFixture[str]) -> None:
    unknown, helps = [], {}
    for page in PAGES:
        for verb, rest in NAMED.findall(page.read_text(encoding="utf-8")):
            if verb not in helps:
                with pytest.raises(SystemExit) as ended:
                    parser().parse_args([verb, "--help"])
                helps[verb] = capsys.readouterr().out if ended.value.code == 0 else ""
            flags = re.findall(r"--[a-z][a-z-]*", rest)
            unknown += [(page.name, verb, flag) for flag in flags if flag not in helps[verb]]
            unknown += [] if helps[verb] else [(page.name, verb, "")]
    assert unknown == []
    assert len(helps) > 10


def test_the_pages_show_many_commands() -> None:
    assert len(commands()) > 60
