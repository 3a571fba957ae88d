"""The report in a real browser: no errors, the explorer's sums, tables, phone, accessibility.

Needs a Chromium on the machine (Debian: `apt-get install chromium`); without one it is skipped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import cost
from bench.cost.throughput import throughputs
from bench.report.page import PageOptions, assemble
from bench.report.page.webpage import to_html
from tests.report_results import environment, record, write, write_card

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason=f"no browser: none of {', '.join(NAMES)}"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Without a sandbox, as a container's root has none; the page is our own.
        browser = driver.chromium.launch(executable_path=FOUND, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_card(tmp_path_factory.mktemp("browser") / "card", pairs=6)


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    path = folder / "report.html"
    report = assemble([folder], PageOptions(claims=("vllm-fp8", "int8-dynamic-doubles-speed")))
    path.write_text(to_html(report), encoding="utf-8")
    return path


class Opened:
    """A page that was opened, and everything it complained about."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.page = browser.new_page(**context)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def set(self, name: str, value: float) -> None:
        self.page.fill(f"#set-{name}", str(value))

    def costs(self) -> list[float]:
        cells = self.page.locator("#explore-costs tbody td[data-cost]")
        return [float(cells.nth(i).get_attribute("data-cost")) for i in range(cells.count())]


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    found = Opened(browser, file)
    yield found
    assert found.complaints == []
    found.page.close()


def test_it_opens_from_disk_without_a_word_or_a_request(opened: Opened, file: Path) -> None:
    assert opened.page.title().startswith("Does 8-bit make an 8B model")
    assert opened.requests == [file.as_uri()]
    assert opened.page.locator("#explore").is_visible()


RENTS = [(2.0, 0.5), (0.42, 0.3), (3.7, 1.0), (0.05, 0.07)]


@pytest.mark.parametrize(("rent", "utilization"), RENTS)
def test_rented_cost_is_that_of_the_formula(
    opened: Opened, folder: Path, rent: float, utilization: float
) -> None:
    opened.set("rent_per_hour", rent)
    opened.set("utilization", utilization)
    assert opened.costs() == pytest.approx(
        [cost.usd_per_mtok(one.total_tok_s, rent, utilization) for one in measured(folder)],
        rel=1e-12,
    )


OWNED = [
    {
        "price": 1200,
        "years": 3,
        "rate_of_return": 0.08,
        "salvage_share": 0.3,
        "host_price": 800,
        "electricity_per_kwh": 0.17,
        "watts_host": 100,
        "watts_idle": 80,
        "utilization": 0.1,
    },
    {
        "price": 30000,
        "years": 5,
        "rate_of_return": 0,
        "salvage_share": 0,
        "host_price": 0,
        "electricity_per_kwh": 0.31,
        "watts_host": 350,
        "watts_idle": 200,
        "utilization": 0.9,
        "pue": 1.4,
    },
    {
        "price": 999,
        "years": 2.5,
        "rate_of_return": 0.2,
        "salvage_share": 0.9,
        "host_price": 10,
        "electricity_per_kwh": 0,
        "watts_host": 0,
        "watts_idle": 0,
        "utilization": 1,
    },
]


@pytest.mark.parametrize("values", OWNED)
def test_owned_cost_is_that_of_the_formula(
    opened: Opened, folder: Path, values: dict[str, float]
) -> None:
    opened.page.check("input[value=own]")
    for name, value in values.items():
        opened.set(name, value)
    bought = cost.Ownership(
        price_usd=values["price"],
        years=values["years"],
        rate_of_return=values["rate_of_return"],
        salvage_share=values["salvage_share"],
        host_usd=values["host_price"],
    )
    expected = []
    for one in measured(folder):
        assert one.power_w is not None
        machine = cost.owned(
            bought,
            utilization=values["utilization"],
            usd_per_kwh=values["electricity_per_kwh"],
            busy_w=one.power_w + values["watts_host"],
            idle_w=values["watts_idle"],
            pue=values.get("pue", 1.0),
        )
        expected.append(cost.usd_per_mtok(one.total_tok_s, machine.usd_per_busy_hour()))
    assert opened.costs() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mix", [0.05, 3.0, 20.0])
def test_another_mix_is_priced_by_the_split(opened: Opened, folder: Path, mix: float) -> None:
    from bench.cost.pricing import token_times

    opened.page.check("#own-mix")
    opened.set("mix", mix)
    items = measured(folder)
    expected = []
    for one, time in zip(items, token_times(items), strict=True):
        assert time is not None
        request = cost.usd_per_mtok(one.total_tok_s, 2.0, 0.5) * one.request_tokens / 1e6
        each = cost.split(request, one.n_prompt, one.n_gen, time.rho)
        expected.append(cost.at_mix(each[0] * 1e6, each[1] * 1e6, (mix, 1.0)))
    assert opened.costs() == pytest.approx(expected, rel=1e-12)


def measured(folder: Path) -> list[Any]:
    from bench.records.file import read

    return throughputs(read(folder))


def test_a_slider_moves_by_the_keyboard_and_the_cost_with_it(opened: Opened) -> None:
    before = opened.costs()
    slider = opened.page.locator("#set-utilization-range")
    slider.focus()
    opened.page.keyboard.press("ArrowRight")
    share = float(slider.input_value())
    assert share > 0.5
    assert opened.costs() == pytest.approx([value * 0.5 / share for value in before])
    assert float(opened.page.input_value("#set-utilization")) == pytest.approx(share, rel=1e-3)


