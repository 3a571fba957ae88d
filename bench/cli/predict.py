"""`bench predict`: throughput on a card you do not have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import add_output

if TYPE_CHECKING:
    from bench.models import ModelCard
    from bench.predict import Prediction
    from bench.roofline.gpus import Gpu

EPILOG = """\
examples:
  bench predict -m llama-3.1-8b -q q4_k_m --gpu rtx-4080,rtx-4080-super
  bench predict -m llama-3.1-8b -q none,fp8-dynamic -e vllm --gpu all -o json
  bench predict -m deepseek-r1 -q ud-iq1_s --gpu h100-sxm --n-gpus 2 --rent 6.98
  bench predict --weights-bytes 4.9e9 -q q4_k_m --gpu rtx-3060
  bench predict -m llama-3.1-8b -q fp16 --gpu rtx-5080 --measured 68

The interval holds 90 of 100 new measurements where the question is like those fitted
(docs/predict.md). No prediction is above the bound.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "predict",
        help="throughput on a card you do not have, with an interval and the bound",
        description="Predicts decode and prefill rates from published measurements.",
        epilog=EPILOG,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-m", "--model", help="models, with commas (see `bench models`)")
    what.add_argument(
        "--weights-bytes",
        type=_bytes,
        metavar="N",
        help="bytes of the weights in this scheme, for a dense model without a card",
    )
    parser.add_argument("-q", "--quant", default="none", help="schemes, with commas")
    parser.add_argument("-e", "--engine", default="llama.cpp", help="engines (default: llama.cpp)")
    parser.add_argument("--gpu", default="all", help="cards, with commas (default: all)")
    parser.add_argument("-p", "--n-prompt", type=_whole, default=512, metavar="N")
    parser.add_argument("-n", "--n-gen", type=_whole, default=128, metavar="N")
    parser.add_argument("-b", "--n-batch", type=_wholes, default=[1], metavar="N,...")
    parser.add_argument(
        "--n-gpus", type=_whole, default=1, metavar="N", help="cards that share the model"
    )
    parser.add_argument(
        "--measured",
        type=float,
        metavar="TOK_S",
        help="a decode rate that somebody states: is it possible?",
    )
    parser.add_argument(
        "--rent", type=float, metavar="USD_PER_HOUR", help="price of all the cards, for $/Mtok"
    )
    parser.add_argument(
        "--with",
        dest="results",
        action="append",
        default=[],
        type=Path,
        metavar="RESULTS",
        help="own results to fit on as well",
    )
    add_output(parser)
    return parser


def _bytes(text: str) -> int:
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes") from None
    if value < 10_000_000:
        raise argparse.ArgumentTypeError(f"{text}: less than 10 MB is no language model")
    return value


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _wholes(text: str) -> list[int]:
    return [_whole(part) for part in text.split(",")]


def run(args: argparse.Namespace) -> int:
    """Predict every combination."""
    import sys

    from bench.errors import InputError
    from bench.predict import Predictor
    from bench.predict.names import engine_for
    from bench.predict.user_rows import rows_of
    from bench.report.tables import render
    from bench.schemes import meant
    from bench.schemes.bytes import check_quant

    for name in ("measured", "rent"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name}: must be above 0")
    engines = [engine_for(name) for name in args.engine.split(",")]
    quants = [meant(quant, e) for e in engines for quant in args.quant.split(",")]
    for quant in quants:
        check_quant(quant)
    cards = _cards(args.gpu)
    extra, skipped = rows_of(args.results)
    for line in skipped:
        print(f"bench: {line}", file=sys.stderr)
    predictor = Predictor(extra)
    rows = [
        _row(found, gpu, args)
        for engine in engines
        for asked in dict.fromkeys(meant(q, engine) for q in args.quant.split(","))
        for model in _models(args, asked)
        for quant in [_stored(model, asked)]
        for gpu in cards
        for n_batch in args.n_batch
        for found in [
            predictor.predict(
                model,
                gpu,
                quant,
                engine,
                n_prompt=args.n_prompt,
                n_gen=args.n_gen,
                n_batch=n_batch,
                n_gpus=args.n_gpus,
            )
        ]
    ]
    print(render(rows, _columns(args), args.output), end="")
    if args.output == "md":
        for line in _notes(rows):
            print(f"bench: {line}", file=sys.stderr)
    return 0


