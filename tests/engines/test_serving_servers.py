"""Peculiarities of known servers, and of what stands between: never taken for figures."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.engines.endpoint.client import PAUSE_MAX_S, Answer, pause_s
from bench.engines.endpoint.http import ResponseHead
from bench.engines.endpoint.load import Window
from bench.engines.endpoint.settings import EndpointSettings
from bench.engines.endpoint.window import served
from bench.errors import UnsupportedError
from tests.engines.test_serving import after_load, engine, failure_of
from tests.scripted_server import Exchange, ScriptedServer, good, scripted


def details(
    pages: dict[str, Any], monkeypatch: pytest.MonkeyPatch, reply: Any = good, **options: Any
) -> dict[str, Any]:
    """What is recorded of a server that has such pages."""

    async def answer(self: ScriptedServer, to: Exchange) -> None:
        if to.path in pages:
            await to.status(200, json.dumps(pages[to.path]))
        else:
            await whole(self, to)

    whole = ScriptedServer.answer
    monkeypatch.setattr(ScriptedServer, "answer", answer)
    with scripted(reply) as server, engine(server.url, **options) as runs:
        found: dict[str, Any] = runs.loaded.details  # type: ignore[attr-defined]  # set by the helper
        return found


# Secrets.


def test_keys_that_a_server_tells_among_its_settings_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # SGLang's page holds all of its arguments, `api_key` and `admin_api_key` among them.
    page = {
        "api_key": "sk-users",
        "admin_api_key": "sk-admins",
        "ssl_keyfile_password": "hunter2",
        "hf_token": "hf_abc",
        "kv_cache_dtype": "auto",
        "max_total_tokens": 4096,
        "version": "0.5",
        "tokenizer_path": "/home/me/models/m",
    }
    for path in ("/server_info", "/get_server_info"):
        with monkeypatch.context() as patch:
            found = details({path: page}, patch)["server"]["server_info"]
        assert found == {
            "kv_cache_dtype": "auto",
            "max_total_tokens": 4096,
            "version": "0.5",
            "tokenizer_path": "m",
        }


@pytest.mark.parametrize("key", ["ollama", "a", "1", 'q"uote', "models", "true"])
def test_a_key_that_is_a_common_word_changes_no_name(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ollama's documentation says: api_key = "ollama", which is part of the names we give.
    monkeypatch.setenv("MY_KEY", key)
    pages = {"/api/version": {"version": "0.40", "echo": f"<{key}>", "count": 1, "fine": True}}
    found = details(pages, monkeypatch, key_env="MY_KEY")["server"]
    assert found["kind"] == "ollama"
    assert found["ollama_version"]["echo"] == "<***>"
    assert (found["ollama_version"]["count"], found["ollama_version"]["fine"]) == (1, True)


def test_a_key_that_is_not_set_ends_the_run_before_any_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    command = ["run", "--url", "http://127.0.0.1:1", "--option", "key_env=NO_SUCH_KEY"]
    assert main([*command, "--into", str(tmp_path / "r")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "bench: options.key_env: environment variable NO_SUCH_KEY is not set\n"


# Who answers.


def test_tgi_is_known_by_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"model_id": "org/m", "router": "text-generation-router", "version": "3.3.4"}
    assert details({"/info": info}, monkeypatch)["server"]["kind"] == "tgi"


def test_an_address_that_sends_elsewhere_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def moved(self: ScriptedServer, to: Exchange) -> None:
        await to.status(308, "", "Location: https://me:hunter2@host.example/v1/models?key=hunter2")

    monkeypatch.setattr(ScriptedServer, "answer", moved)
    with (
        scripted() as server,
        pytest.raises(UnsupportedError, match=r"HTTP 308.*\(https://host\.example\)") as error,
        engine(server.url),
    ):
        pass
    assert "hunter2" not in str(error.value)


def test_a_server_that_still_loads_is_told_from_one_without_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def loading(self: ScriptedServer, to: Exchange) -> None:
        await to.status(503, json.dumps({"error": {"message": "Loading model", "code": 503}}))

    monkeypatch.setattr(ScriptedServer, "answer", loading)
    with (
        scripted() as server,
        pytest.raises(UnsupportedError, match="HTTP 503: Loading model; is the model loaded"),
        engine(server.url),
    ):
        pass


def test_a_gateway_that_forbids_other_pages_is_no_missing_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def gateway(self: ScriptedServer, to: Exchange) -> None:
        await (whole(self, to) if to.path.startswith("/v1/") else to.status(403))

    whole = ScriptedServer.answer
    monkeypatch.setattr(ScriptedServer, "answer", gateway)
    with scripted() as server, engine(server.url) as runs:
        runs.start(8, 4, 1)
        assert len(runs.serve(2, 0.0).requests) >= 2


def test_requests_that_are_sent_elsewhere_fail() -> None:
    async def moved(to: Exchange) -> None:
        await to.status(307, "", "Location: http://127.0.0.1:1/v1/completions")

    assert set(failure_of(moved).about["requests"]["failed"]) == {"http_307"}


# What Ollama and TGI take and send.


async def as_ollama(to: Exchange) -> None:
    """Prompts are text, unknown fields are ignored, a template is added, `choices` ends empty."""
    if not isinstance(to.body["prompt"], str):
        words = "json: cannot unmarshal array into Go struct field CompletionRequest.prompt"
        await to.status(400, json.dumps({"error": {"message": words, "type": "invalid"}}))
        return
    await to.begin()
    for _ in range(to.n_gen):
        await asyncio.sleep(0.002)
        await to.chunk("x")
    await to.chunk("", "length")
    made = {"prompt_tokens": to.n_prompt + 9, "completion_tokens": to.n_gen, "total_tokens": 0}
    await to.event({"object": "text_completion", "choices": [], "usage": made})
    await to.end()


def test_ollama_is_sent_words_beside_its_template() -> None:
    with scripted(as_ollama) as server, engine(server.url) as runs:
        runs.start(32, 4, 2)
        found = runs.serve(2, 0.0)
        assert len(server.asked[-1].body["prompt"].split()) == 23
    assert len(found.requests) >= 4
    assert "cached_tokens" in found.absent  # it does not say: neither none nor some


def test_a_prompt_that_the_server_cuts_to_its_context_is_refused() -> None:
    async def cuts(to: Exchange) -> None:
        await to.begin()
        for _ in range(to.n_gen):
            await asyncio.sleep(0.002)
            await to.chunk("x")
        await to.chunk("", "length")
        made = {"prompt_tokens": min(to.n_prompt, 64), "completion_tokens": to.n_gen}
        await to.event({"choices": [], "usage": made})
        await to.end()

    with (
        scripted(cuts) as server,
        engine(server.url) as runs,
        pytest.raises(UnsupportedError, match="no prompt of exactly 128 tokens") as error,
    ):
        runs.start(128, 4, 1)
    assert error.value.code == "TOKEN_COUNT"


async def as_tgi(to: Exchange) -> None:
    """Token numbers are refused as no variant of its type; `usage` comes with the last choice."""
    if not isinstance(to.body["prompt"], str):
        await to.status(422, "Failed to deserialize the JSON body into the target type")
        return
    await to.begin()
    for number in range(to.n_gen):
        await asyncio.sleep(0.002)
        last = number == to.n_gen - 1
        usage = {"prompt_tokens": to.n_prompt, "completion_tokens": to.n_gen}
        await to.chunk("x", "length" if last else "", usage=usage if last else None)
    await to.end()


def test_tgi_ends_with_text_reason_and_usage_in_one_chunk() -> None:
    with scripted(as_tgi) as server, engine(server.url) as runs:
        runs.start(8, 4, 2)
        found = runs.serve(2, 0.0)
    assert {len(one.itl_s) for one in found.requests} == {3}


def test_thinking_under_the_name_that_ollama_gives_it_is_text() -> None:
    async def thinks(to: Exchange) -> None:
        await to.begin()
        for _ in range(to.n_gen):
            await asyncio.sleep(0.002)
            await to.event({"choices": [{"delta": {"content": "", "reasoning": "hm"}}]})
        await to.event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        words = len(to.body["messages"][0]["content"].split())
        usage = {"prompt_tokens": words, "completion_tokens": to.n_gen}
        await to.event({"choices": [], "usage": usage})
        await to.end()

    with scripted(thinks) as server, engine(server.url, api="chat") as runs:
        runs.start(8, 4, 1)
        assert {len(one.itl_s) for one in runs.serve(2, 0.0).requests} == {3}


# What stands between.


def test_a_stream_that_comes_in_blocks_has_no_time_to_its_first_token() -> None:
    async def in_blocks(to: Exchange) -> None:
        """As a proxy sends it that fills a buffer first: 16 tokens in three pieces."""
        await to.begin()
        each = f"data: {json.dumps({'choices': [{'text': 'x'}]})}\n\n"
        for count in (8, 6, to.n_gen - 14):
            await asyncio.sleep(0.01)
            await to.send(each * count)
        await to.chunk("", "length")
        await to.usage(to.n_gen)
        await to.end()

    with scripted(after_load(in_blocks)) as server, engine(server.url) as runs:
        runs.start(8, 16, 1)
        with pytest.raises(UnsupportedError, match="the first 8 of 16 chunks came at once") as why:
            runs.serve(2, 0.0)
    assert set(why.value.about["requests"]["failed"]) == {"buffered"}


def test_two_tokens_of_a_probe_that_come_together_are_no_buffer() -> None:
    async def fast(to: Exchange) -> None:
        await to.begin()
        each = f"data: {json.dumps({'choices': [{'text': 'x'}]})}\n\n"
        end = {"choices": [{"text": "", "finish_reason": "length"}]}
        await to.send(each * to.n_gen + f"data: {json.dumps(end)}\n\n")
        await to.usage(to.n_gen)
        await to.end()

    async def answer(to: Exchange) -> None:
        await (fast(to) if to.n_gen == 2 else good(to))

    with scripted(answer) as server, engine(server.url) as runs:
        runs.start(8, 4, 1)
        assert len(runs.serve(2, 0.0).requests) >= 2


@pytest.mark.parametrize(
    ("n_first", "n_held", "refused"),
    [(1, 20, False), (3, 20, False), (4, 20, True), (16, 20, True), (4, 10, False), (4, 11, True)],
)
def test_most_answers_held_back_are_a_buffer_and_one_is_a_client_that_stopped(
    n_first: int, n_held: int, refused: bool
) -> None:
    one = Answer(
        begun_ns=0, ended_ns=10**9, ttft_s=0.1, itl_s=(0.1,) * 15, e2e_s=1.6, output_tokens=16
    )
    answers = [replace(one, n_first=n_first)] * n_held + [one] * (20 - n_held)
    window = Window(answers=[replace(a) for a in answers], end_ns=10**9)
    if not refused:
        assert len(served(window, EndpointSettings(url="http://a"), 20).requests) == 20
        return
    with pytest.raises(UnsupportedError) as error:
        served(window, EndpointSettings(url="http://a"), 20)
    assert error.value.about["requests"]["failed"] == {"buffered": n_held}


def test_a_compressed_stream_is_refused_and_not_asked_for() -> None:
    async def zipped(to: Exchange) -> None:
        assert to.headers["accept-encoding"] == "identity"
        body = gzip.compress(b'data: {"choices": []}\n\n')
        to.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await to.writer.drain()

    error = failure_of(zipped)
    assert set(error.about["requests"]["failed"]) == {"malformed"}
    assert "gzip" in str(error)


def test_a_web_page_is_no_stream() -> None:
    async def page(to: Exchange) -> None:
        await to.status(200, "<html><title>Sign in</title></html>", "Content-Type: text/html")

    error = failure_of(page)
    assert set(error.about["requests"]["failed"]) == {"malformed"}
    assert "<html>" in str(error)


def test_a_character_may_be_cut_anywhere() -> None:
    async def cuts(to: Exchange) -> None:
        await to.begin()
        for _ in range(to.n_gen):
            raw = 'data: {"choices": [{"text": "für 💶"}]}\n\n'.encode()
            for at in range(0, len(raw), 7):
                await to.send(raw[at : at + 7])
            await asyncio.sleep(0.002)
        await to.chunk("", "length")
        await to.usage(to.n_gen)
        await to.end()

    with scripted(after_load(cuts)) as server, engine(server.url) as runs:
        runs.start(8, 4, 1)
        assert {len(one.itl_s) for one in runs.serve(2, 0.0).requests} == {3}


@pytest.mark.parametrize("usage", ['"much"', "[1, 2]", "7", '{"completion_tokens": "4"}'])
def test_a_usage_that_is_none_is_a_failure_and_no_crash(usage: str) -> None:
    async def odd(to: Exchange) -> None:
        await to.begin()
        for _ in range(to.n_gen):
            await asyncio.sleep(0.002)
            await to.chunk("x")
        await to.chunk("", "length")
        more = '"prompt_tokens_details": [], "timings": 3'
        await to.send(f'data: {{"choices": [], "usage": {usage}, {more}}}\n\n')
        await to.end()

    assert set(failure_of(odd).about["requests"]["failed"]) <= {"no_usage", "token_count"}


def test_a_server_that_names_a_time_is_given_it() -> None:
    def named(value: str) -> float:
        return pause_s(ResponseHead(headers={"retry-after": value}), 1)

    assert named("3") == 3
    assert named("999") == PAUSE_MAX_S
    assert named(formatdate(time.time() + 20, usegmt=True)) == pytest.approx(20, abs=2)
    assert named(formatdate(time.time() - 20, usegmt=True)) == 0
    assert named("soon") == named("") == 0.5
