"""`bench predict`: throughput on a card you do not have."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import add_output, quantities
from bench.cli.grid import option

if TYPE_CHECKING:
    from bench.models import ModelCard
    from bench.predict import Prediction, Predictor
    from bench.predict.causes import Question
    from bench.predict.published import PublishedRow
    from bench.predict.terms import Build
    from bench.roofline.gpus import Gpu
    from bench.roofline.memory import HostMemory

EPILOG = """\
examples:
  bench predict -m llama-3.1-8b -q q4_k_m --gpu rtx-4080,rtx-4080-super
  bench predict -m llama-3.1-8b -q none,fp8-dynamic -e vllm --gpu all -o json
  bench predict -m deepseek-r1 -q ud-iq1_s --gpu h100-sxm --n-gpus 2 --rent 6.98
  bench predict --weights-bytes 4.9e9 -q q4_k_m --gpu rtx-3060
  bench predict -m llama-3.1-8b -q fp16 --gpu rtx-5080 --measured 68
  bench predict -m qwen3.6-35b-a3b -q q4_k_m --gpu rtx-5070 --host-bandwidth 60
  bench predict -m qwen3.6-27b -q q4_k_m --gpu all --min-tok-s 30 --max-usd-per-mtok 2
  bench predict -m all -q q4_k_m --gpu rtx-4080-super --min-tok-s 60
  bench predict -m path/to/config.json -q q4_k_m --gpu rtx-3060
  bench predict -m llama-3.1-8b -q none -e vllm -p 32768 --option kv_cache_dtype=fp8

The interval covers 90 of 100 measurements that were left out of the fit (docs/predict.md). No
prediction is above the bound. `fit` is yes, tight (within 7% of the memory), offload (the host
holds and computes a part) or no (no rate). If the measured rate is below the interval, likely
causes are listed, each with a command that tests it.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "predict",
        help="predict throughput on a card you do not have",
        description="Predict decode and prefill rates from published measurements, with an "
        "interval and the physical bound.",
        epilog=EPILOG,
    )
    _add_what(parser.add_argument_group("what to predict"))
    _add_host(parser.add_argument_group("what stays on the host"))
    _add_work(parser.add_argument_group("the work"))
    _add_asked(parser.add_argument_group("what to show"))
    add_output(parser)
    return parser


def _add_what(group: argparse._ArgumentGroup) -> None:
    """Models, schemes, engines and cards."""
    what = group.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "-m",
        "--model",
        help="comma-separated models (see `bench models`; also names of the hub, of GGUF files, "
        "tags), `all`, a config.json or its folder",
    )
    what.add_argument(
        "--weights-bytes",
        type=quantities.n_bytes,
        metavar="N",
        help="instead of -m: bytes of a dense model's weights in this scheme",
    )
    group.add_argument(
        "-q",
        "--quant",
        help="comma-separated schemes (default: the one in the name, or published, mostly none)",
    )
    group.add_argument(
        "-e",
        "--engine",
        default="llama.cpp",
        help="engines, some with their build: ollama-0.24, llama.cpp-vulkan, llama.cpp-rocm "
        "(default: llama.cpp)",
    )
    group.add_argument("--gpu", default="all", help="comma-separated cards (default: all)")
    group.add_argument(
        "--memory",
        type=quantities.amount,
        metavar="GIB",
        help="memory of the device, if it is sold in several sizes",
    )
    group.add_argument(
        "--n-gpus",
        type=quantities.whole,
        default=1,
        metavar="N",
        help="number of cards that share the model",
    )


def _add_host(group: argparse._ArgumentGroup) -> None:
    """The host's memory, and what is left there."""
    group.add_argument(
        "--host-memory",
        type=quantities.amount,
        default=64.0,
        metavar="GIB",
        help="memory of the host, for offloaded weights (default: 64)",
    )
    group.add_argument(
        "--host-bandwidth",
        type=quantities.host_rate,
        metavar="GB_S",
        help="rate at which the host reads offloaded weights, or its memory's name in `bench "
        "gpus`, such as cpu-ddr5-6000-2ch (default: a typical desktop's)",
    )
    group.add_argument(
        "--on-host",
        type=quantities.spilled,
        metavar="PART",
        help="'experts 14/40' (--n-cpu-moe 14 of 40 layers) or 'layers 9/41' (default: as few "
        "experts as possible; of Ollama before 0.30: 'layers', as few as possible)",
    )
    group.add_argument(
        "--num-ctx",
        type=quantities.whole,
        metavar="N",
        help="tokens of cache that Ollama reserves (default, by memory: 4096, 32768 or 262144)",
    )


