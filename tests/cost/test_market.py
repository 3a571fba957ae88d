"""`bench prices --update`: gpuhunt's own client against providers' answers on 127.0.0.1.

The answers have the form of the real ones: catalogs as gpuhunt's project publishes them (a version
and a zipped CSV a provider), offers as vast.ai's API lists them.
"""

from __future__ import annotations

import datetime
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.cost import market, offers
from bench.cost.books import book, own_book, own_folder
from bench.cost.market import update
from bench.cost.prices import gpu_rent
from bench.errors import InputError, UnsupportedError
from tests.cost_results import write_results

TODAY = datetime.date(2026, 11, 29)
HEAD = (
    "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,"
    "gpu_vendor,flags,cpu_arch,provider_data"
)
RUNPOD = [
    "NVIDIA GeForce RTX 4090,EU-RO-1,0.69,6,41,1,RTX4090,24,False,,nvidia,,x86,{}",
    "NVIDIA GeForce RTX 4090,CA,0.34,6,41,1,RTX4090,24,False,,nvidia,,x86,{}",
    "NVIDIA GeForce RTX 4090,CA,0.68,12,82,2,RTX4090,24,False,,nvidia,,x86,{}",
    "NVIDIA H100 80GB HBM3,US-CA-2,2.99,16,188,1,H100,80,False,,nvidia,,x86,{}",
    "cpu3c-2-4,US-CA-2,0.06,2,4,0,,,False,,,runpod-cpu,x86,{}",
]
LAMBDA = [
    "gpu_1x_h200,us-east-1,3.59,26,225,1,H200,141,False,,nvidia,,x86,{}",
    "gpu_1x_rtx4090,us-east-1,0.50,14,46,1,RTX4090,24,False,,nvidia,,x86,{}",
    "gpu_1x_rtx4090,us-east-1,0.29,14,46,1,RTX4090,24,True,,nvidia,,x86,{}",
]


