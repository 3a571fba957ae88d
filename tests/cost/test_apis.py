"""Prices of APIs on a fixed day: by hand, as the package sums them, and where there are none."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot

from bench.cli import main
from bench.cost import apis
from bench.cost.apis import api_on, as_of, hosted, hosters, same_model, search
from bench.cost.books import book
from bench.cost.prices import api_price
from bench.errors import InputError

DAY = datetime.date(2026, 11, 29)
NOON = datetime.datetime(2026, 11, 29, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("model", "batch", "n_in", "n_out", "cached", "usd"),
    [
        # 300 x 1.25 + 100 x 10 = 1,375 millionths
        ("openai/gpt-5", False, 300, 100, 0.0, 0.001375),
        # cached: 500 x 2.50 + 500 x 1.25 + 500 x 10 = 6,875 millionths
        ("openai/gpt-4o", False, 1000, 500, 0.5, 0.006875),
        # tiers, below and above 200,000 input tokens: 100,000 x 1.25 + 1,000 x 10 = 135,000
        ("google/gemini-2.5-pro", False, 100_000, 1000, 0.0, 0.135),
        ("google/gemini-2.5-pro", False, 200_000, 1000, 0.0, 0.26),
        # the whole request at the longer one's price: 300,000 x 2.50 + 1,000 x 15 = 765,000
        ("google/gemini-2.5-pro", False, 300_000, 1000, 0.0, 0.765),
        # batch, half of it cached: 500 x 0.625 + 500 x 0.0625 + 1,000 x 5 = 5,343.75 millionths
        ("openai/gpt-5", True, 1000, 1000, 0.5, 0.00534375),
        # batch and tiers: 300,000 x 1.25 + 1,000 x 7.50 = 382,500
        ("google/gemini-2.5-pro", True, 300_000, 1000, 0.0, 0.3825),
        # an open model at a hoster: 1,000 x 0.035 + 1,000 x 0.138 = 173 millionths
        ("openrouter/qwen/qwen3-8b", False, 1000, 1000, 0.0, 0.000173),
        # a small one with tiers: 120,000 x 0.50 + 500 x 2.50 = 61,250 millionths
        ("anthropic/claude-haiku-5.5", False, 120_000, 500, 0.0, 0.06125),
    ],
)
def test_worked_by_hand(
    model: str, batch: bool, n_in: int, n_out: int, cached: float, usd: float
) -> None:
    price = api_on(model, DAY, batch=batch)

    found = price.rates(n_in).usd_per_request(n_in, n_out, cached_share=cached)

    assert found == pytest.approx(usd, rel=1e-12)


def test_every_model_costs_what_the_package_computes() -> None:
    """All that are priced, at a short and a long request, with a tenth of the input cached."""
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            try:
                price = api_on(f"{provider.id}/{model.id}", DAY)
            except InputError:
                continue
            if not price.source.startswith("genai-prices"):
                continue
            for n_in in (1000, 400_000):
                share = 0.1 if price.cached_input is not None else 0.0
                usage = Usage(
                    input_tokens=n_in, cache_read_tokens=int(n_in * share), output_tokens=700
                )
                theirs = calc_price(
                    usage, model.id, provider_id=provider.id, genai_request_timestamp=NOON
                )
                ours = price.rates(n_in).usd_per_request(n_in, 700, cached_share=share)
                assert ours == pytest.approx(float(theirs.total_price), rel=1e-9), price.item
                compared += 1
    assert compared > 1000


# ---- the day decides ---------------------------------------------------------------------------


def test_a_price_with_history_is_that_of_the_day() -> None:
    model = "novita/meta-llama/llama-3.1-8b-instruct"

    assert api_on(model, datetime.date(2026, 10, 18)).input == 0.02
    with pytest.raises(InputError, match=r"no price of novita/.* is in force on 2026-10-17"):
        api_on(model, datetime.date(2026, 10, 17))  # until then 0.05, nobody says since when


def test_an_undated_price_counts_from_the_day_of_the_release() -> None:
    assert api_on("openai/gpt-5", as_of()).since == as_of()
    with pytest.raises(InputError, match="no price of openai/gpt-5 is in force"):
        api_on("openai/gpt-5", as_of() - datetime.timedelta(days=1))


def test_the_historic_rows_stay_ours_where_the_package_has_no_history() -> None:
    before = api_on("openai/o1-mini", datetime.date(2025, 1, 30))
    after = api_on("openai/o1-mini", datetime.date(2025, 1, 31))

    assert (before.input, before.output) == (3, 12)
    assert (after.input, after.output) == (1.1, 4.4)
    assert before.source.startswith("https://")
    assert api_on("openai/o1-mini", DAY).source.startswith("genai-prices")


@pytest.mark.parametrize(
    ("ours", "offer", "theirs", "hour"),
    [
        ("openai/o1", "list", ("openai", "o1"), 12),
        ("deepseek/deepseek-r1", "list", ("deepseek", "deepseek-reasoner"), 12),
        ("deepseek/deepseek-r1", "off-peak", ("deepseek", "deepseek-reasoner"), 20),
    ],
)
def test_our_row_and_the_package_agree(
    ours: str, offer: str, theirs: tuple[str, str], hour: int
) -> None:
    row = api_price(ours, datetime.date(2025, 5, 1), offer)
    at = datetime.datetime(2026, 11, 29, hour, tzinfo=datetime.UTC)

    def usd(**usage: int) -> float:
        price = calc_price(
            Usage(**usage), theirs[1], provider_id=theirs[0], genai_request_timestamp=at
        )
        return float(price.total_price)

    mega = 1_000_000
    assert usd(input_tokens=mega, output_tokens=0) == pytest.approx(row.input)
    assert usd(input_tokens=0, output_tokens=mega) == pytest.approx(row.output)
    cached = usd(input_tokens=mega, cache_read_tokens=mega, output_tokens=0)
    assert cached == pytest.approx(row.cached_input)


def test_a_price_that_our_book_saw_end_is_not_in_force_again() -> None:
    """The package still lists DeepSeek's R1 at the price that ended on 2025-09-05."""
    for name in ("deepseek-r1", "deepseek-reasoner", "deepseek-r1-0528"):  # one model's names
        with pytest.raises(InputError, match="the nearest counts from 2025-01-20 to 2025-09-05"):
            api_on(f"deepseek/{name}", DAY)


