"""A report as one self-contained HTML page: no network, strict content security policy.

Everything that comes from files is escaped by Jinja's autoescape; only the drawings, the page's own
CSS and JavaScript and JSON with its `<` escaped are put in as they are. The policy names the hash
of each script and style, so nothing else runs even if some text got through.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.report.page.blocks import Report
from bench.report.page.drawing import for_page, narrow
from bench.text import plain

FOLDER: Final = Path(__file__).parent
MARKS: Final = {"good": "▲", "bad": "▼", "even": "=", "mixed": "◐", "open": "?", "": ""}
MENU: Final = {
    "machines": "Machines",
    "ratios": "Ratios",
    "batch": "Batching",
    "quality": "Quality",
    "limit": "Limit",
    "energy": "Energy",
    "claims": "Claims",
    "machine": "Machine",
    "behind": "Records",
}
"""Short names of sections for the menu."""


def to_html(report: Report) -> str:
    """The page."""
    texts = {name: _own(name) for name in ("report.css", "cost.js", "report.js")}
    environment = Environment(
        loader=FileSystemLoader(FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return (
        plain(
            environment.get_template("page.html").render(
                report=report,
                menu=_menu(report),
                marks=MARKS,
                policy=policy(texts),
                css=texts["report.css"],
                cost_js=texts["cost.js"],
                report_js=texts["report.js"],
                # vl-convert escapes the text of its SVG.
                wide={p.id: Markup(for_page(p.spec)) for p in report.pictures if p.spec},
                narrow={p.id: Markup(for_page(narrow(p.spec))) for p in report.pictures if p.spec},
                explorer=_json(report.explorer),
                downloads={name: _json(text) for name, text in report.downloads.items()},
            )
        )
        + "\n"
    )


def _own(name: str) -> Markup:
    """A file of the page; its hash must be that of what stands between the tags."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def policy(texts: dict[str, Markup]) -> str:
    """The content security policy: these scripts and this style, nothing from anywhere else."""
    hashes = {name: f"'sha256-{_hash(text)}'" for name, text in texts.items()}
    return (
        f"default-src 'none'; style-src {hashes['report.css']}; "
        f"script-src {hashes['cost.js']} {hashes['report.js']}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign, escaped in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(sign, escaped)
    return Markup(text)


def _menu(report: Report) -> list[tuple[str, str]]:
    """Sections that have something to say, each kind once."""
    found: dict[str, str] = {}
    for section in report.sections:
        kind = section.id.rpartition("-")[2]
        if not section.missing and kind in MENU:
            found.setdefault(kind, section.id)
    return [(place, MENU[kind]) for kind, place in found.items()]
