"""The row of `bench cost`: one variant at one workload, priced one way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(slots=True, kw_only=True)
class CostRow:
    """What a million tokens cost, and what that rests on. A missing figure is None."""

    variant: str
    """Measured variant, or the API."""
    basis: Literal["rent", "own", "api"]
    scenario: str | None = None
    gpu: str | None = None
    """Card that is priced."""
    gpus: int | None = None
    device: str | None = None
    """Card that was measured."""
    backend: str | None = None
    """What ran on it, where an imported tool says so."""
    environment: str | None = None
    n_prompt: int
    n_gen: int
    n_batch: int | None = None
    requests: str | None = None
    """What was asked for, where lengths differ: the two are then their means."""
    slo: str | None = None
    """Limits that it is priced at the highest load of."""
    requests_s: float | None = None
    """Arrivals a second at that load."""
    user_tok_s: float | None = None
    """New tokens a second of one user there."""
    cached_share: float | None = None
    """Of its prompts' tokens, what came from a cache, as measured."""
    total_tok_s: float | None = None
    """Input and output tokens a second, geometric mean of the replicates."""
    n_replicates: int | None = None
    origin: str | None = None
    utilization: float | None = None
    usd_per_busy_hour: float | None = None
    usd_per_available_hour: float | None = None
    """An hour in which it is kept ready, busy or not: what reserving it costs."""
    usd_per_hour_per_request_s: float | None = None
    """The same for each request a second that it can take within the limits."""
    usd_per_request: float
    """One sequence of n_prompt and n_gen tokens."""
    usd_per_mtok: float | None
    """A million tokens, input and output, at the workload's mix or at the one asked for."""
    usd_per_mtok_computed: float | None = None
    """The same over the tokens that were computed: prompts' tokens from a cache left out."""
    ci_low: float | None = None
    """95% interval from the measurement of throughput alone."""
    ci_high: float | None = None
    band_low: float | None = None
    """Middle 95% of the draws from the scenario's ranges, at the measured throughput."""
    band_high: float | None = None
    usd_per_mtok_input: float | None = None
    """Adds up with the next: c_in n_prompt + c_out n_gen = usd_per_request."""
    usd_per_mtok_output: float | None = None
    split_method: Literal["mixes", "prefill-decode", "rows-apart", "none", "list-price"]
    split_rho: float | None = None
    """Price of an output token over that of an input token."""
    energy_source: str
    """Where the watts come from, or that the price includes electricity."""
    power_limit_w: float | None = None
    """Power limit of each card while it was measured; its data sheet's where none was read."""
    busy_w: float | None = None
    idle_w: float | None = None
    idle_source: str | None = None
    """Where the idle watts come from; None if nothing gives them."""
    energy_wh_per_mtok: float | None = None
    """Busy and idle, with PUE, at the workload's mix."""
    co2_g_per_mtok: float | None = None
    """Only if an intensity was given."""
    cheapest_batch: bool | None = None
    """Whether no other batch of this workload is cheaper; None if there is no other."""
    against: str | None = None
    """API of the break-even figures."""
    against_usd_per_mtok: float | None = None
    break_even_utilization: float | None = None
    """Busy share at which the machine costs what the API asks."""
    break_even_tok_s: float | None = None
    """Total tok/s at which it does, at the scenario's utilization."""
    months_to_pay_back: float | None = None
    price_date: str | None = None
    """Day of the machine's price; first day of an API's."""
    price_source: str | None = None
    price_age_days: int | None = None
    """Age of the oldest of its dated prices on the day that is priced for."""
    assumptions: str
    valid: bool = True
    reasons: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    """`figure: why it is missing`."""

    def table(self) -> dict[str, Any]:
        """The row for output; lists for tuples, as JSON has them."""
        return {
            name: list(value) if isinstance(value := getattr(self, name), tuple) else value
            for name in KEYS
        }


KEYS = tuple(field.name for field in dataclasses.fields(CostRow))