@pytest.mark.parametrize(
    ("model", "batch", "says"),
    [
        ("openai/o9", False, "unknown API model 'openai/o9'; did you mean 'openai/"),
        ("nobody/gpt-5", False, "unknown API model 'nobody/gpt-5'"),
        ("gpt-5", False, "unknown API model 'gpt-5'"),
        ("perplexity/sonar", False, "no price of its tokens alone"),  # asks for each request too
        ("openrouter/qwen3-8b:free", False, "no price of openrouter/qwen3-8b:free"),  # never 0
        ("openrouter/qwen/qwen3-8b", True, "no batch price of openrouter/qwen/qwen3-8b"),
        ("openai/o1", False, "no price of openai/o1 is in force on 2024-01-01"),
    ],
)
def test_without_a_price_it_says_so(model: str, batch: bool, says: str) -> None:
    day = datetime.date(2024, 1, 1) if "2024" in says else DAY
    with pytest.raises(InputError, match=says):
        api_on(model, day, batch=batch)


def test_prices_are_as_of_the_release_whatever_day_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package announces prices of 2026-12-01 and 2027: those make it no newer."""
    assert as_of() == datetime.date(2026, 11, 10)
    assert api_on("openai/gpt-5", datetime.date(2027, 6, 1)).source_date == as_of()
    monkeypatch.setattr(apis, "RELEASED", {})  # as of a version that came out later
    as_of.cache_clear()
    try:
        assert as_of() <= datetime.datetime.now(datetime.UTC).date()
        assert as_of() >= datetime.date(2026, 11, 9)  # the newest first day of a price in it
    finally:
        as_of.cache_clear()


# ---- who hosts the model that was measured -----------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", True),
        ("llama-3.1-8b", "llama-v3p1-8b-instruct", True),
        ("llama-3.1-8b", "llama3.1-8b", True),
        ("llama-3.1-8b@random", "@cf/meta/llama-3.1-8b-instruct-fp8", True),
        ("Qwen/Qwen3-8B", "qwen/qwen3-8b", True),
        ("bartowski/Qwen3-8B:Q4_K_M", "qwen/qwen3-8b", True),
        ("qwen3-8b", "deepseek/deepseek-r1-0528-qwen3-8b", False),
        ("qwen3-8b", "qwen3-vl-8b-instruct", False),
        ("qwen2.5-7b", "qwen2-57b", False),
        ("llama-3.1-8b", "llama-3.1-lumimaid-8b", False),
        ("llama-3.1-8b", "llama-3.1-80b", False),
        ("deepseek-r1", "deepseek-r1-0528", False),
    ],
)
def test_a_model_is_known_by_any_of_its_names(one: str, other: str, same: bool) -> None:
    assert (same_model(one) == same_model(other)) is same


def test_the_cheapest_and_the_median_hoster() -> None:
    prices = hosters("llama-3.1-8b", DAY)
    found = hosted("llama-3.1-8b", DAY, 1, 1)

    assert found.count == len(prices) == 11
    dollars = sorted(one.input + one.output for one in prices)
    assert found.cheapest.input + found.cheapest.output == dollars[0] == pytest.approx(0.07)
    assert found.median.input + found.median.output == dollars[5]
    assert found.cheapest.item == "huggingface_novita/meta-llama/Llama-3.1-8B-Instruct"


def test_a_model_that_nobody_hosts() -> None:
    with pytest.raises(InputError, match="knows no hoster of smollm2-135m-instruct"):
        hosters("smollm2-135m-instruct", DAY)


def test_results_that_name_no_model_have_no_hosters() -> None:
    with pytest.raises(InputError, match="the results name no model"):
        hosters("", DAY)


# ---- the user's own book -----------------------------------------------------------------------

OWN = """\
item,offer,input,cached_input,output,currency,unit,from,until,grade,source,source_date,note
openai/gpt-5,list,{amount},,8,USD,Mtok,2026-11-01,,primary,a contract of ours,2026-11-01,discounted
"""


@pytest.fixture
def own_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    file = tmp_path / "gpu-cost-bench" / "prices" / "api.csv"
    file.parent.mkdir(parents=True)
    book.cache_clear()
    yield file
    book.cache_clear()


def test_a_price_of_one_s_own_comes_first(own_api: Path) -> None:
    own_api.write_text(OWN.format(amount=1))

    price = api_on("openai/gpt-5", DAY)

    assert (price.input, price.output, price.source) == (1, 8, "a contract of ours")


def test_a_fault_in_one_s_own_book_is_named(own_api: Path) -> None:
    own_api.write_text(OWN.format(amount="cheap"))

    with pytest.raises(InputError, match=r"api.csv:2: input: 'cheap' is not an amount above 0"):
        api_on("openai/gpt-5", DAY)


def test_the_package_is_searched_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = {price.item: price for price in search("QWEN3-8b", DAY)}
    assert found["openrouter/qwen/qwen3-8b"].output == 0.138
    assert not any(":free" in name for name in found)

    assert main(["prices", "--kind", "api", "qwen3-8b", "--on", "2026-11-29"]) == 0
    out = capsys.readouterr().out
    assert "0.035 in, 0.138 out USD/Mtok" in out
    assert "api: newest price of 2026-11-10, 19 days old" in out
