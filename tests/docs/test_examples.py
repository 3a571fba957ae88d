"""The notebooks of examples/, cell by cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.api import summarise
from bench.records.file import read

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run(notebook: Path) -> dict[str, Any]:
    """The names that a notebook leaves, run in the interpreter at hand: it needs no Jupyter."""
    names: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        if cell["cell_type"] == "code":
            code = compile("".join(cell["source"]), f"{notebook.name}[{number}]", "exec")
            exec(code, names)
    return names


@pytest.mark.parametrize("folder", [ROOT, ROOT / "examples"])
def test_the_table_of_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names = run(ROOT / "examples" / "read_results.ipynb")
    rows = {row["quant"]: row for row in summarise(read(ROOT / "results" / "quickstart-cpu"))}
    assert dict(names["centre"]) == pytest.approx(
        {quant: row["decode_tok_s"] for quant, row in rows.items()}
    )
    assert names["found"].n_pairs == 3
    assert names["found"].ci_low is None
    speeds = [rows[quant]["decode_tok_s"] for quant in ("none", "torch-dynamic-int8")]
    assert names["found"].ratio == pytest.approx(speeds[1] / speeds[0], rel=0.1)
    assert names["table"]["usd_per_mtok"].notna().all()
    assert "RAPL" in names["missing"]["energy_j"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_output(notebook: Path) -> None:
    cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