def _add_work(group: argparse._ArgumentGroup) -> None:
    """Lengths, sequences at once, and the cache."""
    group.add_argument("-p", "--n-prompt", type=quantities.whole, default=512, metavar="N")
    group.add_argument("-n", "--n-gen", type=quantities.whole, default=128, metavar="N")
    group.add_argument("-b", "--n-batch", type=quantities.wholes, default=[1], metavar="N,...")
    group.add_argument(
        "--option",
        action="append",
        type=option,
        default=[],
        metavar="KEY=VALUE",
        help="type of the key-value cache in the engine's terms: kv_cache_dtype=fp8, or type_k "
        "and type_v for llama.cpp",
    )


def _add_asked(group: argparse._ArgumentGroup) -> None:
    """Which predictions are shown, and what they are held against."""
    group.add_argument(
        "--min-tok-s",
        type=quantities.amount,
        metavar="TOK_S",
        help="show only what is at least this fast",
    )
    group.add_argument(
        "--max-usd-per-mtok",
        type=quantities.amount,
        metavar="USD",
        help="show only what costs at most this, at --rent or the listed rent of each card",
    )
    group.add_argument(
        "--measured",
        type=float,
        metavar="TOK_S",
        help="a decode rate: say whether it is possible, or why it is low",
    )
    group.add_argument(
        "--rent", type=float, metavar="USD_PER_HOUR", help="price of all the cards, for $/Mtok"
    )
    group.add_argument(
        "--with",
        dest="results",
        action="append",
        default=[],
        type=Path,
        metavar="RESULTS",
        help="add these results to the fit",
    )


def run(args: argparse.Namespace) -> int:
    """Predict every combination."""
    import sys

    from bench import schemes
    from bench.errors import InputError
    from bench.predict import Predictor
    from bench.predict.names import engine_for, left_on_host
    from bench.predict.published import sized
    from bench.predict.seeking import nearest, sought
    from bench.report.tables import render
    from bench.schemes.bytes import check_quant
    from bench.schemes.cache import check_stated

    for name in ("measured", "rent"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name}: must be above 0")
    engines = [engine_for(name) for name in args.engine.split(",")]
    args.on_host = left_on_host(args.on_host, args.engine.split(","))
    for engine in engines:
        for quant in _quants(args):
            check_quant(sized(schemes.meant(quant, engine)))
        check_stated(engine, dict(args.option))
    cards = _cards(args.gpu, args.memory)
    extra, skipped = _own_rows(args.results)
    for line in skipped:
        print(f"bench: {line}", file=sys.stderr)
    every = _rows(Predictor(extra), cards, args)
    rows = sought(every, args.min_tok_s, args.max_usd_per_mtok)
    if not rows:
        print(f"bench: {nearest(every)}", file=sys.stderr)
    print(render(rows, _columns(args), args.output), end="")
    if args.output == "md":
        for row in rows:
            for line in _why_lines(row):
                print(line)
        for line in _notes(rows):
            print(f"bench: {line}", file=sys.stderr)
    return 0


def _own_rows(results: list[Path]) -> tuple[list[PublishedRow], list[str]]:
    """Rows of one's own records; without any, their readers are not even imported."""
    if not results:
        return [], []
    from bench.predict.user_rows import rows_of

    return rows_of(results)


def _quants(args: argparse.Namespace) -> list[str]:
    return (args.quant or "none").split(",")


