"""Quality and speculative decoding of servers, by what they tell of themselves."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

from bench.cli import main
from bench.engines.endpoint.guesses import Guesses
from bench.engines.speculation import VLLM_COUNTERS
from bench.errors import UnsupportedError
from bench.records.file import read
from tests.engines.test_serving import engine
from tests.engines.test_serving_run import quick
from tests.scripted_server import Exchange, good, scripted


def tokenize(to: Exchange) -> str:
    assert to.body["add_special_tokens"] is False
    return json.dumps({"tokens": list(to.body["prompt"].encode())})


def telling(most: int, doubt: float = 0.0):
    """A server like vLLM: a token's probability halves with each step away from the one before."""

    async def answer(to: Exchange) -> None:
        if (k := to.body.get("prompt_logprobs")) is None:
            await good(to)
        elif k > most:
            await to.status(400, json.dumps({"error": {"message": f"at most {most}"}}))
        else:
            told: list[object] = [None]
            prompt = to.body["prompt"]
            for before, token in pairwise(prompt):
                likely = {*range(before, before + k), token}
                away = {one: abs(one - before) + 1 for one in likely}
                told.append(
                    {one: {"logprob": -n * (math.log(2) + doubt * n)} for one, n in away.items()}
                )
            await to.status(200, json.dumps({"choices": [{"prompt_logprobs": told}]}))

    return answer


def test_likeliest_tokens_are_asked_for_as_many_as_the_server_tells() -> None:
    with scripted(telling(20), pages={"/tokenize": tokenize}) as server, engine(server.url) as runs:
        assert runs.tokenize("abc") == [97, 98, 99]
        found = runs.top_log_probs([97, 98, 200])
        assert [tokens[:2] for tokens in found.indices] == [[97, 98], [98, 99]]
        assert len(found.indices[0]) == 20
        assert found.given == pytest.approx([-2 * math.log(2), -103 * math.log(2)])
        runs.top_log_probs([97, 98])
        asked = [to.body["prompt_logprobs"] for to in server.asked if "prompt_logprobs" in to.body]
        assert asked == [256, 20, 20]  # the refusal is remembered


def sglang(to: Exchange) -> str:
    """As SGLang's /generate answers: of the first token nothing is told."""
    asked = to.body
    assert (asked["return_logprob"], asked["logprob_start_len"]) == (True, 0)
    prompt, k = asked["input_ids"], asked["top_logprobs_num"]

    def entry(before: int, token: int) -> list[object]:
        return [-(abs(token - before) + 1) * math.log(2), token, None]

    tops = [[entry(before, before + n) for n in range(k)] for before in prompt[:-1]]
    own = [entry(before, token) for before, token in pairwise(prompt)]
    meta = {
        "input_token_logprobs": [[None, prompt[0], None], *own],
        "input_top_logprobs": [None, *tops],
    }
    return json.dumps({"text": "x", "meta_info": meta})


def test_sglang_is_asked_in_its_own_words() -> None:
    pages = {"/tokenize": tokenize, "/generate": sglang}
    with scripted(good, pages=pages) as server, engine(server.url) as runs:
        found = runs.top_log_probs([97, 98, 20])
        assert [tokens[:2] for tokens in found.indices] == [[97, 98], [98, 99]]
        assert len(found.indices[0]) == 256
        assert found.given == pytest.approx([-2 * math.log(2), -79 * math.log(2)])
        asked = len(server.asked)
        runs.top_log_probs([97, 98])
        assert len(server.asked) - asked <= 1  # what it answers is remembered


def echoing(doubt: float = 0.0, *, extra: int = 0):
    """A server that tells texts of tokens, and the log-probability of each."""

    async def answer(to: Exchange) -> None:
        if "prompt_logprobs" in to.body:
            await to.status(400, json.dumps({"error": {"message": "unknown field"}}))
        elif not to.body.get("echo"):
            await good(to)
        else:
            prompt = to.body["prompt"]
            own = [-(abs(b - a) + 1) * (math.log(2) + doubt) for a, b in pairwise(prompt)]
            told = {"tokens": ["?"] * (len(prompt) + 1), "token_logprobs": [None, *own, -0.1]}
            usage = {"prompt_tokens": len(prompt) + extra}
            choices = [{"text": "?", "logprobs": told}]
            await to.status(200, json.dumps({"choices": choices, "usage": usage}))

    return answer


def test_a_server_that_echoes_tells_the_texts_own_tokens() -> None:
    with scripted(echoing(), pages={"/tokenize": tokenize}) as server, engine(server.url) as runs:
        found = runs.top_log_probs([97, 98, 200])
        assert found.given == pytest.approx([-2 * math.log(2), -103 * math.log(2)])
        assert not found.indices
    for wrong in (good, echoing(extra=1)):
        with (
            scripted(wrong, pages={"/tokenize": tokenize}) as server,
            engine(server.url) as runs,
            pytest.raises(UnsupportedError, match="no log-probabilities of a prompt"),
        ):
            runs.top_log_probs([97, 98, 200])


