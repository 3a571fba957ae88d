"""What `bench compare` would say of decoding, for the words under the table of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bench.comparison import Rules, compare
from bench.comparison.row import Compared
from bench.errors import InputError
from bench.experiment import Gate
from bench.records.codes import excludes
from bench.records.file import Results
from bench.summary import Sizes


def verdicts(
    results: Results, gate: Gate, versus: Mapping[str, str]
) -> Mapping[tuple[str, Sizes], Compared]:
    """Arm and workload -> the verdict on decoding, where there are pairs enough for one.

    `versus`: arm -> its baseline. Empty where `bench compare` would refuse, or its statistics are
    not installed.
    """
    try:
        found = compare(results, Rules(gate=gate), versus=versus)
    except (InputError, ImportError):
        return {}
    return {
        (row.candidate, row.sizes): row
        for row in found
        if row.metric == "decode" and row.sizes and "TOO_FEW_PAIRS" not in row.reasons
    }


SAID: Final = {"higher": "faster", "lower": "slower", "same": "as fast"}


def in_words(verdict: Compared) -> str:
    """A verdict as `bench compare` has it, with what keeps it from being one."""
    if verdict.verdict in SAID:
        return SAID[verdict.verdict]
    codes = ", ".join(f"`{code}`" for code in against(verdict))
    return f"no verdict: {codes or 'the interval does not decide'}"


def against(verdict: Compared) -> list[str]:
    """The codes because of which there is no verdict."""
    return [code for code in verdict.reasons if verdict.verdict == "invalid" and excludes(code)]
