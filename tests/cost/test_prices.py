"""The price books: what ships, what is in force when, and every fault a row can have."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from bench.cli import cost as cost_verb
from bench.cli import prices as verb
from bench.cost import books, prices
from bench.cost.books import ApiPrice, Price
from bench.errors import InputError

MAY_2025 = datetime.date(2025, 5, 1)
LATE_2026 = datetime.date(2026, 11, 23)


def test_the_shipped_books_have_no_problems() -> None:
    assert books.validate_prices() == []


def test_every_shipped_price_says_where_and_when_it_was_read() -> None:
    for kind in books.KINDS:
        assert books.book(kind)
        for row in books.book(kind):
            assert row.source
            assert row.since is None or row.source_date is not None
            assert row.since is not None or "date" in row.note


def test_list_prices_of_the_claim() -> None:
    r1 = prices.api_price("deepseek/deepseek-r1", MAY_2025)
    o1 = prices.api_price("openai/o1", MAY_2025)

    assert (r1.input / o1.input, r1.output / o1.output) == (
        pytest.approx(0.03667, abs=5e-6),
        pytest.approx(0.0365, abs=5e-6),
    )


@pytest.mark.parametrize(
    ("day", "usd"), [("2025-01-30", 3.0), ("2025-01-31", 1.1), ("2026-11-23", 1.1)]
)
def test_a_price_ends_on_the_day_the_next_begins(day, usd) -> None:
    assert prices.api_price("openai/o1-mini", datetime.date.fromisoformat(day)).input == usd


def test_off_peak_is_asked_for_by_name() -> None:
    assert prices.api_price("deepseek/deepseek-r1", MAY_2025).output == 2.19
    assert prices.api_price("deepseek/deepseek-r1", MAY_2025, offer="off-peak").output == 0.55


def test_the_market_is_a_range_of_what_is_in_force() -> None:
    market = prices.gpu_rent("RTX 4090", LATE_2026)

    amounts = [row.amount for row in market.prices]
    assert all(row.in_force(LATE_2026) and row.offer == "on-demand" for row in market.prices)
    assert (market.low, market.high) == (min(amounts), max(amounts))
    assert market.low < market.mode < market.high


def test_the_best_grade_gives_the_likeliest_price() -> None:
    market = prices.gpu_rent("H200 SXM", LATE_2026)

    primary = [row.amount for row in market.prices if row.grade == "primary"]
    assert [market.mode] == primary


@pytest.mark.parametrize(
    "name", ["RTX 4080 SUPER", "rtx-4080-super", "NVIDIA GeForce RTX 4080 SUPER"]
)
def test_a_card_is_found_by_any_of_its_names(name) -> None:
    assert prices.gpu_purchase(name, LATE_2026).low == 999


@pytest.mark.parametrize(
    ("driver", "card"),
    [
        ("NVIDIA GeForce RTX 4080 SUPER", "RTX 4080 SUPER"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("AMD Instinct MI300X", "MI300X"),
        ("Some other card", "Some other card"),
    ],
)
def test_card_names_of_drivers(driver, card) -> None:
    assert prices.card_name(driver) == card


@pytest.mark.parametrize(
    ("driver", "listed"),
    [
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA A40", "A40"),
        ("NVIDIA H100 NVL", "H100 NVL 94 GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB"),
    ],
)
def test_cards_that_only_the_books_know_are_found_by_their_driver_s_name(driver, listed) -> None:
    assert prices.plain(prices.card_name(driver)) == prices.plain(listed)


def test_an_unknown_card_names_the_nearest_and_the_flag() -> None:
    with pytest.raises(InputError, match=r"unknown card 'RTX 4091'; did you mean .*--rent"):
        prices.gpu_rent("RTX 4091", LATE_2026)


def test_an_undated_price_never_counts_but_is_named() -> None:
    with pytest.raises(InputError, match=r"have no date; listed: 0.24 USD/h; give --rent"):
        prices.gpu_rent("RTX 4080 SUPER", LATE_2026)


def test_an_expired_price_names_its_days_and_the_flag() -> None:
    with pytest.raises(InputError, match=r"in force on 2030-01-01: .*2027.*give --rent"):
        prices.gpu_rent("RTX 4090", datetime.date(2030, 1, 1))
    with pytest.raises(InputError, match=r"2025-01-20 to 2025-09-05 .*--against INPUT:OUTPUT"):
        prices.api_price("deepseek/deepseek-r1", LATE_2026)
    with pytest.raises(InputError, match="--kwh"):
        prices.electricity("us", LATE_2026)


def test_a_price_before_its_first_day_is_not_in_force() -> None:
    with pytest.raises(InputError, match="no price of openai/o1 is in force on 2024-12-16"):
        prices.api_price("openai/o1", datetime.date(2024, 12, 16))


def test_other_currencies_need_a_rate() -> None:
    assert prices.to_usd(31, "JPY", {"JPY": 0.0067}) == pytest.approx(0.2077)
    assert prices.to_usd(31, "USD", {}) == 31
    with pytest.raises(InputError, match="--rate JPY=USD"):
        prices.to_usd(31, "JPY", {"EUR": 1.1})


GOOD = {
    "item": "RTX 1",
    "provider": "Shop",
    "offer": "on-demand",
    "amount": "0.5",
    "currency": "USD",
    "unit": "h",
    "from": "2025-01-01",
    "until": "2026-01-01",
    "grade": "primary",
    "source": "https://example.org",
    "source_date": "2025-01-01",
    "listed_as": "rtx1",
    "note": "",
}


def book(tmp_path: Path, *rows: dict[str, str], kind: str = "rent") -> Path:
    """A book with those rows."""
    path = tmp_path / f"{kind}.csv"
    columns = books.COLUMNS[kind]
    lines = [",".join(columns)]
    lines += [",".join((GOOD | row).get(name, "") for name in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_good_row_is_read(tmp_path) -> None:
    rows, problems = books.read_book("rent", book(tmp_path, GOOD))

    assert problems == []
    assert isinstance(rows[0], Price)
    assert (rows[0].amount, rows[0].since) == (0.5, datetime.date(2025, 1, 1))
    assert rows[0].place.endswith("rent.csv:2")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"amount": "0"}, "amount: '0' is not an amount above 0"),
        ({"amount": "nan"}, "amount: 'nan'"),
        ({"amount": ""}, "amount: ''"),
        ({"from": "2025-13-01"}, "from: '2025-13-01' is not a date"),
        ({"until": "2025-01-01"}, "until: 2025-01-01 is not after 2025-01-01"),
        ({"source": ""}, "source: missing"),
        ({"source_date": ""}, "source_date: missing"),
        ({"item": ""}, "item: missing"),
        ({"provider": ""}, "provider: missing"),
        ({"unit": "day"}, "unit: 'day' is not one of h"),
        ({"offer": "cheap"}, "offer: 'cheap' is not one of on-demand"),
        ({"grade": "good"}, "grade: 'good' is not one of primary"),
        ({"currency": "dollars"}, "currency: 'dollars' is not a code"),
        ({"from": "", "until": ""}, "from: missing; a price without a date needs a note"),
    ],
)
def test_a_fault_is_named_with_its_line_and_column(tmp_path, wrong, said) -> None:
    path = book(tmp_path, GOOD, {"item": "RTX 2", **wrong})

    problems = books.read_book("rent", path)[1]

    assert any(problem.startswith(f"{path}:3: {said}") for problem in problems), problems


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"from": "2025-06-01", "until": ""},
        {"item": "rtx 1", "from": "2024-01-01", "until": "2025-01-02"},
    ],
    ids=["the same", "no end", "one day too long"],
)
def test_two_prices_of_one_offer_for_one_day_are_a_problem(tmp_path, row) -> None:
    problems = books.read_book("rent", book(tmp_path, GOOD, row))[1]

    assert len(problems) == 1
    assert "on the same days" in problems[0]


def test_one_offer_after_the_other_is_no_problem(tmp_path) -> None:
    later = {"from": "2026-01-01", "until": ""}

    assert books.read_book("rent", book(tmp_path, GOOD, later))[1] == []


def test_mixed_currencies_of_one_item_are_a_problem(tmp_path) -> None:
    other = {"provider": "Laden", "currency": "EUR"}

    problems = books.read_book("rent", book(tmp_path, GOOD, other))[1]

    assert "currency: EUR, but USD" in problems[0]


def test_wrong_columns_and_short_lines_are_problems(tmp_path) -> None:
    path = tmp_path / "rent.csv"
    path.write_text("item,price\nRTX 1,1\n")
    assert "missing ['amount'" in books.read_book("rent", path)[1][0]

    path = book(tmp_path, GOOD)
    path.write_text(path.read_text() + "RTX 2,Shop\n")
    assert books.read_book("rent", path)[1] == [f"{path}:3: 2 cells, expected 13"]


def test_every_problem_of_every_book_is_listed(tmp_path) -> None:
    for kind in books.KINDS:
        book(tmp_path, {"item": "", "amount": "x"}, {"currency": "?"}, kind=kind)

    problems = books.validate_prices(tmp_path)

    for kind in books.KINDS:
        assert sum(f"{kind}.csv:2:" in problem for problem in problems) >= 2
        assert any(f"{kind}.csv:3: currency" in problem for problem in problems)


def test_a_missing_book_is_a_problem(tmp_path) -> None:
    assert len(books.validate_prices(tmp_path)) == len(books.KINDS)


def test_a_broken_book_gives_no_price(tmp_path) -> None:
    book(tmp_path, {"amount": "-1"})

    with pytest.raises(InputError, match=r"rent\.csv:2: amount"):
        prices.find("rent", folder=tmp_path)


def test_an_api_without_a_cached_price_has_none() -> None:
    assert prices.api_price("openai/o1-pro", MAY_2025).cached_input is None


# The verb.


def run(capsys, *argv: str) -> str:
    """Standard output of `bench prices ARGV`."""
    import argparse

    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    assert verb.run(parser.parse_args(argv)) == 0
    return str(capsys.readouterr().out)


def test_the_verb_lists_what_was_in_force(capsys) -> None:
    rows = json.loads(run(capsys, "--on", "2025-05-01", "--kind", "api", "-o", "json"))

    assert {"openai/o1", "deepseek/deepseek-r1"} <= {row["item"] for row in rows}
    assert all(row["from"] <= "2025-05-01" for row in rows)
    assert all(row["source"] and row["source_date"] for row in rows)


def test_the_verb_filters_by_text_and_shows_undated_rows(capsys) -> None:
    text = run(capsys, "--kind", "rent", "4080 super")

    assert "0.24 USD/h" in text
    assert "4090" not in text


def test_the_verb_says_that_nothing_was_found(capsys) -> None:
    import argparse

    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    verb.run(parser.parse_args(["nonesuch"]))

    caught = capsys.readouterr()
    assert caught.out == ""
    assert "no such price" in caught.err


def test_a_wrong_day_is_refused() -> None:
    import argparse

    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    with pytest.raises(InputError, match="--on: 'May' is not a date"):
        verb.run(parser.parse_args(["--on", "May"]))


def test_every_message_names_a_flag_that_exists() -> None:
    import argparse

    flags = cost_verb.add(argparse.ArgumentParser().add_subparsers()).format_help()

    for text in prices.FLAGS.values():
        assert text.split()[0] in flags


def test_rows_of_an_api_hold_no_amount_of_their_own() -> None:
    for row in prices.find("api"):
        assert isinstance(row, ApiPrice)
        assert row.input < row.output


def test_the_books_name_cards_as_the_catalog_does() -> None:
    """Else a card that was measured would not find its price; `H100` alone names several."""
    for kind in ("rent", "purchase"):
        for item in {row.item for row in books.book(kind)} - {"H100"}:
            assert prices.plain(prices.card_name(item)) == prices.plain(item), item
