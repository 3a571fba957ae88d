"""The flags that describe what to measure, the same for `bench run` and `bench plan`."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from bench.errors import InputError
from bench.experiment import ArmEntry, Experiment, Grid, Quality, load_experiment

ENDPOINT = "endpoint"
"""The engine that `--url` and `--serve` mean."""

MODELS = "NAME, NAME@random, ORG/NAME[@REVISION] or ORG/NAME:FILE.gguf of the hub, a folder, a file"
MAX_VALUES = 10_000
LONGEST_NAME = 60
"""Characters of an arm's name that come from a command."""
LARGEST = "max"
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([*+])(\d+))?)?")


def add_grid(parser: argparse.ArgumentParser) -> None:
    """EXPERIMENT and the flags that override it."""
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        help="name of a shipped experiment, or a file (default: quickstart; with --url or --serve: "
        "serving)",
    )
    grid = parser.add_argument_group("what to measure (lists with commas, all combinations)")
    text: dict[str, Any] = {"type": texts, "metavar": "LIST"}
    number: dict[str, Any] = {"type": numbers, "metavar": "LIST"}
    grid.add_argument("-m", "--model", **text, help=MODELS)
    grid.add_argument("-e", "--engine", **text, help="engines")
    grid.add_argument("-q", "--quant", **text, help="schemes, such as none,int8-dynamic")
    grid.add_argument("-p", "--n-prompt", **number, help="prompt tokens: 128,512 or 128-1024*2")
    grid.add_argument("-n", "--n-gen", **number, help="new tokens")
    grid.add_argument(
        "-b",
        "--n-batch",
        type=batches,
        metavar="LIST",
        help="sequences at once; max: the most that fit in memory, found by `bench run`",
    )
    grid.add_argument(
        "--requests",
        action="append",
        metavar="SPEC",
        help="requests of different lengths: chat, rag, ..., 'prompt=DIST gen=DIST', "
        "trace:FILE (docs/load.md); may be repeated",
    )
    grid.add_argument(
        "-d", "--device", help="auto, cpu, cuda:1, ...; one model on two cards: cuda:0+cuda:1"
    )
    grid.add_argument("--mode", **text, help="execution modes of the engine")
    grid.add_argument("--dtype", help="auto, float32, bfloat16 or float16, where not quantized")
    grid.add_argument("--threads", type=int, help="CPU threads (default: the engine's own)")
    grid.add_argument("--url", help="server with OpenAI's API, measured by engine endpoint")
    grid.add_argument(
        "--serve",
        action="append",
        metavar="COMMAND",
        help="start a server for each replicate, such as 'vllm serve {model} --port {port}'; "
        "repeat it for more arms",
    )
    grid.add_argument(
        "--option",
        action="append",
        type=option,
        default=[],
        metavar="KEY=VALUE",
        help="setting of the engine, such as rate=2 or key_env=MY_KEY; may be repeated",
    )
    how = parser.add_argument_group("how to measure")
    how.add_argument("--level", choices=("quick", "standard", "strict"))
    how.add_argument("--pairs", type=int, metavar="N", help="fresh processes for each variant")
    how.add_argument("--baseline", metavar="NAME", help="arm to compare the others with")
    how.add_argument(
        "--slo",
        metavar="LIMITS",
        help="search a server's highest arrival rate within limits: ttft_p95=0.5,tpot_p95=0.05",
    )
    how.add_argument("--seed", type=int, help="seed of the order and of the prompts")


def add_fleet(parser: argparse.ArgumentParser) -> None:
    """Where else than on this machine."""
    fleet = parser.add_argument_group("many machines (docs/fleet.md)")
    fleet.add_argument(
        "--on",
        metavar="CLUSTER",
        help="`ray`: every machine of the running Ray cluster; or `ray://HOST:10001`",
    )
    fleet.add_argument(
        "--select",
        metavar="KEY=LIST",
        help="only machines with this card or label, such as 'gpu=rtx-4080,rtx-3080;zone=a'",
    )
    fleet.add_argument(
        "--per-machine",
        type=int,
        metavar="N",
        help="cards of one machine that measure at once (default: 1); several disturb one another, "
        "and their records say so",
    )


