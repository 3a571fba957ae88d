"""`bench engines`: what can run a model here, and the environments that some engines need."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bench.cli import add_output, stop_on_terminate

if TYPE_CHECKING:
    from bench.engines.registry import Spec
    from bench.runner.venvs import Home

SHOWN: Final = 8
"""Names of a list that fit into a table."""

EPILOG = """\
examples:
  bench engines                        every engine: installed or not, devices, modes, schemes
  bench engines install onnxruntime    make its environment now (`bench run` would on first use)
  bench engines remove onnxruntime     ... and free its disk space
  bench engines -o json

An engine whose packages conflict with ours gets a virtual environment in XDG_CACHE_HOME (default:
~/.cache), installed by pip with your settings. An interrupted install resumes.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "engines",
        help="list the engines; install those that need an environment of their own",
        description="List the engines: where each runs, its version, devices, modes and schemes.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "install", "remove"),
        default="list",
        help="what to do (default: list)",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="environments to install or remove"
    )
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """List, install or remove."""
    if args.action == "list":
        return _list(args)
    from bench.errors import InputError
    from bench.runner.venvs import home, install, names, remove

    if not args.names:
        raise InputError(f"name what to {args.action}: {', '.join(names())}")
    stop_on_terminate()
    for place in [home(name) for name in args.names]:
        if args.action == "install":
            install(place, _say)
            _say(f"{place.name} is installed in {place.folder}")
        elif remove(place, _say):
            _say(f"removed {place.folder}")
        else:
            _say(f"{place.name} is not installed")
    return 0


def _list(args: argparse.Namespace) -> int:
    from bench.errors import InputError
    from bench.report.tables import Column, column, render

    if args.names:
        raise InputError(f"engines list: takes no name, got {args.names[0]!r}")
    columns = [
        column("engine"),
        column("environment", missing="bench's own"),
        column("state"),
        column("version"),
        *(Column(heading=key, show=partial(_some, key)) for key in ("devices", "modes", "schemes")),
    ]
    found = rows()
    print(render(found, columns, args.output), end="")
    if args.output == "md":
        for line in dict.fromkeys(why for row in found for why in row["missing"].values()):
            print(f"\n{line}")
        print(
            "\nAn environment of its own is made by `bench engines install NAME`, or on first use."
        )
    return 0


def rows() -> list[dict[str, Any]]:
    """One row an engine and environment in which it runs."""
    from bench.engines.registry import ENGINES
    from bench.runner.venvs import homes

    return [
        _row(name, spec, place)
        for name, spec in ENGINES.items()
        if spec.packages or spec.environment or spec.remote
        for place in (homes(spec.environment) if spec.environment else [None])
    ]


def _row(name: str, spec: Spec, place: Home | None) -> dict[str, Any]:
    from bench import schemes
    from bench.runner.venvs import own_versions, state, versions

    found = own_versions(spec.packages) if place is None else versions(place)
    version = next((found[package] for package in spec.packages if package in found), None)
    where = state(place) if place else "installed" if version or spec.remote else "missing"
    kinds = [kind for kind in spec.devices if place is None or place.serves(kind)]
    # A server's are its own business.
    every = [] if spec.remote else schemes.of_engine(name)
    known = [q for q in every if any(_runs(q, spec, kind) for kind in kinds)]
    made = [q for q in known if schemes.scheme(q).source == "checkpoint"]
    chosen = [q for q in known if q not in made] + list(schemes.MIXED if spec.applies else ())
    return {
        "engine": name,
        "environment": place.name if place else None,
        "folder": str(place.folder) if place else None,
        "state": where,
        "version": version,
        "devices": kinds,
        "modes": list(spec.modes),
        "schemes": chosen,
        "checkpoints": made,
        "missing": _missing(chosen) if spec.applies else {},
        "refuses": {f"{q} on {kind}": why for (q, kind), why in spec.refuses.items()},
    }


def _runs(quant: str, spec: Spec, kind: str) -> bool:
    """Whether an engine runs a scheme on a kind of device."""
    from bench import schemes

    return kind in schemes.scheme(quant).kinds and (quant, kind) not in spec.refuses


def _missing(names: Sequence[str]) -> dict[str, str]:
    """Scheme -> the package that it lacks here, and how to get it."""
    from bench import schemes

    card = schemes.Device(name="cuda:0", kind="cuda")
    lacks = ((q, p.missing(card)) for q in names for p in schemes.scheme(q).packages)
    return {q: f"scheme '{q}' {why}" for q, why in lacks if why}


def _some(key: str, row: Any) -> str:
    """The first few of a list."""
    names = row[key]
    more = f", ... ({len(names)})" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) or "-"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