def test_it_says_which_assumption_dominates(opened: Opened) -> None:
    said = opened.page.locator("#dominant")
    assert "Busy share of paid or powered hours dominates" in said.inner_text()
    first = opened.page.locator("#explore-drivers tbody tr").first.inner_text()
    assert "0.1 to 0.6" in first
    assert "6.00×" in first
    assert "−1.00%" in first
    # With a range no wider than a point left to it, the next one dominates.
    opened.page.check("input[value=own]")
    opened.set("electricity_per_kwh", 0.8)
    drivers = opened.page.locator("#explore-drivers tbody th").all_inner_texts()
    assert "Price of the card" in drivers
    assert "Rent" not in drivers


def test_nonsense_in_a_field_changes_nothing(opened: Opened) -> None:
    before = opened.costs()
    for text in ("", "-1", "0"):
        opened.page.fill("#set-rent_per_hour", text)
    opened.page.fill("#set-utilization", "1.5")
    assert opened.costs() == before


def test_tables_sort_and_filter(opened: Opened) -> None:
    table = opened.page.locator("#m1-table")
    head = table.locator("thead th").nth(2)
    for wanted, order in (("ascending", 1), ("descending", -1)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == wanted
        cells = table.locator("tbody td:nth-child(3)")
        values = [float(cells.nth(i).get_attribute("data-v")) for i in range(cells.count())]
        assert values == sorted(values, reverse=order < 0)
    opened.page.fill("#m1-table-filter", "fp8 ×16")
    shown = table.locator("tbody tr:visible")
    assert shown.count() == 1
    assert "fp8-dynamic" in shown.inner_text()
    opened.page.fill("#m1-table-filter", "")
    assert table.locator("tbody tr:visible").count() == 12


def test_a_figure_leads_to_the_records_behind_it(opened: Opened) -> None:
    line = opened.page.locator("#m1-table tbody tr", has_text="int8-weight-only").first
    line.locator("a[data-records]").click()
    rows = opened.page.locator("#m1-records tbody tr:visible")
    assert rows.count() == 6
    assert all("int8-weight-only" in text and "×1" in text for text in rows.all_inner_texts())
    opened.page.fill("#m1-records-filter", "none")
    assert opened.page.locator("#m1-records tbody tr:visible").count() == 24


def test_the_records_can_be_saved(opened: Opened, folder: Path) -> None:
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="Save records.jsonl").click()
    saved = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    original = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(map(json.loads, saved), key=str) == sorted(map(json.loads, original), key=str)


def test_the_theme_follows_the_system_and_the_button(browser: Any, file: Path) -> None:
    found = Opened(browser, file, color_scheme="dark")

    def background() -> str:
        return str(found.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = background()
    found.page.click("#theme")
    light = background()
    assert dark != light == "rgb(255, 255, 255)"
    assert found.page.inner_text("#theme") == "Dark theme"
    assert found.complaints == []
    found.page.close()


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_does_not_scroll_sideways(browser: Any, file: Path, width: int) -> None:
    found = Opened(browser, file, viewport={"width": width, "height": 844})
    found.page.check("input[value=own]")
    found.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    found.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser: Any, file: Path, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Opened(browser, file, color_scheme=scheme)
    found.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    results = Axe().run(found.page).response
    faults = [
        f"{fault['id']}: {fault['nodes'][0]['html'][:200]}"
        for fault in results["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert faults == []
    found.page.close()


def test_it_is_whole_without_javascript(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#m1-table tbody tr").count() == 12
    assert page.locator("#m1-forest .wide svg").is_visible()
    assert page.get_by_text("needs JavaScript").is_visible()
    assert not page.locator("#explore").is_visible()
    context.close()


def test_markup_in_a_name_shows_as_text(browser: Any, tmp_path: Path) -> None:
    evil = '<img src=x onerror="document.title=1">'
    named = record("fp8-dynamic", 1, 0).variant | {"name": f"m/t/{evil}", "quant": evil}
    lines = [environment()]
    for i in range(6):
        lines += [record("none", 1, i), record("fp8-dynamic", 1, i, variant=named, key=f"e{i}")]
    report = assemble([write(tmp_path, lines)], PageOptions(claims=()))
    file = tmp_path / "report.html"
    file.write_text(to_html(report), encoding="utf-8")
    found = Opened(browser, file)
    assert found.page.locator("img").count() == 0
    assert evil in found.page.inner_text("#m1-table")
    assert evil in found.page.inner_text("#explore-costs")
    assert found.page.title() != "1"
    assert found.complaints == []
    found.page.close()


def test_a_script_from_elsewhere_is_blocked(browser: Any, file: Path, tmp_path: Path) -> None:
    """The policy holds even if text got into the page as markup."""
    text = file.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(
        text.replace("<h1>", "<script>document.title = 'owned'</script><h1>"), "utf-8"
    )
    found = Opened(browser, broken)
    assert found.page.title() != "owned"
    assert any("Content Security Policy" in complaint for complaint in found.complaints)
    found.page.close()
