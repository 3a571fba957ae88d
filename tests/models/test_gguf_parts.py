"""GGUF models in several files: what they say together, fetching them, planning without them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import pytest

from bench.cli import main
from bench.errors import InputError, UnsupportedError
from bench.models import gguf as gguf_file
from bench.models import hub, hub_fetch, hub_heads, resolve_model, weights
from bench.models.hub_gguf import gguf_files
from tests.hub_server import Hub, running
from tests.models.test_hub import look_up, point_at, quiet
from tests.split_gguf import header, llama, split


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Four matrices in four files."""
    folder = tmp_path / "parts"
    folder.mkdir()
    return split(llama(tmp_path / "m-F32.gguf"), folder, 1)


def test_several_files_say_together_what_one_says(tmp_path: Path, parts: list[Path]) -> None:
    whole, found = gguf_file.read(tmp_path / "m-F32.gguf"), gguf_file.read(parts[0])
    assert [path.name for path in parts] == [f"m-F32-0000{i}-of-00004.gguf" for i in (1, 2, 3, 4)]
    assert found.tensors == whole.tensors
    assert (found.n_params, found.weights_bytes) == (4 * 64 * 256, 4 * 64 * 256 * 4)
    assert found.weights_bytes == whole.weights_bytes
    assert found.mean_bits == whole.mean_bits == 32
    assert (found.file_type, found.scheme, found.path) == ("f32", "none", parts[0])
    assert found.architecture() == whole.architecture()