def measure(folder: Path, *urls: str) -> None:
    """The quality of two servers, the first the baseline, into `folder`/out."""
    text = folder / "text.txt"
    text.write_text("abcabd" * 20)
    arms = "".join(
        f'[[arm]]\nengine = "endpoint"\nquant = "{quant}"\noptions = {{ url = "{url}" }}\n'
        for quant, url in zip(("as-served", "other"), urls, strict=True)
    )
    path = quick(folder, pairs=1, arms=arms)
    path.write_text(path.read_text().replace('text = ""', f'text = "{text}"'))
    assert main(["run", str(path), "--into", str(folder / "out"), "-o", "json"]) == 0


@pytest.mark.parametrize("which", ["both", "baseline", "other"])
def test_servers_that_echo_have_a_ratio_of_perplexities_without_divergence(
    which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = {"/tokenize": tokenize}
    base = telling(20) if which == "other" else echoing()
    other = telling(20) if which == "baseline" else echoing(0.01)
    with scripted(base, pages=pages) as one, scripted(other, pages=pages) as two:
        measure(tmp_path, one.url, two.url)
    rows = json.loads(capsys.readouterr().out)
    found, candidate = read(tmp_path / "out").qualities
    assert found.status == candidate.status == "ok"
    assert len(found.nll) == len(candidate.nll) == 119
    assert candidate.kld == ()
    assert candidate.figures["method"] is None
    assert "the text's own tokens only" in candidate.absent["kld"]
    expected = 1.0 if which == "baseline" else math.exp(0.01 * sum(found.nll) / 119 / math.log(2))
    assert rows[1]["ppl_ratio"] == pytest.approx(expected, rel=1e-6)


def test_a_server_that_tells_nothing_of_prompts_has_no_quality() -> None:
    with scripted(good) as server, engine(server.url) as runs:
        with pytest.raises(UnsupportedError, match=r"no log-probabilities of a prompt.*HTTP 404"):
            runs.tokenize("abc")
        with pytest.raises(UnsupportedError, match="returns no log-probabilities of a prompt"):
            runs.top_log_probs([97, 98])


def test_two_servers_are_held_against_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = {"/tokenize": tokenize}
    with (
        scripted(telling(20), pages=pages) as one,
        scripted(telling(20, doubt=0.05), pages=pages) as two,
    ):
        measure(tmp_path, one.url, two.url)
    capsys.readouterr()
    base, other = read(tmp_path / "out").qualities
    assert base.status == other.status == "ok"
    assert len(base.nll) == len(other.kld) == 119
    assert min(other.kld) >= 0
    assert sum(other.kld) > 0
    assert other.figures["method"].startswith("lower bound: over those of the 20 likeliest tokens")


def test_a_server_without_quality_says_why_in_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(good) as server:
        path = quick(tmp_path, pairs=1)
        path.write_text(path.read_text().replace('text = ""', 'text = "english"'))
        command = ["run", str(path), "--url", server.url, "--into", str(tmp_path / "out")]
        assert main([*command, "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["ppl"] is None
    (quality,) = read(tmp_path / "out").qualities
    assert "returns no log-probabilities of a prompt" in str(quality.message)


def test_guesses_are_counted_by_vllms_own_metrics() -> None:
    asked = 0

    def metrics(to: Exchange) -> str:
        nonlocal asked
        asked += 1
        counted = {"drafts": 10, "draft_tokens": 40, "accepted_tokens": 30}
        return "# HELP x\n" + "".join(
            f'vllm:spec_decode_num_{name}_total{{engine="0",model_name="m"}} {asked * n}.0\n'
            for name, n in counted.items()
        )

    with scripted(good, pages={"/metrics": metrics}) as server, engine(server.url) as runs:
        runs.start(8, 4, 1)
        runs.request(4)
        assert runs.notes()["speculation"] == {
            "drafts": 10,
            "guessed_tokens": 40,
            "accepted_tokens": 30,
            "acceptance_rate": 0.75,
            "tokens_per_step": 4.0,
        }
    with scripted(good) as server, engine(server.url) as runs:
        runs.start(8, 4, 1)
        assert "speculation" not in runs.notes()


def test_guesses_are_counted_by_llama_cpps_timings() -> None:
    counted = Guesses({})
    for _ in range(2):
        counted.add({"predicted_n": 24, "draft_n": 16, "draft_n_accepted": 12})
    counted.add(None)
    (found,) = counted.figures({}).values()
    assert found["acceptance_rate"] == 0.75
    assert found["tokens_per_step"] == 2.0  # 24 tokens in 12 steps
    assert Guesses({}).figures({}) == {}
    # A server that guesses, and found nothing to guess from, says so.
    still = dict.fromkeys(VLLM_COUNTERS, 7)
    told = Guesses(still).figures(still)["speculation"]
    assert (told["guessed_tokens"], told["acceptance_rate"]) == (0, None)