def zipped(provider: str, rows: list[str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(f"{provider}.csv", "\n".join([HEAD, *rows]) + "\n")
    return stream.getvalue()


def catalogs(**rows: list[str]) -> dict[str, bytes]:
    pages = {f"/{name}/version": b"20261129" for name in rows}
    return pages | {
        f"/{name}/20261129/catalog.zip": zipped(name, found) for name, found in rows.items()
    }


Served = Callable[[dict[str, bytes | float]], str]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Serves pages; a number instead of a page is how many seconds it stays silent."""
    running: list[ThreadingHTTPServer] = []

    def start(pages: dict[str, Any]) -> str:
        class Pages(BaseHTTPRequestHandler):
            def answer(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                if isinstance(page, float):
                    time.sleep(page)
                self.send_response(200 if isinstance(page, bytes) else 404)
                self.end_headers()
                self.wfile.write(page if isinstance(page, bytes) else b"")

            do_GET = answer  # noqa: N815 (the standard library's name)
            do_POST = answer  # noqa: N815 (as above)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        monkeypatch.setattr(server, "handle_error", lambda *_: None)  # a client that was ended
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("GPUHUNT_CATALOG_URL", address)
        return address

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    book.cache_clear()
    yield tmp_path
    book.cache_clear()


BOTH = ("runpod", "lambdalabs")


def test_two_providers_become_dated_rows_of_the_user(served: Served) -> None:
    served(catalogs(runpod=RUNPOD, lambdalabs=LAMBDA))

    found = update(TODAY, BOTH)

    assert found.offers == {"runpod": 4, "lambdalabs": 3}
    assert found.failures == {}
    rows = own_book("rent")
    assert len(rows) == found.written == 6  # two offers of runpod in CA cost 0.34 a card
    assert {row.since for row in rows} == {TODAY}
    keys = ("item", "provider", "offer", "region", "amount", "count")
    assert {tuple(getattr(row, key) for key in keys) for row in rows} == {
        ("RTX 4090", "runpod", "on-demand", "EU-RO-1", 0.69, 1),
        ("RTX 4090", "runpod", "on-demand", "CA", 0.34, 2),
        ("H100 SXM", "runpod", "on-demand", "US-CA-2", 2.99, 1),
        ("H200 SXM", "lambdalabs", "on-demand", "us-east-1", 3.59, 1),
        ("RTX 4090", "lambdalabs", "on-demand", "us-east-1", 0.5, 1),
        ("RTX 4090", "lambdalabs", "spot", "us-east-1", 0.29, 1),
    }


def test_the_market_is_the_band(served: Served) -> None:
    shipped = gpu_rent("RTX 4090", TODAY)
    rows = [
        f"x,r{i},{0.30 + 0.01 * i},6,41,1,RTX4090,24,False,,nvidia,,x86,{{}}" for i in range(11)
    ]
    served(catalogs(runpod=rows))
    update(TODAY, ("runpod",))

    market = gpu_rent("RTX 4090", TODAY)

    # By hand: of 0.30, 0.31, ... 0.40 the deciles are 0.31 and 0.39, the median 0.35.
    assert (market.low, market.mode, market.high) == pytest.approx((0.31, 0.35, 0.39))
    assert gpu_rent("RTX 4090", TODAY, shipped=True) == shipped
    assert gpu_rent("RTX 4090", TODAY - datetime.timedelta(days=1)) == shipped
    assert gpu_rent("H200 SXM", TODAY).prices[0].region == ""  # no offer: the shipped rows hold


def test_a_shipped_scenario_takes_the_market_and_the_tornado_says_what_matters(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    write_results(results)
    flags = ("--scenario", "rented-rtx4090", "--gpu", "rtx-4090", "--on", "2026-11-29")
    flags += ("-o", "json")
    assert main(["cost", str(results), *flags]) == 0
    shipped = json.loads(capsys.readouterr().out)[0]
    rows = [
        f"x,r{i},{0.30 + 0.01 * i},6,41,1,RTX4090,24,False,,nvidia,,x86,{{}}" for i in range(11)
    ]
    served(catalogs(runpod=rows))
    update(TODAY, ("runpod",))

    assert main(["cost", str(results), *flags]) == 0
    market = json.loads(capsys.readouterr().out)[0]
    assert main(["cost", str(results), *flags, "--tornado"]) == 0
    bars = {bar["figure"]: bar["variance_share"] for bar in json.loads(capsys.readouterr().out)}

    assert "rent_per_hour 0.45 (0.34 to 0.875)" in shipped["assumptions"]
    assert "rent_per_hour 0.35 (0.31 to 0.39)" in market["assumptions"]
    assert "utilization 0.5 (0.2 to 0.9)" in market["assumptions"]
    assert (market["price_age_days"], market["price_date"]) == (0, "2026-11-29")
    assert bars["utilization"] > 0.9 > 0.1 > bars["rent_per_hour"] > 0


def test_a_later_update_ends_the_earlier_rows_of_who_answered(served: Served) -> None:
    served(catalogs(runpod=RUNPOD, lambdalabs=LAMBDA))
    update(TODAY, BOTH)
    later = TODAY + datetime.timedelta(days=30)
    served(catalogs(runpod=[RUNPOD[1].replace("0.34", "0.44")]))

    found = update(later, BOTH)

    assert found.offers == {"runpod": 1}
    assert found.failures["lambdalabs"].startswith("HTTPError: HTTP Error 404")
    amounts = sorted(row.amount for row in gpu_rent("RTX 4090", later).prices)
    assert amounts == [0.44, 0.5]  # lambdalabs' of 30 days ago still counts
    assert gpu_rent("RTX 4090", TODAY).low < 0.4  # history is kept


def test_an_update_of_the_same_day_replaces(served: Served) -> None:
    served(catalogs(runpod=RUNPOD))
    update(TODAY, ("runpod",))
    before = own_book("rent")

    update(TODAY, ("runpod",))

    assert [row.amount for row in own_book("rent")] == [row.amount for row in before]


# ---- network down, slow, wrong -----------------------------------------------------------------


def test_a_dead_network_leaves_the_shipped_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", "http://127.0.0.1:9")  # nobody listens
    shipped = gpu_rent("RTX 4090", TODAY)

    assert main(["prices", "--update", "--provider", "runpod", "--kind", "rent", "4090"]) == 0

    out, err = capsys.readouterr()
    assert "runpod gave no prices: URLError: <urlopen error [Errno 111] Connection refused>" in err
    assert "no provider answered; earlier prices are still used" in err
    assert "RTX 4090" in out
    assert gpu_rent("RTX 4090", TODAY) == shipped
    assert not own_folder().exists()


def test_a_silent_provider_is_given_up(served: Served) -> None:
    served(catalogs(lambdalabs=LAMBDA) | {"/runpod/version": 30.0})
    started = time.monotonic()

    found = update(TODAY, BOTH, deadline_s=8.0)

    assert time.monotonic() - started < 25
    assert found.failures["runpod"] == "no answer within 8 s"
    assert own_book("rent") == ()


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (b"<html>maintenance</html>", "BadZipFile: File is not a zip file"),
        (zipped("runpod", ["x,CA,-1,6,41,1,RTX4090,24,False,,nvidia,,x86,{}"]), "no usable offer"),
        (zipped("runpod", ["x,CA,nan,6,41,1,RTX4090,24,False,,nvidia,,x86,{}"]), "no usable offer"),
        (
            zipped("runpod", ["x,CA,cheap,6,41,1,RTX4090,24,False,,nvidia,,x86,{}"]),
            "no usable offer",
        ),
        (zipped("other", RUNPOD), "KeyError"),
    ],
)
def test_a_wrong_answer_is_no_price(served: Served, page: bytes, says: str) -> None:
    served(catalogs(runpod=RUNPOD) | {"/runpod/20261129/catalog.zip": page})

    found = update(TODAY, ("runpod",))

    assert says in found.failures["runpod"]
    assert found.written == 0
    assert gpu_rent("RTX 4090", TODAY).low > 0


def test_an_unknown_provider_is_named() -> None:
    with pytest.raises(InputError, match="unknown provider 'runpot'; did you mean 'runpod'"):
        update(TODAY, ("runpot",))


def test_without_its_package_an_update_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(market, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match="--update needs gpuhunt: pip install"):
        update(TODAY, ("runpod",))


# ---- vast.ai, which is asked itself ------------------------------------------------------------


def vast(**changes: Any) -> dict[str, Any]:
    offer = {
        "id": 1,
        "cpu_cores": 32,
        "cpu_cores_effective": 8.0,
        "cpu_ram": 64000,
        "disk_space": 100.0,
        "storage_cost": 0.0,
        "dph_base": 0.24,
        "min_bid": 0.12,
        "geolocation": "Osaka, JP",
        "gpu_name": "RTX 4080S",
        "gpu_ram": 16376,
        "num_gpus": 1,
        "rentable": True,
        "rented": False,
    }
    return offer | changes


def test_offers_of_vast_ai(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"offers": [vast(), vast(id=2, dph_base=1.0, num_gpus=4, min_bid=None)]}
    address = served({"/api/v0/bundles/": json.dumps(page).encode()})
    monkeypatch.setattr("gpuhunt.providers.vastai.bundles_url", f"{address}/api/v0/bundles/")

    [answer] = offers.answers(["vastai"])

    keys = ("card", "region", "spot", "usd_per_hour")
    assert [tuple(one[key] for key in keys) for one in answer["offers"]] == [
        ("RTX 4080 SUPER", "jp-osaka", True, 0.12),
        ("RTX 4080 SUPER", "jp-osaka", False, 0.24),
        ("RTX 4080 SUPER", "jp-osaka", False, 0.25),
    ]


def test_vast_ai_that_breaks_is_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    address = served({"/api/v0/bundles/": b'{"offers": [{"id": 1}]}'})
    monkeypatch.setattr("gpuhunt.providers.vastai.bundles_url", f"{address}/api/v0/bundles/")

    assert list(offers.answers(["vastai"])) == [
        {"provider": "vastai", "error": "KeyError: 'cpu_cores'"}
    ]


def test_who_needs_credentials_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JL_API_KEY", raising=False)

    [answer] = offers.answers(["jarvislabs"])

    assert answer["skipped"]
    assert "JL_API_KEY" in answer["error"]


@pytest.mark.parametrize(
    ("name", "memory", "instance", "card"),
    [
        ("RTX4090", 24, "", "RTX 4090"),
        ("RTX4080S", 16, "31337", "RTX 4080 SUPER"),
        ("RTX4070STi", 16, "", "RTX 4070 Ti SUPER"),
        ("RTX3090Ti", 24, "", "RTX 3090 Ti"),
        ("RTX6000Ada", 48, "", "RTX 6000 Ada"),
        ("A5000", 24, "", "RTX A5000"),
        ("A100", 80, "", "A100 80GB"),
        ("A100", 40, "", "A100 40GB"),
        ("H100", 80, "", "H100"),
        ("H100", 80, "NVIDIA H100 PCIe", "H100 PCIe"),
        ("H100NVL", 94, "", "H100 NVL 94 GB"),
        ("H200", 141, "", "H200 SXM"),
    ],
)
def test_cards_have_the_catalog_s_names(name: str, memory: float, instance: str, card: str) -> None:
    assert offers.card(name, memory, instance) == card