def test_the_first_of_several_may_have_no_weights(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    first, *rest = split(llama(tmp_path / "m.gguf"), folder, 2, empty_first=True)
    assert len(gguf_file.read_one(first).tensors) == 0
    assert len(gguf_file.read(first).tensors) == 4
    assert len(rest) >= 2
    alone = tmp_path / "alone.gguf"
    shutil.copy(first, alone)
    with pytest.raises(InputError, match="ends before its weights do"):
        gguf_file.read(alone)


def test_what_is_not_all_files_of_one_model_is_refused(tmp_path: Path, parts: list[Path]) -> None:
    with pytest.raises(InputError, match=r"00003-of-00004.gguf: part 3 of 4; name the first"):
        gguf_file.read(parts[2])
    assert gguf_file.is_whole(parts[0])
    parts[3].rename(tmp_path / "away")
    assert not gguf_file.is_whole(parts[0])
    with pytest.raises(InputError, match=r"m-F32-00004-of-00004\.gguf: No such file"):
        gguf_file.read(parts[0])
    shutil.copy(parts[2], parts[3])
    with pytest.raises(InputError, match="its 4 files are not the parts of one model"):
        gguf_file.read(parts[0])
    three = [path.with_name(path.name.replace("of-00004", "of-00003")) for path in parts[:3]]
    for path, renamed in zip(parts, three, strict=False):
        shutil.copy(path, renamed)
    with pytest.raises(InputError, match="its 3 files are not the parts of one model"):
        gguf_file.read(three[0])


def test_every_file_is_part_of_the_weights_identity(parts: list[Path]) -> None:
    model = resolve_model(str(parts[0]))
    assert (model.card.name, model.card.title) == ("m-f32", "Tiny")
    before = weights.identity(model)
    assert weights.identity(model) == before
    parts[3].touch()
    assert weights.identity(model) != before


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and empty caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with running() as found:
        point_at(found.url, monkeypatch)
        yield found


def push(server: Hub, parts: list[Path]) -> None:
    """A repository with a model in several files, in a folder, among others."""
    files = {f"M-F32/{path.name}": path.read_bytes() for path in parts}
    other = parts[0].read_bytes()
    server.push("org/GGUF", files | {"M-Q8_0.gguf": other, "README.md": b"---\n---"})


@pytest.mark.parametrize(
    "asked", ["F32", "f32", "*F32*", "M-F32/*", "M-F32/m-F32-00001-of-00004.gguf"]
)
def test_the_files_of_one_model_are_fetched_and_no_others(
    server: Hub, parts: list[Path], asked: str
) -> None:
    push(server, parts)
    snapshot = look_up(f"org/GGUF:{asked}")
    files = gguf_files(snapshot, asked)
    assert [Path(one.name).name for one in files] == [path.name for path in parts]
    folder = hub_fetch.fetch(snapshot, asked, quiet)
    kept = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert kept == [path.name for path in parts]
    assert gguf_file.read(folder / files[0].name).n_params == 4 * 64 * 256


def test_what_of_several_files_is_not_a_model_is_said(server: Hub, parts: list[Path]) -> None:
    push(server, parts)
    for asked, words in {
        "*.gguf": "holds 2 files for .*; name one: M-F32/m-F32-00001-of-00004.gguf, M-Q8_0.gguf",
        "*Q2*": r"holds no GGUF file '\*Q2\*'; there is: M-F32/m-F32-00001-of-00004.gguf, M-F32",
    }.items():
        with pytest.raises(InputError, match=words):
            look_up(f"org/GGUF:{asked}")
    push(server, parts[:3])
    with pytest.raises(InputError, match=r"-00004-of-00004\.gguf is not there, one of 4 files"):
        look_up("org/GGUF:F32")


def test_a_plan_knows_the_headers_and_fetches_nothing_else(
    server: Hub, parts: list[Path], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(hub_heads, "FIRST", 256)
    push(server, parts)
    name = "org/GGUF:F32"
    command = ["plan", "-m", name, "-e", "llama.cpp", "-q", "none", "-d", "cuda:0-1"]
    command += ["--gpu", "h100-sxm", "-o", "json"]
    assert main(command) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["fit"] == "yes"
    assert not any(hub.storage("org/GGUF").rglob("*.gguf"))
    assert {asked.partition("-")[0] for asked in server.ranges} == {"bytes=0"}
    assert "bytes=0-255" in server.ranges, "begins small"
    assert sum(server.sent.values()) < 8192
    snapshot = look_up(name)
    told = hub_heads.told(snapshot, "F32")
    assert told is not None
    assert (told.n_params, told.weights_bytes) == (4 * 64 * 256, 4 * 64 * 256 * 4)
    before = len(server.ranges)
    assert main(command) == 0
    assert len(server.ranges) == before, "headers are kept"
    with pytest.raises(InputError, match="is 'none', not 'q8_0'"):
        _run_refused(name, capsys)
    hub_fetch.fetch(snapshot, "F32", quiet)
    assert hub_heads.told(snapshot, "F32") is not None


def _run_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", name, "-e", "llama.cpp", "-q", "q8_0"]) == 2
    raise InputError(capsys.readouterr().err)


def test_an_interrupted_fetch_goes_on(server: Hub, parts: list[Path]) -> None:
    push(server, parts)
    server.faults.cut_after = [1000] * 100
    snapshot = look_up("org/GGUF:F32")
    with pytest.raises(UnsupportedError, match="run the same command to resume"):
        hub_fetch.fetch(snapshot, "F32", quiet)
    server.faults.cut_after = []
    model = resolve_model(snapshot.pinned(gguf_files(snapshot, "F32")[0].name))
    assert gguf_file.read(weights.prepare_gguf(model, quiet)).n_params == 4 * 64 * 256


R1: dict[str, Any] = {
    "general.architecture": "deepseek2",
    "general.name": "DeepSeek R1 BF16",
    "general.file_type": int(gguf.LlamaFileType.MOSTLY_IQ1_S),
    "deepseek2.block_count": 61,
    "deepseek2.context_length": 163840,
    "deepseek2.embedding_length": 7168,
    "deepseek2.feed_forward_length": 18432,
    "deepseek2.attention.head_count": 128,
    "deepseek2.attention.head_count_kv": 128,
    "deepseek2.attention.key_length": 192,
    "deepseek2.attention.value_length": 128,
    "deepseek2.attention.q_lora_rank": 1536,
    "deepseek2.attention.kv_lora_rank": 512,
    "deepseek2.rope.dimension_count": 64,
    "deepseek2.expert_count": 256,
    "deepseek2.expert_used_count": 8,
    "deepseek2.expert_shared_count": 1,
    "deepseek2.expert_feed_forward_length": 2048,
    "deepseek2.leading_dense_block_count": 3,
    "tokenizer.ggml.tokens": ["t"] * 129280,
}
"""Keys of unsloth's file of January 2025, as far as they say its shape."""


def r1_tensors() -> dict[str, tuple[tuple[int, ...], Any]]:
    """R1's matrices; experts in IQ1_S and IQ2_XXS, the rest in 4 and 6 bits, as Unsloth says."""
    kind = gguf.GGMLQuantizationType
    found: dict[str, tuple[tuple[int, ...], Any]] = {
        "token_embd.weight": ((129280, 7168), kind.Q4_K),
        "output.weight": ((129280, 7168), kind.Q6_K),
    }
    for layer in range(61):
        each = {
            "attn_q_a": ((1536, 7168), kind.Q4_K),
            "attn_q_b": ((128 * 192, 1536), kind.Q4_K),
            "attn_kv_a_mqa": ((576, 7168), kind.Q6_K),
            "attn_kv_b": ((128 * 256, 512), kind.Q6_K),
            "attn_output": ((7168, 128 * 128), kind.Q4_K),
        }
        wide = 18432 if layer < 3 else 2048
        end = "" if layer < 3 else "_shexp"
        each |= {f"ffn_{name}{end}": ((wide, 7168), kind.Q4_K) for name in ("gate", "up")}
        each |= {f"ffn_down{end}": ((7168, wide), kind.Q6_K)}
        if layer >= 3:
            down = kind.IQ2_XXS if layer < 9 else kind.IQ1_S
            each |= {
                "ffn_gate_exps": ((256, 2048, 7168), kind.IQ1_S),
                "ffn_up_exps": ((256, 2048, 7168), kind.IQ1_S),
                "ffn_down_exps": ((256, 7168, 2048), down),
                "ffn_gate_inp": ((256, 7168), kind.F32),
            }
        found |= {f"blk.{layer}.{name}.weight": about for name, about in each.items()}
    return found


@pytest.fixture
def r1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hub.Snapshot:
    """The cache of a machine that has looked R1's files up and read their headers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repo, commit, tensors = "unsloth/DeepSeek-R1-GGUF", "ab" * 20, list(r1_tensors().items())
    heads = tmp_path / "cache" / "gpu-cost-bench" / "hub" / repo.replace("/", "--")
    names = [f"DeepSeek-R1-UD-IQ1_S/DeepSeek-R1-UD-IQ1_S-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    files = []
    for number, name in enumerate(names):
        place = heads / f"{commit}-heads" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        mine = dict(tensors[number * 350 : number * 350 + 350])
        size = header(place, R1, mine, number, 3, len(tensors))
        files.append(hub.HubFile(name=name, bytes=size, sha256="0" * 64))
    snapshot = hub.Snapshot(
        repo=repo, revision=commit, license="mit", files=tuple(files), config={}
    )
    (heads / "refs").mkdir()
    (heads / "refs" / "main").write_text(commit)
    (heads / f"{commit}.json").write_text(json.dumps(asdict(snapshot)))
    return snapshot


def test_r1_in_three_files_is_planned_on_two_cards_by_its_headers(
    r1: hub.Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    told = hub_heads.told(r1, "UD-IQ1_S")
    assert told is not None
    assert told.scheme == "ud-iq1_s"
    assert told.n_params == pytest.approx(671e9, rel=0.002)
    assert 1.6 < told.mean_bits < 1.75
    architecture = told.architecture()
    assert (architecture["model_type"], architecture["caches_heads"]) == ("deepseek_v3", True)
    command = ["plan", "unsloth-r1-two-h100", "--gpu", "h100-sxm", "-o", "json"]
    assert main(command) == 0
    rows = {row["n_batch"]: row for row in json.loads(capsys.readouterr().out)}
    cache = 61 * 128 * (192 + 128) * 2  # bytes a token, of all heads
    for n_batch, row in rows.items():
        needed = told.weights_bytes + n_batch * 160 * cache
        assert row["memory_bytes"] == pytest.approx(needed, rel=0.02), n_batch
        assert row["fit"] in ("yes", "tight")
        assert row["refusal"] is None
    assert main([*command, "-d", "cuda:0"]) == 0
    assert {row["fit"] for row in json.loads(capsys.readouterr().out)} == {"offload"}