def per_machine(args: argparse.Namespace) -> int:
    """How many cards of a machine measure at once. Raises InputError."""
    if args.per_machine is None:
        return 1
    if args.on is None:
        raise InputError("--per-machine: needs a cluster, such as --on ray")
    if args.per_machine < 1:
        raise InputError(f"--per-machine {args.per_machine}: must be at least 1")
    found: int = args.per_machine
    return found


def wanted_experiment(args: argparse.Namespace) -> Experiment:
    """The experiment with the flags laid over it, checked again."""
    from bench.runner.naming import named

    server = _server(args)
    asks = bool(server or args.serve) or args.engine == (ENDPOINT,)
    name = args.experiment or ("serving" if asks else "quickstart")
    experiment = load_experiment(name)
    names = (
        "model",
        "engine",
        "quant",
        "n_prompt",
        "n_gen",
        "n_batch",
        "device",
        "mode",
        "dtype",
        "threads",
    )
    grid: dict[str, Any] = {
        n: getattr(args, n) for n in names if getattr(args, n) not in (None, LARGEST)
    }
    if args.requests is not None:
        grid["requests"] = tuple(args.requests)
    if args.slo is not None and args.n_batch is None:
        grid["n_batch"] = (1,)
    options = dict(args.option) | server
    if asks and all(variant.engine != ENDPOINT for variant in experiment.variants):
        grid.setdefault("engine", (ENDPOINT,))
    if options:
        grid["options"] = {**experiment.grid.options, **options}
    changes: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("level", "baseline", "seed", "slo")
        if getattr(args, name) is not None
    }
    if args.level is not None:
        changes["measure"] = {}  # the level asked for, not the file's changes of another
    if args.pairs is not None:
        changes["measure"] = dict(changes.get("measure", experiment.measure)) | {
            "pairs": args.pairs
        }
    if {"engine", "quant", "mode"} & set(grid):
        changes["arm"] = ()  # what the flags name, not what the file writes out
    changed = replace(experiment, grid=replace(experiment.grid, **grid), **changes)
    if args.serve and not server:
        changed = _arm_each(changed, args.serve)
        if args.experiment is None:  # "faster" needs "at equal quality"
            changed = replace(changed, quality=Quality())
    problems = [*_problems(changed.grid, "grid"), *changed.problems()]
    if problems:
        raise InputError(*(f"{name}: {problem}" for problem in problems))
    for line in changed.moved:
        sys.stderr.write(f"{line}\n")
    if args.experiment is None and not asks:
        changed = _each_its_schemes(changed, args.quant)
    if args.experiment is not None and not NAMES & set(grid):
        _check_file(args.experiment, changed)
    changed = named(changed)
    if name == "quickstart" and {"model", "engine", "quant", "mode"} & set(grid):
        changed = replace(changed, question=_question(changed))
    if args.baseline is None and _tells_arms_apart(experiment) and not _tells_arms_apart(changed):
        # The file's baseline is not among what was asked for: the first arm takes its place.
        changed = replace(changed, baseline=changed.variants[0].name)
    return changed


NAMES: Final = frozenset({"model", "engine", "quant", "mode", "dtype"})
"""Flags that name what must exist."""


def _check_file(file: str, experiment: Experiment) -> None:
    """InputError with the file for what it names and nobody has; flags are checked later."""
    from bench.runner.arms import unknown_names

    if problems := unknown_names(experiment):
        raise InputError(*(f"{file}: {problem}" for problem in problems))


def _server(args: argparse.Namespace) -> dict[str, str]:
    """The option that says which server is asked, or how it is started; none for several."""
    if args.url is not None and args.serve:
        raise InputError("--serve starts a server, --url names one; give only one of them")
    if args.url is not None:
        return {"url": args.url}
    return {"serve": args.serve[0]} if args.serve and len(args.serve) == 1 else {}


DYNAMIC: Final = "int8-dynamic"


