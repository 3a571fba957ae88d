"""`bench report`: one page, one Markdown file, or figures, from results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import progress
from bench.errors import InputError, of_path

if TYPE_CHECKING:
    from bench.experiment import CostAssumption

EPILOG = """\
examples:
  bench report results/local/quickstart --to report.html     one page, to share
  bench report results/local/a results/local/b --to both.html    two machines side by side
  bench report RESULTS --rent 0.42 --utilization 0.3 --to report.md
  bench report RESULTS --to figures/      each chart as SVG and PNG

The page works offline, and its reader can change the price. docs/report.md describes it.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "report",
        help="make one self-contained page with results and evidence",
        epilog=EPILOG,
        description="Make a page, a Markdown file or figures from results.",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS")
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE.html|FILE.md|FOLDER",
        help="file to write: a page or Markdown; or a folder for figures",
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="arm to compare with (default: the experiment's)"
    )
    parser.add_argument(
        "--claim",
        action="append",
        metavar="CLAIM",
        help="only this source of claims; may be repeated (default: all)",
    )
    parser.add_argument(
        "--rent",
        type=float,
        metavar="USD_PER_HOUR",
        help="price of an hour to start from (default: the experiment's assumption)",
    )
    parser.add_argument(
        "--utilization",
        type=float,
        metavar="SHARE",
        help="busy share of paid hours, with --rent (default: 1)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the report; say on stderr what was written."""
    import sys

    from bench.report.page import PageOptions, assemble
    from bench.saving import save

    suffix = args.to.suffix.lower()
    if suffix not in ("", ".html", ".htm", ".md"):
        raise InputError(f"--to: {args.to} is neither FILE.html, FILE.md nor a folder")
    claims = None if args.claim is None else tuple(args.claim)
    asked = PageOptions(baseline=args.baseline, claims=claims, cost=_cost(args))
    report = assemble(args.results, asked, say=progress)
    for warning in report.warnings:
        print(f"bench: {warning}", file=sys.stderr)
    try:
        if suffix == "":
            written = _figures(report, args.to)
        else:
            page = _text(report, suffix).encode()
            save(page, args.to, "choose with --to")
            written = f"{args.to} ({len(page) / 1e6:.2f} MB)"
    except OSError as error:
        raise of_path(error, f"--to: {error.filename}") from error
    print(f"bench: wrote {written}", file=sys.stderr)
    return 0


def _cost(args: argparse.Namespace) -> CostAssumption | None:
    from bench.cost.hour import stated

    share = 1.0 if args.utilization is None else args.utilization
    source = "--rent" if args.rent is None else f"--rent {args.rent:g} --utilization {share:g}"
    return stated(args.rent, args.utilization, source)


def _text(report: Any, suffix: str) -> str:
    if suffix == ".md":
        from bench.report.page.document import to_markdown

        return to_markdown(report)
    from bench.report.page.webpage import to_html

    return to_html(report)


def _figures(report: Any, folder: Path) -> str:
    """Each chart as SVG and PNG."""
    from bench.report.page.drawing import to_png, to_svg
    from bench.saving import save

    folder.mkdir(parents=True, exist_ok=True)
    drawn = [picture for picture in report.pictures if picture.spec]
    for picture in drawn:
        save(to_svg(picture.spec).encode(), folder / f"{picture.id}.svg")
        save(to_png(picture.spec), folder / f"{picture.id}.png")
    return f"{len(drawn)} figures to {folder}/, each as SVG and PNG"