def _rows(predictor: Predictor, cards: list[Gpu], args: argparse.Namespace) -> list[dict[str, Any]]:
    from bench import schemes
    from bench.predict.names import build_of, engine_for, stored_scheme
    from bench.roofline.memory import HostMemory
    from bench.schemes.cache import asked

    host = HostMemory(memory_bytes=int(args.host_memory * 2**30))
    if args.host_bandwidth is not None:
        host = replace(host, bandwidth=args.host_bandwidth * 1e9, stated=True)
    rows = []
    for said in args.engine.split(","):
        engine, build = engine_for(said), build_of(said)
        for meant in dict.fromkeys(schemes.meant(q, engine) for q in _quants(args)):
            for model in _models(args, meant):
                quant = stored_scheme(model, meant, engine, asked=args.quant is not None)
                for gpu in cards:
                    for n_batch in args.n_batch:
                        found = predictor.predict(
                            model,
                            gpu,
                            quant,
                            engine,
                            n_prompt=args.n_prompt,
                            n_gen=args.n_gen,
                            n_batch=n_batch,
                            n_gpus=args.n_gpus,
                            host=host,
                            spilled=args.on_host,
                            bytes_known=args.weights_bytes is None,
                            kv_cache_dtype=asked(engine, dict(args.option)),
                            build=build,
                            reserved=args.num_ctx,
                        )
                        rows.append(_row(predictor, model, found, gpu, host, build, args))
    return rows


def _cards(names: str, memory_gib: float | None) -> list[Gpu]:
    from bench.roofline.gpus import gpus, resolve_gpu

    if names == "all":
        found = list(gpus().values())
    else:
        found = [resolve_gpu(name.strip()) for name in names.split(",")]
    return [card.with_memory(memory_gib) for card in found] if memory_gib else found


def _models(args: argparse.Namespace, quant: str) -> list[ModelCard]:
    from bench.models import load_card, model_cards
    from bench.predict.names import card_of_size, catalogued, in_its_scheme
    from bench.predict.published import sized
    from bench.runner.counting import card_of

    if args.weights_bytes is not None:
        return [card_of_size(args.weights_bytes, sized(quant))]
    if args.model == "all":
        return [load_card(path) for path in model_cards().values()]
    say = partial(print, file=sys.stderr)
    names = [name.strip() for name in args.model.split(",")]
    return [in_its_scheme(card_of(catalogued(name), say), name) for name in names]


def _row(
    predictor: Predictor,
    model: ModelCard,
    found: Prediction,
    gpu: Gpu,
    host: HostMemory,
    build: Build,
    args: argparse.Namespace,
) -> dict[str, Any]:
    import dataclasses

    row: dict[str, Any] = dataclasses.asdict(found)
    row["extrapolates"] = list(found.extrapolates)
    row["absent"] = [f"{figure}: {why}" for figure, why in found.absent.items()]
    _add_energy(row, found, gpu)
    _add_cost(row, found, gpu, args)
    if args.measured is not None:
        from bench.predict.causes import Question

        asked = Question(
            predictor=predictor,
            model=model,
            gpu=gpu,
            found=found,
            measured_tok_s=args.measured,
            host=host,
            build=build,
            reserved=args.num_ctx,
        )
        _add_measured(row, asked)
    return row


def _add_cost(row: dict[str, Any], found: Prediction, gpu: Gpu, args: argparse.Namespace) -> None:
    """Dollars for a million new tokens, at the rent given or at the listed one of the card."""
    usd_per_hour = args.rent
    if usd_per_hour is None:
        if args.max_usd_per_mtok is None and args.min_tok_s is None:
            return
        from bench.cost.prices import gpu_rent, today
        from bench.errors import InputError

        try:
            usd_per_hour = gpu_rent(gpu.title, today()).mode * found.n_gpus
        except InputError:
            row["absent"] = [*row["absent"], f"usd_per_mtok: no rent of {gpu.title} is in force"]
    row["usd_per_hour"] = usd_per_hour
    for key, rate in (
        ("usd_per_mtok", found.decode_tok_s),
        ("usd_per_mtok_low", found.high),
        ("usd_per_mtok_high", found.low),
    ):
        known = rate is not None and usd_per_hour is not None
        row[key] = usd_per_hour / 3600 / rate * 1e6 if known else None


