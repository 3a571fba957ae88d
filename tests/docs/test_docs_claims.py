"""docs/claims.md: its table is what the command prints, its example is a valid claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.claims import DecidedBy
from bench.claims.evidence import PAIRS_TO_SUPPORT, PUBLISHED_MARGIN
from bench.claims.files import validate_claims
from bench.claims.verdicts import STRENGTH
from bench.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "claims.md").read_text(encoding="utf-8")


def test_the_article_stands_as_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--claim", "hawk-insight-2025"]) == 0
    assert capsys.readouterr().out in PAGE


def test_the_example_is_a_valid_claim_and_can_be_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    path = tmp_path / "mine.toml"
    path.write_text(example, encoding="utf-8")

    assert validate_claims([path]) == []
    assert main(["claims", "--claim", str(path)]) == 0
    assert "| 1a " in capsys.readouterr().out


def test_the_rules_name_every_kind_of_evidence_and_every_way() -> None:
    kinds = re.findall(r"^\| `(\w+)` \| .* \| .* \| .* \|$", PAGE, flags=re.MULTILINE)
    assert tuple(kinds) == STRENGTH
    for way in DecidedBy.__dataclass_fields__:
        assert re.search(rf"^\| `{way}`", PAGE, flags=re.MULTILINE)
    assert f"{PUBLISHED_MARGIN:.0%} is taken" in PAGE
    assert f"with {PAIRS_TO_SUPPORT} pairs or more" in PAGE


@pytest.mark.parametrize(
    "command", re.findall(r"^    bench (claims.*?)(?:  .*)?$", PAGE, flags=re.MULTILINE)
)
def test_the_commands_of_the_page_parse(command: str) -> None:
    from bench.cli import parser

    assert parser().parse_args(command.split()).run is not None