def _each_its_schemes(experiment: Experiment, asked: Sequence[str] | None) -> Experiment:
    """Each engine with those of the schemes that it runs. Where nobody `asked` for any, a model
    that is quantized already has its own alone."""
    from bench.engines.registry import spec
    from bench.runner.naming import is_quantized
    from bench.schemes import find

    def runs(engine: str, quant: str) -> bool:
        row = find(quant)
        here = row is not None and engine in row.engines
        return quant == "none" or here or spec(engine).weights == "none"

    g = experiment.grid
    if asked is None and is_quantized(experiment):
        return replace(experiment, arm=(), grid=replace(g, quant=("none",)))
    if asked is not None and not all(any(runs(e, q) for e in g.engine) for q in g.quant):
        return experiment  # what no engine runs is an error, said where schemes are checked
    each = list(itertools.product(g.engine, g.quant))
    left = [(engine, quant) for engine, quant in each if not runs(engine, quant)]
    if experiment.arm or not left:
        return experiment
    if asked is None:  # of an engine with none of the quickstart's, its own dynamic int8
        plain = [e for e in g.engine if not any(runs(e, q) for q in g.quant if q != "none")]
        each += [(engine, DYNAMIC) for engine in plain if runs(engine, DYNAMIC)]
    if asked is not None:
        said = ", ".join(f"{engine} {quant}" for engine, quant in left)
        sys.stderr.write(f"left out, because the engine does not run the scheme: {said}\n")
    arms = [
        ArmEntry(engine=engine, quant=quant, mode=mode)
        for engine, quant in each
        if (engine, quant) not in left
        for mode in g.mode or (None,)
    ]
    return replace(experiment, arm=tuple(arms))


def _arm_each(experiment: Experiment, commands: Sequence[str]) -> Experiment:
    """The experiment with a server for each command, the first as the baseline. The others are
    named by what their commands add to the first one's."""
    first = commands[0].split()
    base = experiment.grid.quant[0]
    arms = [ArmEntry(engine=ENDPOINT, quant=base, options={"serve": commands[0]})]
    for number, command in enumerate(commands[1:], 2):
        own = " ".join(word for word in command.split() if word not in first)
        name = own[:LONGEST_NAME] or f"server-{number}"
        arms.append(ArmEntry(engine=ENDPOINT, quant=name, options={"serve": command}))
    made = replace(experiment, arm=tuple(arms))
    return replace(made, baseline=made.variants[0].name)


def _question(experiment: Experiment) -> str:
    """What is asked where flags name the arms and no file is named."""
    if len(experiment.variants) > 1:
        return "Which of these makes a token faster and cheaper, at equal quality?"
    return "What does a token cost?"


def _tells_arms_apart(experiment: Experiment) -> bool:
    """Whether the baseline is among the arms, and something is left to compare with it."""
    n_bases, n_arms = len(experiment.baselines), len(experiment.variants)
    return n_arms == n_bases == 1 or 0 < n_bases < n_arms


def _problems(grid: Grid, at: str) -> list[str]:
    return [f"{at}.{problem}" for problem in grid.problems()]


def texts(value: str) -> tuple[str, ...]:
    """`a,b` as a tuple."""
    parts = tuple(part.strip() for part in value.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError(f"an empty name in '{value}'")
    return parts


def option(value: str) -> tuple[str, str | int | float | bool]:
    """`KEY=VALUE`; a value that is no TOML number or truth is text."""
    key, sign, text = value.partition("=")
    if not (key and sign and text):
        raise argparse.ArgumentTypeError(f"'{key}' is not KEY=VALUE")
    try:
        found = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text
    return key, found if isinstance(found, str | int | float | bool) else text


def share(value: str) -> float:
    """`1%` or `0.01` as a number between 0 and 1."""
    try:
        number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"'{value}' is not a share such as 1% or 0.01")
    return number


def numbers(value: str) -> tuple[int, ...]:
    """`128,256` or `128-1024*2` or `1-8+1` as a tuple, in order, each value once."""
    found: list[int] = []
    for part in value.split(","):
        found += _range(part.strip())
    return tuple(dict.fromkeys(found))


def batches(value: str) -> tuple[int, ...] | str:
    """As `numbers`, or `LARGEST`."""
    return LARGEST if value == LARGEST else numbers(value)


def _range(text: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither a number nor a range such as 128-1024*2 or 1-8+1"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    sign, step = match[3] or "+", int(match[4] or 1)
    if last < first or (sign == "*" and (step < 2 or first == 0)) or step < 1:
        raise argparse.ArgumentTypeError(f"the range '{text}' never ends")
    values = [first]
    while (value := values[-1] * step if sign == "*" else values[-1] + step) <= last:
        values.append(value)
        if len(values) > MAX_VALUES:
            raise argparse.ArgumentTypeError(f"the range '{text}' has over {MAX_VALUES} values")
    return values