def _cards(names: str) -> list[Gpu]:
    from bench.roofline.gpus import gpus, resolve_gpu

    if names == "all":
        return list(gpus().values())
    return [resolve_gpu(name.strip()) for name in names.split(",")]


def _models(args: argparse.Namespace, quant: str) -> list[ModelCard]:
    from bench.models import resolve_model
    from bench.predict.names import card_of_size

    if args.weights_bytes is not None:
        return [card_of_size(args.weights_bytes, quant)]
    return [resolve_model(name.strip()).card for name in args.model.split(",")]


def _stored(card: ModelCard, quant: str) -> str:
    """The scheme that a folder is quantized in already, where none was asked for."""
    from bench.errors import InputError
    from bench.models.checkpoint import stated

    found = stated(card.architecture)
    if found is None or quant in ("none", "f16", found.scheme):
        return found.scheme if found is not None else quant
    raise InputError(f"{card.name} is quantized already, in '{found.scheme}': leave -q out")


def _row(found: Prediction, gpu: Gpu, args: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    from bench.cost import usd_per_mtok
    from bench.roofline import above_bound

    row: dict[str, Any] = dataclasses.asdict(found)
    row["extrapolates"] = list(found.extrapolates)
    row["absent"] = [f"{figure}: {why}" for figure, why in found.absent.items()]
    _add_energy(row, found, gpu)
    if args.rent is not None and found.decode_tok_s is not None:
        for key, rate in (
            ("usd_per_mtok", found.decode_tok_s),
            ("usd_per_mtok_low", found.high),
            ("usd_per_mtok_high", found.low),
        ):
            row[key] = None if rate is None else usd_per_mtok(rate, args.rent)
    if args.measured is not None:
        row["measured_tok_s"] = args.measured
        row["share_of_bound"] = args.measured / found.bound_decode_tok_s
        row["reasons"] = (
            ["ABOVE_BOUND"] if above_bound(args.measured, found.bound_decode_tok_s) else []
        )
    return row


def _add_energy(row: dict[str, Any], found: Prediction, gpu: Gpu) -> None:
    """Joules of the boards for each new token, in decode: what they draw, and at most."""
    from bench.predict.board_power import expected_share

    share = expected_share(gpu, found.n_batch)
    if gpu.tdp_w is None:
        return
    limit_w = gpu.tdp_w * found.n_gpus
    if found.decode_tok_s is None or found.low is None or found.high is None:
        return
    row["energy_per_output_token_j_max"] = limit_w / found.low
    for key in ("energy_per_output_token_j", "energy_low_j", "energy_high_j"):
        row[key] = None
    if share is None:
        why = "energy_per_output_token_j: no published power of a GDDR card"
        row["absent"] = [*row["absent"], why]
        return
    row["energy_per_output_token_j"] = limit_w * share.median / found.decode_tok_s
    row["energy_low_j"] = limit_w * share.low / found.high
    row["energy_high_j"] = limit_w * share.high / found.low


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
    columns += [
        column("decode_tok_s", "decode tok/s", ".3g"),
        interval("low", "high", "90% interval"),
        column("bound_decode_tok_s", "bound", ".4g"),
        column("limited_by", "limited by"),
        column("prefill_tok_s", "prefill tok/s", ".3g"),
        column("energy_per_output_token_j", "J/token", ".2g"),
        Column(heading="fits", show=lambda row: "yes" if row["fits"] else "no"),
    ]
    if args.rent is not None:
        columns.append(column("usd_per_mtok", "$/Mtok", ".3g"))
        columns.append(interval("usd_per_mtok_low", "usd_per_mtok_high", "90% interval"))
    if args.measured is not None:
        columns.append(column("share_of_bound", "measured / bound", ".0%"))
        columns.append(Column(heading="", show=lambda row: " ".join(row["reasons"])))
    return columns


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """What the table cannot say, each thing once."""
    notes = [f"wider interval: {text}" for row in rows for text in row["extrapolates"]]
    notes += [text for row in rows for text in row["absent"]]
    if any(not row["fits"] for row in rows):
        notes.append("where it does not fit, the rate is that of a card with more memory")
    return list(dict.fromkeys(notes))
