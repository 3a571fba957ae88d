"""Servers that answer well, and servers that fail in every known way: figures, or counts."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from bench.engines.endpoint import EndpointEngine
from bench.engines.endpoint.client import Answer
from bench.engines.endpoint.http import WatchedSelector
from bench.engines.endpoint.load import ClientLoad, OpenWindow, Window, arrivals
from bench.engines.endpoint.prompts import HEAD, Vocabulary, next_length
from bench.engines.endpoint.sending import planned, run_here
from bench.engines.endpoint.settings import ApiKey, EndpointSettings, settings
from bench.engines.endpoint.streams import FAILURES, Events, Stream
from bench.engines.endpoint.window import served
from bench.engines.messages import Job
from bench.errors import InputError, UnsupportedError
from tests.scripted_server import Exchange, good, scripted


@contextmanager
def engine(url: str, *, vocab_size: int = 1000, **options: Any) -> Iterator[EndpointEngine]:
    """The engine, loaded on a server."""
    made = EndpointEngine()
    job = Job(
        architecture={"vocab_size": vocab_size},
        folder=None,
        random_seed=0,
        initializer_range=0.02,
        quant="as-served",
        mode="eager",
        dtype="auto",
        device="remote",
        threads=None,
        seed=0,
        replicate=0,
        options={"url": url, "timeout_s": 30.0} | options,
    )
    try:
        made.loaded = made.load(job)  # type: ignore[attr-defined]  # for the test to look at
        yield made
    finally:
        made.close()


def after_load(reply: Any) -> Any:
    """Good while it is being met, then `reply`."""

    async def answer(to: Exchange) -> None:
        await (reply(to) if to.n_gen > 2 else good(to))

    return answer


def failure_of(reply: Any, **options: Any) -> UnsupportedError:
    """What `serve` raises on a server that answers so."""
    with scripted(after_load(reply)) as server, engine(server.url, **options) as runs:
        runs.start(8, 4, 2)
        with pytest.raises(UnsupportedError) as error:
            runs.serve(2, 0.0)
    return error.value


# What a good server gives.


def test_a_round_of_requests_is_timed_as_one_batch() -> None:
    with scripted() as server, engine(server.url) as runs:
        runs.start(8, 4, 3)
        timed = runs.request(4)
        assert len(timed.itl_s) == 3
        assert all(gap > 0 for gap in (timed.prefill_s, *timed.itl_s))
        assert server.most_in_flight == 3


def test_a_closed_loop_keeps_so_many_in_flight_and_counts_whole_rounds() -> None:
    with scripted() as server, engine(server.url) as runs:
        runs.start(8, 4, 3)
        found = runs.serve(4, 0.0)
    assert server.most_in_flight == 3
    assert len(found.requests) % 3 == 0
    assert len(found.requests) >= 12
    counted = found.device["requests"]
    assert counted["n_answered"] == len(found.requests)
    assert counted["failed"] == {}
    assert counted["n_ramp"] == 3
    for one in found.requests:
        assert len(one.itl_s) == 3
        assert one.prefill_s + sum(one.itl_s) <= one.e2e_s + 1e-9
        assert one.e2e_s < found.wall_s


def test_a_window_of_a_closed_loop_has_the_rate_of_its_requests() -> None:
    with scripted() as server, engine(server.url) as runs:
        runs.start(8, 8, 2)
        found = runs.serve(10, 0.0)
    # Little's law: requests in flight = rate x time of one. What is between two is the client's.
    in_flight = len(found.requests) / found.wall_s * mean(one.e2e_s for one in found.requests)
    assert 0.5 < in_flight <= 2.25


def test_an_open_loop_sends_all_whatever_is_in_flight() -> None:
    with scripted() as server, engine(server.url, rate=200.0, n_requests=20) as runs:
        runs.start(8, 8, 1)
        found = runs.serve(1, 0.0)
    assert len(found.requests) == 20
    assert server.most_in_flight > 1
    assert len(server.asked) == 20 + 2  # and those by which it was met


def test_arrivals_are_poisson_and_the_same_for_the_same_seed() -> None:
    times = arrivals(2.0, 2000, "a")
    gaps = [after - before for before, after in pairwise(times)]
    assert times == arrivals(2.0, 2000, "a") != arrivals(2.0, 2000, "b")
    assert times[0] == 0
    assert mean(gaps) == pytest.approx(0.5, rel=0.1)
    share = sum(gap > 0.5 for gap in gaps) / len(gaps)  # exponential: 1/e are beyond the mean
    assert share == pytest.approx(0.368, abs=0.05)


def test_the_chat_api_is_asked_with_messages_and_a_length_found_by_asking() -> None:
    async def template(to: Exchange) -> None:
        words = to.body["messages"][0]["content"].split()
        await to.begin()
        await to.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for _ in range(to.n_gen):
            await asyncio.sleep(0.002)
            await to.chunk("x")
        usage = {"prompt_tokens": len(words) + 11, "completion_tokens": to.n_gen}
        await to.event({"choices": [{"delta": {}, "finish_reason": "length"}], "usage": usage})
        await to.end()

    with scripted(template) as server, engine(server.url, api="chat") as runs:
        runs.start(32, 4, 1)
        found = runs.serve(2, 0.0)
        assert {to.path for to in server.asked} == {"/v1/chat/completions"}
        assert len(server.asked[-1].body["messages"][0]["content"].split()) == 21
    assert found.device["requests"]["n_empty_chunks"] >= 2  # the chunks that hold a role


def test_chunks_that_hold_two_tokens_are_not_taken_for_tokens() -> None:
    async def pairs(to: Exchange) -> None:
        await to.begin()
        for _ in range(to.n_gen // 2):
            await asyncio.sleep(0.002)
            await to.chunk(" a b")
        await to.chunk("", "length")
        await to.usage(to.n_gen)
        await to.end()

    with scripted(after_load(pairs)) as server, engine(server.url) as runs:
        runs.start(8, 8, 1)
        found = runs.serve(3, 0.0)
    assert {len(one.itl_s) for one in found.requests} == {3}
    assert "chunks for" in found.absent["itl_s"]


def test_fields_that_the_server_refuses_are_left_out() -> None:
    async def strict(to: Exchange) -> None:
        if "min_tokens" in to.body:
            await to.status(400, json.dumps({"error": {"message": "unknown field min_tokens"}}))
        elif not isinstance(to.body["prompt"], str):
            await to.status(400, json.dumps({"error": {"message": "prompt must be text"}}))
        else:
            await good(to)

    with scripted(strict) as server, engine(server.url) as runs:
        runs.start(8, 4, 1)
        runs.serve(1, 0.0)
        details = runs.loaded.details  # type: ignore[attr-defined]  # set by the helper above
        assert details["prompts"] == "text"
        assert details["fields"] == ["ignore_eos", "skip_special_tokens"]
        assert "min_tokens" not in server.asked[-1].body


def test_the_server_is_identified() -> None:
    with scripted(models=("/models/big.gguf",)) as server, engine(server.url) as runs:
        found = runs.loaded.details  # type: ignore[attr-defined]  # set by the helper above
    assert found["server"]["kind"] == "vllm"
    assert found["server"]["header"] == "scripted/1.0"
    assert found["served_model"] == "big.gguf"  # no folder of anybody's machine
    assert found["server"]["models"][0]["id"] == "big.gguf"


def test_a_name_is_needed_where_there_are_several_models() -> None:
    with scripted(models=("a", "b")) as server:
        with pytest.raises(InputError, match="it has a, b"), engine(server.url):
            pass
        with engine(server.url, model="b"):
            assert server.asked[-1].body["model"] == "b"


def test_prompt_tokens_from_a_cache_are_told() -> None:
    async def cached(to: Exchange) -> None:
        await to.begin()
        for _ in range(to.n_gen):
            await asyncio.sleep(0.002)
            await to.chunk("x")
        await to.chunk("", "stop")
        await to.usage(to.n_gen, prompt_tokens_details={"cached_tokens": 5})
        await to.end()

    with scripted(cached) as server:
        with engine(server.url) as runs:
            runs.start(8, 4, 1)
            assert "PREFIX_CACHED" in runs.serve(2, 0.0).reasons
        with engine(server.url, prefix_cache=True) as runs:
            runs.start(8, 4, 1)
            found = runs.serve(2, 0.0)
            assert "PREFIX_CACHED" not in found.reasons
            assert found.device["requests"]["cached_tokens"] >= 10
            prompts = [to.body["prompt"] for to in server.asked if to.n_gen == 4]
            assert prompts[-1] == prompts[-2]


@pytest.mark.parametrize(("one_in", "n", "marked"), [(2, 8, True), (50, 120, False)])
def test_a_few_prompts_that_begin_alike_by_chance_are_no_fault(
    one_in: int, n: int, marked: bool
) -> None:
    async def cached(to: Exchange) -> None:
        await to.begin()
        for _ in range(to.n_gen):
            await asyncio.sleep(0.001)
            await to.chunk("x")
        await to.chunk("", "stop")
        hit = to.number % one_in == 0
        await to.usage(to.n_gen, prompt_tokens_details={"cached_tokens": int(hit)})
        await to.end()

    with scripted(cached) as server, engine(server.url) as runs:
        runs.start(8, 4, 1)
        found = runs.serve(n, 0.0)
        assert found.device["requests"]["cached_tokens"] > 0
        assert ("PREFIX_CACHED" in found.reasons) == marked


def test_a_chat_template_may_come_from_a_cache() -> None:
    def with_template(cached: int) -> Any:
        async def reply(to: Exchange) -> None:
            words = to.body["messages"][0]["content"].split()
            await to.begin()
            for _ in range(to.n_gen):
                await asyncio.sleep(0.002)
                await to.chunk("x")
            await to.chunk("", "length")
            usage = {"prompt_tokens": len(words) + 11, "completion_tokens": to.n_gen}
            told = usage | {"prompt_tokens_details": {"cached_tokens": cached}}
            await to.event({"choices": [], "usage": told})
            await to.end()

        return reply

    for cached, marked in ((11, False), (12, True)):
        with scripted(with_template(cached)) as server, engine(server.url, api="chat") as runs:
            runs.start(32, 4, 1)
            assert ("PREFIX_CACHED" in runs.serve(2, 0.0).reasons) == marked


# What bad servers give: faults, counted, and never a figure.


async def hangs(to: Exchange) -> None:
    await to.begin()
    await to.chunk("one")
    await asyncio.sleep(60)


async def silent(to: Exchange) -> None:
    await asyncio.sleep(60)


async def empty_chunks(to: Exchange) -> None:
    await to.begin()
    for _ in range(to.n_gen):
        await to.chunk("")
    await to.chunk("", "length")
    await to.usage(to.n_gen)
    await to.end()


async def endless_pings(to: Exchange) -> None:
    await to.begin()
    while True:
        await to.send(": ping\n\n")
        await to.chunk("")
        await asyncio.sleep(0.05)


async def truncated(to: Exchange) -> None:
    await to.begin()
    await to.chunk("one")
    to.writer.close()


async def ends_early(to: Exchange) -> None:
    """Well-formed HTTP, but the stream lacks its end."""
    await to.begin()
    await to.chunk("one")
    to.writer.write(b"0\r\n\r\n")


async def hangs_up(to: Exchange) -> None:
    to.writer.close()


async def fewer(to: Exchange) -> None:
    await to.begin()
    await to.chunk("one")
    await asyncio.sleep(0.002)
    await to.chunk("two", "stop")
    await to.usage(2)
    await to.end()


async def no_usage(to: Exchange) -> None:
    await to.begin()
    for _ in range(to.n_gen):
        await asyncio.sleep(0.002)
        await to.chunk("x")
    await to.chunk("", "length")
    await to.end()


async def malformed(to: Exchange) -> None:
    await to.begin()
    await to.send("data: {not json\n\n")
    await to.end()


async def no_http(to: Exchange) -> None:
    to.writer.write(b"what?\r\n\r\n")
    to.writer.close()


async def error_in_stream(to: Exchange) -> None:
    await to.begin()
    await to.chunk("one")
    await to.event({"error": {"message": "out of blocks", "code": 500}})
    await to.end()


async def all_at_once(to: Exchange) -> None:
    await to.begin()
    each = {"choices": [{"text": "x", "finish_reason": None}]}
    last = {"choices": [{"text": "", "finish_reason": "length"}]}
    text = "".join(f"data: {json.dumps(one)}\n\n" for one in [*[each] * to.n_gen, last])
    await to.send(text)
    await to.usage(to.n_gen)
    await to.end()


async def does_not_stream(to: Exchange) -> None:
    await to.status(200, json.dumps({"choices": [{"text": "x y z"}]}))


def status(code: int) -> Any:
    async def answer(to: Exchange) -> None:
        await to.status(code, json.dumps({"error": {"message": "busy now"}}))

    return answer


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (hangs, "timeout", "REQUESTS_FAILED"),
        (silent, "timeout", "REQUESTS_FAILED"),
        (endless_pings, "timeout", "REQUESTS_FAILED"),
        (empty_chunks, "empty_stream", "REQUESTS_FAILED"),
        (truncated, "truncated", "REQUESTS_FAILED"),
        (ends_early, "truncated", "REQUESTS_FAILED"),
        (hangs_up, "disconnected", "REQUESTS_FAILED"),
        (no_http, "disconnected", "REQUESTS_FAILED"),
        (fewer, "token_count", "TOKEN_COUNT"),
        (no_usage, "no_usage", "TOKEN_COUNT"),
        (malformed, "malformed", "REQUESTS_FAILED"),
        (does_not_stream, "malformed", "REQUESTS_FAILED"),
        (error_in_stream, "server_error", "REQUESTS_FAILED"),
        (all_at_once, "buffered", "REQUESTS_FAILED"),
        (status(429), "http_429", "REQUESTS_FAILED"),
        (status(500), "http_500", "REQUESTS_FAILED"),
    ],
)
def test_failures_are_counted_by_kind_and_give_no_figures(reply: Any, kind: str, code: str) -> None:
    error = failure_of(reply, timeout_s=1.0 if kind == "timeout" else 30.0)
    assert error.code == code
    counted = error.about["requests"]
    assert set(counted["failed"]) == {kind}
    assert counted["n_failed"] == counted["failed"][kind] >= 1
    assert counted["n_answered"] == 0
    assert f"{counted['failed'][kind]} {kind}" in str(error)
    assert kind in FAILURES or kind.startswith("http_")


def test_a_server_that_dies_under_load_is_counted_and_then_refused() -> None:
    async def die(to: Exchange) -> None:
        if to.number > 6:
            server.die()
        await good(to)

    with scripted(after_load(die)) as server, engine(server.url) as runs:
        runs.start(8, 4, 2)
        with pytest.raises(UnsupportedError) as error:
            runs.serve(50, 0.0)
        kinds = set(error.value.about["requests"]["failed"])
        assert kinds <= {"disconnected", "truncated", "refused"}
        with pytest.raises(UnsupportedError, match="refused"):
            runs.request(4)


def test_a_server_that_is_not_there_is_refused_at_once() -> None:
    with scripted() as server:
        url = server.url
    with pytest.raises(UnsupportedError, match="is the server running there"), engine(url):
        pass


def test_a_share_of_failures_may_be_allowed_and_is_told() -> None:
    async def every_fifth(to: Exchange) -> None:
        await (to.status(500) if to.number % 5 == 4 else good(to))

    with scripted(after_load(every_fifth)) as server, engine(server.url, allow_failed=0.5) as runs:
        runs.start(8, 4, 2)
        found = runs.serve(10, 0.0)
    assert found.reasons[-1] == "REQUESTS_FAILED"
    counted = found.device["requests"]
    assert len(found.requests) == counted["n_answered"]
    assert counted["failed"]["http_500"] >= 2


def test_a_warm_up_bears_the_failures_that_are_allowed() -> None:
    async def every_third(to: Exchange) -> None:
        await (to.status(503) if to.number % 3 == 2 else good(to))

    with scripted(after_load(every_third)) as server:
        with engine(server.url, allow_failed=0.5) as runs:
            runs.start(8, 4, 4)
            assert runs.request(4).prefill_s > 0
        with engine(server.url) as runs:
            runs.start(8, 4, 4)
            with pytest.raises(UnsupportedError, match="http_503"):
                runs.request(4)


def test_a_request_that_is_sent_again_counts_from_when_it_was_first_sent() -> None:
    async def busy_first(to: Exchange) -> None:
        if to.number % 2 == 1:
            await to.status(429, "{}", "Retry-After: 0")
        else:
            await good(to)

    with scripted(after_load(busy_first)) as server, engine(server.url, retries=3) as runs:
        runs.start(8, 4, 1)
        found = runs.serve(3, 0.0)
    assert found.device["requests"]["retried"]["http_429"] >= 3
    assert "REQUESTS_FAILED" not in found.reasons


def test_a_connection_that_the_server_closed_meanwhile_is_no_failure() -> None:
    async def closes_after(to: Exchange) -> None:
        await good(to)
        to.writer.close()

    with scripted(after_load(closes_after)) as server, engine(server.url) as runs:
        runs.start(8, 4, 2)
        assert runs.serve(5, 0.0).device["requests"]["failed"] == {}


def test_https_is_spoken_and_a_certificate_that_nobody_vouches_for_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shutil.which("openssl")
    if made is None:
        pytest.skip("openssl makes the certificate")
    subprocess.run(
        [
            made,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=here",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with scripted(tls=context) as server:
        with pytest.raises(UnsupportedError, match=r"(?i)certificate"), engine(server.url):
            pass
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with engine(server.url) as runs:
            runs.start(8, 4, 2)
            found = runs.serve(3, 0.0)
    assert len(found.requests) >= 6
    assert all(len(one.itl_s) == 3 for one in found.requests)


# Parts.


def answer(**changes: Any) -> Answer:
    """8 tokens in 1.4 s, the first after 0.7 s."""
    told = {
        "begun_ns": 0,
        "ended_ns": 10**9,
        "ttft_s": 0.7,
        "itl_s": (0.1,) * 7,
        "e2e_s": 1.4,
        "output_tokens": 8,
        "cached_tokens": 0,
    }
    return Answer(**(told | changes))


@pytest.mark.parametrize(
    ("delay_s", "lag_s", "bound"),
    [(0.0, 0.001, False), (0.06, 0.001, False), (0.08, 0.001, True), (0.0, 0.02, True)],
)
def test_a_client_that_is_late_is_told_from_a_slow_server(
    delay_s: float, lag_s: float, bound: bool
) -> None:
    # Late by 5% of a request of 1.4 s, or stamps late by 10% of a token's 0.1 s.
    # One of two processes is late: the other's lags do not hide it.
    late, other = ClientLoad(lags_s=[lag_s] * 100), ClientLoad(lags_s=[0.0] * 5000)
    window = Window(
        answers=[answer()] * 20, end_ns=10**9, delays_s=[delay_s] * 20, clients=[other, late]
    )
    found = served(window, EndpointSettings(url="http://a"), 20)
    assert ("CLIENT_BOUND" in found.reasons) == bound
    assert found.device["client"]["delay_p95_s"] == delay_s
    assert found.device["client"]["lag_p95_s"] == lag_s


@pytest.mark.parametrize(("late_s", "bound"), [(0.0004, False), (0.013, False), (0.015, True)])
def test_stamps_that_may_be_late_mark_the_client(late_s: float, bound: bool) -> None:
    # By 2% of the 0.7 s to the first token, in the mean.
    client = ClientLoad(stamps_late_s=[late_s] * 100, wall_s=2.0, cpu_s=0.5, peak_bytes=10**6)
    window = Window(answers=[answer()] * 20, end_ns=10**9, clients=[client] * 2)
    found = served(window, EndpointSettings(url="http://a"), 20)
    assert ("CLIENT_BOUND" in found.reasons) == bound
    assert found.device["client"]["stamp_late_mean_s"] == pytest.approx(late_s)
    told = found.device["client"]
    assert told["chunks_s"] == pytest.approx(100)
    assert (told["n_clients"], told["cpu_share"], told["cpu_share_max"]) == (2, 0.5, 0.25)
    assert told["memory_bytes"] == 2 * 10**6


def test_a_loop_that_waited_stamps_in_time_and_one_that_was_busy_may_not() -> None:
    watch = WatchedSelector()
    watch.select(0.005)  # it waited
    at_ns = time.perf_counter_ns()
    watch.note(at_ns)
    time.sleep(0.01)  # busy with what it read
    watch.select(0)
    watch.note(time.perf_counter_ns())
    in_time, late = watch.lates_ns
    assert in_time < late
    assert late >= 10_000_000
    watch.close()


def test_a_delay_is_the_time_after_the_plan() -> None:
    class SlowToBegin:
        async def ask(self, place: int, asked: Any) -> Answer:
            await asyncio.sleep(0.02)
            now = time.perf_counter_ns()
            return answer(begun_ns=now, ended_ns=now)

    judge, load = OpenWindow(3, allow_failed=0.0), planned([0.0, 0.001, 0.002], 0)
    window = asyncio.run(run_here(load, judge, SlowToBegin()))
    assert len(window.delays_s) == 3
    assert min(window.delays_s) >= 0.019


def test_failures_below_the_share_allowed_do_not_end_a_window() -> None:
    answers = [answer()] * 9 + [answer(failure="timeout", ttft_s=None, e2e_s=None)]
    window = Window(answers=answers, end_ns=10**9)
    assert window.fails(10, 0.0)
    assert not window.fails(10, 0.1)
    with pytest.raises(UnsupportedError, match=r"1 of 10 requests failed \(1 timeout\)"):
        served(window, EndpointSettings(url="http://a"), 10)
    allowed = served(window, EndpointSettings(url="http://a", allow_failed=0.1), 10)
    assert allowed.reasons == ("REQUESTS_FAILED",)
    assert len(allowed.requests) == 9


def test_events_are_whole_however_the_bytes_come() -> None:
    text = b': ping\r\n\r\ndata: {"a":1}\r\n\r\nevent: x\ndata:b\ndata: c\n\ndata: [DONE]\n\n'
    whole = list(Events().feed(text))
    assert whole == [b'{"a":1}', b"b\nc", b"[DONE]"]
    for size in (1, 2, 3, 7):
        events, found = Events(), []
        for at in range(0, len(text), size):
            found += list(events.feed(text[at : at + size]))
        assert found == whole
        assert not events.left


def test_thinking_counts_as_tokens() -> None:
    stream = Stream()
    chunk = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
    stream.feed(5, f"data: {json.dumps(chunk)}\n\n".encode())
    assert stream.text_ns == [5]


def test_prompts_differ_from_the_first_tokens_and_share_the_rest_between_arms() -> None:
    one, other = (Vocabulary(seed="s", n=64, size=1000) for _ in range(2))
    prompts = [one.prompt(index) for index in range(100)]
    assert len({tuple(prompt[:HEAD]) for prompt in prompts}) == 100
    assert all(250 <= token < 750 for prompt in prompts for token in prompt)  # type: ignore[operator]  # sizes given: numbers
    few = Vocabulary(seed="s", n=9, size=200)
    assert len({few.prompt(index)[0] for index in range(100)}) == 100  # not one token in common
    assert one.prompt(3)[:HEAD] != other.prompt(3)[:HEAD]  # another process, the same server
    assert one.prompt(3)[HEAD:] == other.prompt(3)[HEAD:]
    assert len(str(Vocabulary(seed="s", n=9).prompt(0)).split()) == 9


def test_the_length_of_a_text_is_found_by_asking() -> None:
    assert next_length([(32, 43)], 32) == 21
    assert next_length([(32, 43), (21, 33), (20, 33)], 32) is not None
    assert next_length([(8, 20)], 8) is None  # the template alone is longer


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "url: missing"),
        ({"url": "localhost:8000"}, "not an address"),
        ({"url": "http://a", "rate": 0}, "rate: must be above 0"),
        ({"url": "http://a", "n_requests": 5}, "needs rate"),
        ({"url": "http://a", "ratte": 1.0}, "did you mean 'rate'"),
        ({"url": "http://a", "api": "chat", "prompts": "tokens"}, "takes no token numbers"),
        ({"url": "http://a", "allow_failed": 1.0}, "below 1"),
        ({"url": "http://a", "clients": 0}, "clients: must be 'auto' or 1 to 256"),
        ({"url": "http://a", "clients": "many"}, "clients: must be 'auto'"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        settings(options)


def test_a_secret_in_an_address_is_refused_and_not_repeated() -> None:
    for url in ("http://me:hunter2@host", "http://host/v1?key=hunter2"):
        with pytest.raises(InputError, match="key_env") as error:
            settings({"url": url})
        assert "hunter2" not in str(error.value)


def test_a_key_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_NAME", "sk-hunter2")
    assert "hunter2" not in repr(ApiKey("SECRET_NAME"))

    async def tells_it(to: Exchange) -> None:
        key = to.headers["authorization"]
        # Once in the open, and once where the words are cut.
        words = f"no credit for {key}"
        words = words.ljust(148, ".") + key
        await to.status(500, json.dumps({"error": {"message": words}}))

    with scripted(after_load(tells_it), key="sk-hunter2") as server:
        with engine(server.url, key_env="SECRET_NAME") as runs:
            runs.start(8, 4, 1)
            with pytest.raises(UnsupportedError, match="no credit for Bearer ") as error:
                runs.serve(1, 0.0)
            assert "hunter2" not in str(error.value) + str(error.value.about)
            assert "sk-" not in str(error.value)
        with pytest.raises(UnsupportedError, match="401; key_env names"), engine(server.url):
            pass
    with pytest.raises(InputError, match="NOT_SET is not set"):
        ApiKey("NOT_SET")