def _add_measured(row: dict[str, Any], asked: Question) -> None:
    """A stated rate against the bound and the interval, with the causes that would explain it."""
    import dataclasses

    from bench.predict.causes import causes
    from bench.roofline import above_bound

    measured, found = asked.measured_tok_s, asked.found
    row["measured_tok_s"] = measured
    row["share_of_bound"] = measured / found.bound_decode_tok_s
    above = above_bound(measured, found.bound_decode_tok_s)
    row["reasons"] = ["ABOVE_BOUND"] if above and found.bound_sure else []
    row["share_of_expected"] = None if found.decode_tok_s is None else measured / found.decode_tok_s
    row["against_interval"] = found.against(measured)
    row["causes"] = [dataclasses.asdict(cause) for cause in causes(asked)]
    if above and not found.bound_sure:
        why = "the bytes of weights or cache are a guess, so a figure above the bound may be right"
        row["absent"] = [*row["absent"], f"reasons: {why}"]


def _why_lines(row: dict[str, Any]) -> list[str]:
    """Why a measured rate is below the interval, for people."""
    if row.get("against_interval") != "below":
        return []
    lines = [
        "",
        f"{row['gpu']}, {row['model']}, {row['quant']}: {row['measured_tok_s']:g} tok/s is "
        f"{row['share_of_expected']:.0%} of the {row['decode_tok_s']:.3g} expected "
        f"({row['low']:.3g} .. {row['high']:.3g}). Likely causes, most likely first:",
    ]
    for number, cause in enumerate(row["causes"], 1):
        rate = cause["expected_tok_s"]
        would = "" if rate is None else f" (would give about {rate:.3g} tok/s)"
        lines += [f"{number}. {cause['cause']}{would}", f"   Check: {cause['check']}"]
    return lines


def _add_energy(row: dict[str, Any], found: Prediction, gpu: Gpu) -> None:
    """Joules of the boards for each new token, in decode: what they draw, and at most."""
    from bench.predict.board_power import joules

    figures, why = joules(gpu, found)
    row |= figures
    if why:
        row["absent"] = [*row["absent"], f"energy_per_output_token_j: {why}"]


def _columns(args: argparse.Namespace) -> list[Any]:
    from bench.report.tables import Column, column

    def interval(low: str, high: str, heading: str) -> Column:
        def show(row: Any) -> str:
            found = row.get(low), row.get(high)
            return "-" if None in found else f"{found[0]:.3g} .. {found[1]:.3g}"

        return Column(heading=heading, show=show)

    columns = [column("gpu"), column("model"), column("engine"), column("quant")]
    if args.n_batch != [1]:
        columns.append(column("n_batch", "batch"))
    if args.option:
        columns.append(column("kv_cache_dtype", "cache"))
    columns += [
        column("decode_tok_s", "decode tok/s", ".3g"),
        interval("low", "high", "90% interval"),
        column("bound_decode_tok_s", "bound", ".4g"),
        column("limited_by", "limited by"),
        column("prefill_tok_s", "prefill tok/s", ".3g"),
        column("power_w", "W", ".0f"),
        column("energy_per_output_token_j", "J/token", ".2g"),
        column("fit"),
    ]
    if args.min_tok_s is not None or args.max_usd_per_mtok is not None:
        columns.append(column("meets"))
    if args.rent is not None or args.max_usd_per_mtok is not None or args.min_tok_s is not None:
        columns.append(column("usd_per_mtok", "$/Mtok", ".3g"))
        columns.append(interval("usd_per_mtok_low", "usd_per_mtok_high", "90% interval"))
    if args.measured is not None:
        columns.append(column("share_of_bound", "measured / bound", ".0%"))
        columns.append(column("share_of_expected", "/ expected", ".0%"))
        columns.append(Column(heading="", show=lambda row: " ".join(row["reasons"])))
    return columns


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """What the table cannot say, each thing once."""
    notes = [f"wider interval: {text}" for row in rows for text in row["extrapolates"]]
    notes += [text for row in rows for text in row["absent"]]
    if any(row["fit"] == "offload" for row in rows):
        notes.append(
            "offload: the rest is read from the host's memory (--host-bandwidth, --host-memory)"
        )
    return list(dict.fromkeys(notes))
