"""Models of a hub by name, with the hub's real client against a hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from bench.errors import BenchError, InputError, UnsupportedError
from bench.experiment import Experiment, Grid, load_experiment
from bench.models import hub, hub_fetch, resolve_model, weights
from bench.models.hub_errors import telling
from bench.runner.pinning import pinned
from tests.conftest import TINY
from tests.hub_server import TOKEN, Hub, Repo, running

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
WEIGHTS = bytes(range(256)) * 4000
"""1 MB: a file of large storage."""
FILES = {
    "config.json": json.dumps(LLAMA).encode(),
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"a": 1}' * 10,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle" * 10_000,
    "modeling_llama.py": b"import os",
    "README.md": b"---\nlicense: apache-2.0\n---",
}
FETCHED = {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}


def quiet(_: str) -> None:
    pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, to which the client in this process and in others is pointed; empty caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with running() as found:
        point_at(found.url, monkeypatch)
        yield found


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")


def look_up(name: str, say: Any = quiet) -> hub.Snapshot:
    ref = hub.parse(name)
    assert ref is not None
    return hub.look_up(ref, say)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("Qwen/Qwen3-8B", hub.Ref(repo="Qwen/Qwen3-8B")),
        ("Qwen/Qwen3-8B@main", hub.Ref(repo="Qwen/Qwen3-8B", revision="main")),
        ("a/b@refs/pr/1", hub.Ref(repo="a/b", revision="refs/pr/1")),
        ("a/b-GGUF:b.Q4_K_M.gguf", hub.Ref(repo="a/b-GGUF", file="b.Q4_K_M.gguf")),
        ("a/b-GGUF@v1:Q4_K_M", hub.Ref(repo="a/b-GGUF", revision="v1", file="Q4_K_M")),
        ("qwen3-8b", None),
        ("./a", None),
        ("../a/b", None),
        ("/a/b", None),
        ("a/b/c", None),
        ("models/qwen3-8b.toml", None),
        ("models/qwen3-8b.toml@random", None),
        ("folder/model.gguf", None),
        ("a/b@../../x", None),
    ],
)
def test_what_is_a_name_of_the_hub(text: str, ref: hub.Ref | None) -> None:
    assert hub.parse(text) == ref
    if ref is not None:
        assert str(ref) == text


def test_what_is_here_by_that_name_goes_first(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "model.safetensors").write_text("")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("org/name").source == "path"
    assert server.requests == []


def test_only_what_is_needed_is_fetched_and_checked(server: Hub) -> None:
    commit = server.push("org/name", FILES)
    said: list[str] = []
    snapshot = look_up("org/name")
    assert (snapshot.revision, snapshot.license) == (commit, "apache-2.0")
    model = resolve_model(snapshot.pinned())
    assert model.source == "hub"
    assert model.card.architecture == LLAMA
    folder = weights.prepare(model, said.append)
    assert folder == snapshot.folder
    assert {path.name for path in folder.iterdir()} == FETCHED
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    blob = (folder / "model.safetensors").resolve()
    assert blob.name == hashlib.sha256(WEIGHTS).hexdigest()
    assert said[0].startswith(f"fetching org/name at {commit[:12]} (apache-2.0): 1.0 MB in 3 files")
    assert "fetched and checked" in said[-1]
    before = len(server.requests)
    assert weights.prepare(model, quiet) == folder
    assert len(server.requests) == before
    assert not list(folder.parent.parent.glob("blobs/*.incomplete"))


def test_other_tools_find_it_in_the_cache(server: Hub) -> None:
    from huggingface_hub import hf_hub_download

    server.push("org/name", FILES)
    snapshot = look_up("org/name")
    folder = hub_fetch.fetch(snapshot, None, quiet)
    found = hf_hub_download(
        "org/name",
        "model.safetensors",
        revision=snapshot.revision,
        local_files_only=True,
        cache_dir=hub.storage("org/name").parent,
    )
    assert Path(found) == folder / "model.safetensors"


def test_what_another_tool_fetched_is_used_without_a_network(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    commit = server.push("org/name", FILES)
    snapshot_download(
        "org/name", ignore_patterns=["*.bin"], cache_dir=hub.storage("org/name").parent
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said: list[str] = []
    snapshot = look_up("org/name", said.append)
    assert snapshot.revision == commit
    assert snapshot.license is None
    assert "HF_HUB_OFFLINE is set; going by commit" in said[0]
    folder = weights.prepare(resolve_model(snapshot.pinned()), quiet)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_shards_of_the_index_and_no_others(server: Hub) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}
    files = {
        "config.json": FILES["config.json"],
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00002.safetensors": WEIGHTS,
        "model-2.safetensors": WEIGHTS[:500_000],
        "consolidated.safetensors": WEIGHTS * 2,
    }
    server.push("org/name", files)
    folder = hub_fetch.fetch(look_up("org/name"), None, quiet)
    assert {path.name for path in folder.iterdir()} == files.keys() - {"consolidated.safetensors"}


def test_a_revision_that_moved_is_another_arm(server: Hub) -> None:
    server.push("org/name", FILES)
    wanted = Experiment(name="x", question="?", grid=Grid(model=("org/name",)))
    one = pinned(wanted, quiet)
    assert pinned(one, quiet) == one
    assert pinned(wanted, quiet) == one
    server.push("org/name", FILES | {"model.safetensors": WEIGHTS[::-1]})
    two = pinned(wanted, quiet)
    assert pinned(one, quiet) == one
    names = {v.name for e in (one, two) for v in e.variants}
    assert len(names) == 2
    models = [resolve_model(e.variants[0].model) for e in (one, two)]
    assert len({weights.identity(model) for model in models}) == 2


def test_a_branch_and_a_commit_by_name(server: Hub) -> None:
    first = server.push("org/name", FILES)
    server.push("org/name", FILES | {"tokenizer.json": b"{}"})
    assert look_up(f"org/name@{first}").revision == first
    newest = server.repos["org/name"].main
    assert look_up(f"org/name@{newest[:12]}").revision == newest
    with pytest.raises(InputError, match="has no revision '0123456789ab'"):
        look_up("org/name@0123456789ab")
    with pytest.raises(InputError, match="org/name has no revision 'v2'"):
        look_up("org/name@v2")


GGUF = {"m.Q4_K_M.gguf": WEIGHTS, "m.Q8_0.gguf": WEIGHTS * 2, "m-bf16.gguf": WEIGHTS * 3}


def test_one_gguf_by_file_or_by_scheme(server: Hub) -> None:
    server.push("org/GGUF", GGUF)
    for name in ("org/GGUF:m.Q4_K_M.gguf", "org/GGUF:Q4_K_M", "org/GGUF:q4_k_m"):
        (model,) = pinned(
            Experiment(name="x", question="?", grid=Grid(model=(name,), engine=("llama.cpp",))),
            quiet,
        ).grid.model
        assert model.endswith(":m.Q4_K_M.gguf")
        ref = hub.parse(model)
        assert ref is not None
        folder = hub_fetch.fetch(look_up(model), ref.file, quiet)
        assert (folder / "m.Q4_K_M.gguf").read_bytes() == WEIGHTS
        assert [p.name for p in folder.iterdir()] == ["m.Q4_K_M.gguf"]


def test_a_gguf_that_is_not_one_model(server: Hub) -> None:
    parts = {f"m-Q4_K_M-0000{i}-of-00002.gguf": WEIGHTS for i in (1, 2)}
    server.push("org/GGUF", GGUF | parts | {"b/m.Q8_0.gguf": WEIGHTS})
    for file, words in {
        "Q2_K": "holds no GGUF file 'Q2_K'; there is: b/m.Q8_0.gguf, m-Q4_K_M-00001",
        "Q8_0": "holds 2 files for 'Q8_0'; name one: b/m.Q8_0.gguf, m.Q8_0.gguf",
    }.items():
        with pytest.raises(InputError, match=words):
            look_up(f"org/GGUF:{file}")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": b"{}"}, "has no model.safetensors"),
        ({"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "pytorch_model.bin": b""},
         "other weight formats are not loaded"),
        ({"model.safetensors": WEIGHTS}, "not a language model of transformers"),
        ({"config.json": b'{"architectures": ["BertModel"]}', "model.safetensors": WEIGHTS},
         "is BertModel: not a language model that continues text"),
        ({"config.json": b'{"is_encoder_decoder": true}', "model.safetensors": WEIGHTS},
         "an encoder and a decoder"),
        ({"config.json": b"[]", "model.safetensors": WEIGHTS}, "not a JSON object"),
        ({"config.json": b"\xff", "model.safetensors": WEIGHTS}, "not valid JSON"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}, "is an adapter"),
        ({"a.Q4_K_M.gguf": WEIGHTS}, "holds GGUF files; name one, as org/name:Q4_K_M"),
        ({"config.json": FILES["config.json"],
          "model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}'},
         "names gone.safetensors, which is not there"),
    ],
)  # fmt: skip
def test_no_language_model_of_safetensors(server: Hub, files: dict[str, bytes], words: str) -> None:
    server.push("org/name", files)
    with pytest.raises(InputError, match=words) as error:
        look_up("org/name")
    assert "\n" not in str(error.value)
    assert not any("model.safetensors" in path and "index" not in path
                   for _, path in server.requests)  # fmt: skip


def test_missing_private_and_gated(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"hub has no model org/gone, or it is private \(set HF_T"):
        look_up("org/gone")
    server.push("org/private", FILES, private=True)
    with pytest.raises(InputError, match="or it is private"):
        look_up("org/private")
    server.push("org/gated", FILES, gated=True)
    with pytest.raises(UnsupportedError, match=r"is gated: accept its licence on its page \(set H"):
        look_up("org/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert look_up("org/private").license == "apache-2.0"
    with pytest.raises(UnsupportedError, match="the token has no access") as error:
        look_up("org/gated")
    assert TOKEN not in str(error.value)


def test_a_busy_hub_is_asked_again(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.push("org/name", FILES)
    server.faults.busy = 1
    assert look_up("org/name").license == "apache-2.0"
    server.faults.busy = 100
    with pytest.raises(UnsupportedError, match=r"asks us to wait \(429\)"):
        look_up("org/name@main2")
    server.faults.busy, server.faults.broken = 0, 100
    monkeypatch.setattr(time, "sleep", quiet)
    with pytest.raises(UnsupportedError, match="status 503"):
        look_up("org/other")


def test_no_network(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.push("org/name", FILES)
    folder = hub_fetch.fetch(look_up("org/name"), None, quiet)
    point_at("http://127.0.0.1:9", monkeypatch)
    said: list[str] = []
    again = look_up("org/name", said.append)
    assert hub_fetch.fetch(again, None, quiet) == folder
    assert "cannot be reached" in said[0]
    assert "which is in the cache" in said[0]
    with pytest.raises(UnsupportedError, match="org/other: the hub cannot be reached") as error:
        look_up("org/other")
    assert "\n" not in str(error.value)


def test_something_else_at_the_endpoint(server: Hub) -> None:
    server.push("org/name", FILES, no_sums=True)
    with pytest.raises(UnsupportedError, match=r"the hub gives no checksum of config\.json"):
        look_up("org/name")


def test_a_disk_too_small_is_said_before_the_download(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.push("org/name", FILES)
    snapshot = look_up("org/name")
    usage = namedtuple("usage", "total used free")(0, 0, hub_fetch.SPARE_BYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UnsupportedError, match=r"needs 1\.0 MB more on the disk of .*HF_HUB_CACHE"):
        hub_fetch.fetch(snapshot, None, quiet)
    assert "model.safetensors" not in server.sent


def test_a_place_that_cannot_be_written(server: Hub, tmp_path: Path) -> None:
    server.push("org/name", FILES)
    (tmp_path / "hf").write_text("")
    with pytest.raises(UnsupportedError, match="HF_HUB_CACHE chooses another place"):
        look_up("org/name")


@pytest.mark.parametrize("n_cuts", [1, 3])
def test_a_cut_connection_goes_on(
    server: Hub, n_cuts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    server.push("org/name", FILES)
    snapshot = look_up("org/name")
    server.faults.cut_after = [200_000] * n_cuts
    folder = hub_fetch.fetch(snapshot, None, quiet)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert server.sent["model.safetensors"] == len(WEIGHTS)  # nothing was sent twice
    assert len(server.ranges) == n_cuts


def test_a_lying_server(server: Hub) -> None:
    server.push("org/name", FILES)
    snapshot = look_up("org/name")
    server.faults.altered = True
    with pytest.raises(UnsupportedError, match=r"model\.safetensors has sha256 .* it is not used"):
        hub_fetch.fetch(snapshot, None, quiet)
    assert not (snapshot.folder / "model.safetensors").exists()
    server.faults.altered, server.faults.short_by = False, 1000
    with pytest.raises(UnsupportedError, match=r"status 416.*run the same command to resume"):
        hub_fetch.fetch(snapshot, None, quiet)
    assert not (snapshot.folder / "model.safetensors").exists()
    server.faults.short_by, server.faults.wrong_etag = 0, True  # what counts is the content
    folder = hub_fetch.fetch(snapshot, None, quiet)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_half_of_another_content_begins_anew(server: Hub) -> None:
    server.push("org/name", FILES)
    snapshot = look_up("org/name")
    half = hub.storage("org/name") / "blobs"
    half.mkdir(parents=True, exist_ok=True)
    name = f"{hashlib.sha256(WEIGHTS).hexdigest()}{hub_fetch.HALF}"
    for left in (b"x" * 1000, b"x" * len(WEIGHTS), b"x" * (len(WEIGHTS) + 5)):
        (half / name).write_bytes(left)
        shutil.rmtree(snapshot.folder)
        (half / hashlib.sha256(WEIGHTS).hexdigest()).unlink(missing_ok=True)
        folder = hub_fetch.fetch(snapshot, None, quiet)
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("harm", ["truncate", "change", "remove", "dangle"])
def test_a_broken_cache_mends_itself(server: Hub, harm: str) -> None:
    server.push("org/name", FILES)
    snapshot = look_up("org/name")
    file = hub_fetch.fetch(snapshot, None, quiet) / "model.safetensors"
    if harm == "truncate":
        file.write_bytes(WEIGHTS[:-1])
    elif harm == "change":
        file.write_bytes(b"x" + WEIGHTS[1:])
    elif harm == "remove":
        file.unlink()
    else:
        file.resolve().unlink()
    assert hub_fetch.fetch(snapshot, None, quiet) == file.parent
    assert file.read_bytes() == WEIGHTS


def test_two_runs_at_once_fetch_once(server: Hub) -> None:
    server.push("org/name", FILES)
    server.faults.bytes_per_s = 2e6
    code = (
        "from bench.models import hub, hub_fetch\n"
        "s = hub.look_up(hub.parse('org/name'), print)\n"
        "print(hub_fetch.fetch(s, None, print))\n"
    )
    run = [sys.executable, "-c", code]
    both = [subprocess.Popen(run, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate(timeout=120)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert server.sent["model.safetensors"] == len(WEIGHTS)
    assert sum("fetching org/name" in text for text in said) == 1


def test_progress_has_size_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 3.0, 4.0, 14.0])
    monkeypatch.setattr(hub_fetch.time, "monotonic", lambda: next(now))
    said: list[str] = []
    meter = hub_fetch.DownloadMeter(2_000_000_000, said.append)
    for _ in range(3):
        meter.update(400_000_000)
    assert said == [
        "  400.0 MB of 2.0 GB (20%), 133.3 MB/s, about 0 min left",
        "  1.2 GB of 2.0 GB (60%), 85.7 MB/s, about 0 min left",
    ]


def test_a_card_falls_back_to_random_weights_and_says_so(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Experiment(name="x", question="?", grid=Grid(model=("qwen3-0.6b", "llama-3.2-1b")))
    server.push("Qwen/Qwen3-0.6B", FILES)
    server.repos["meta-llama/Llama-3.2-1B"] = Repo(gated=True)
    server.push("meta-llama/Llama-3.2-1B", FILES)
    said: list[str] = []
    found = pinned(wanted, said.append).grid.model
    commit = server.repos["Qwen/Qwen3-0.6B"].main[:12]
    assert found == (f"qwen3-0.6b@{commit}", "llama-3.2-1b@random")
    assert "is gated" in said[0]
    assert said[1] == (
        "llama-3.2-1b: measured with random weights of its shape, so without quality"
    )
    assert resolve_model(found[0]).card.name == "qwen3-0.6b"
    explicit = Experiment(name="x", question="?", grid=Grid(model=("llama-3.2-1b@hub",)))
    with pytest.raises(UnsupportedError, match="is gated"):
        pinned(explicit, quiet)
    with pytest.raises(UnsupportedError, match="is gated"):
        pinned(Experiment(name="x", question="?", grid=Grid(model=("meta-llama/Llama-3.2-1B",))),
               quiet)  # fmt: skip


def test_gguf_files_of_an_experiment_are_left_out_where_they_cannot_be_had(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = load_experiment("rtx-4080-8b-gguf")
    server.push("Qwen/Qwen3-8B", FILES)
    files = {f"Qwen3-8B-{kind}.gguf": WEIGHTS for kind in ("Q4_K_M", "Q6_K")}
    server.push("Qwen/Qwen3-8B-GGUF", files)
    said: list[str] = []
    with pytest.raises(InputError, match="Q8_0"):  # a name that is wrong is no missing network
        pinned(wanted, said.append)
    server.push("Qwen/Qwen3-8B-GGUF", files | {"Qwen3-8B-Q8_0.gguf": WEIGHTS})
    found = pinned(wanted, said.append)
    commits = {repo: server.repos[repo].main[:12] for repo in ("Qwen/Qwen3-8B-GGUF",)}
    assert [v.model for v in found.variants][1:] == [
        f"Qwen/Qwen3-8B-GGUF@{commits['Qwen/Qwen3-8B-GGUF']}:Qwen3-8B-{kind}.gguf"
        for kind in ("Q4_K_M", "Q6_K", "Q8_0")
    ]
    assert found.baseline == f"{found.variants[0].model}/graph/int8-weight-only/cuda-graph"

    monkeypatch.setattr(hub, "look_up", unreachable)
    (alone,) = pinned(wanted, said.append).variants
    assert alone.model == "qwen3-8b@random"
    assert sum("skipped" in one for one in said) == 3
    name = Experiment(
        name="x",
        question="?",
        grid=Grid(model=("Qwen/Qwen3-8B-GGUF:Q4_K_M", "qwen3-8b"), engine=("llama.cpp",)),
    )
    with pytest.raises(UnsupportedError, match="cannot be reached"):
        pinned(name, quiet)


def unreachable(*_: object) -> Any:
    raise UnsupportedError("the hub cannot be reached")


def test_a_plan_asks_nothing_of_a_card(server: Hub) -> None:
    wanted = Experiment(name="x", question="?", grid=Grid(model=("qwen3-0.6b",)))
    assert pinned(wanted, quiet, planning=True) == wanted
    assert server.requests == []


def test_a_servers_arm_keeps_its_models_name(server: Hub) -> None:
    commit = server.push("org/name", FILES)
    grid = Grid(model=("org/name",), engine=("transformers", "endpoint"))
    found = pinned(Experiment(name="x", question="?", grid=grid), quiet)
    assert [v.model for v in found.variants] == [f"org/name@{commit[:12]}", "org/name"]
    alone = Experiment(name="x", question="?", grid=Grid(model=("a/b",), engine=("endpoint",)))
    assert pinned(alone, quiet) == alone


def bench(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )


@pytest.fixture(scope="session")
def middling_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of 60 MB: larger than the pieces in which the client keeps what has come."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models") / "middling"
    shutil.copytree(tiny_folder, folder)
    wide = TINY | {"hidden_size": 512, "intermediate_size": 4096}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**wide)).save_pretrained(folder)
    return folder


EXPERIMENT = """
name = "by-name"
question = "?"
[grid]
device = "cpu"
n_prompt = [4]
n_gen = [2]
[measure]
pairs = 1
iterations = 1
window_s = 0.1
warmup_max_s = 0.5
idle_s = 0.0
[quality]
max_tokens = 128
window = 64
"""


@pytest.mark.slow
def test_the_whole_path_by_name(
    server: Hub, middling_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a name to speed and quality; interrupted at 5 points while fetching, and resumed."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    commit = server.push_folder("org/tiny", middling_folder, license="mit")
    large = (middling_folder / "model.safetensors").stat().st_size
    server.faults.bytes_per_s = large / 4
    (tmp_path / "by-name.toml").write_text(EXPERIMENT)
    run = ["run", str(tmp_path / "by-name.toml"), "-m", "org/tiny", "-o", "json"]
    run += ["--into", str(tmp_path / "into")]
    for share in (0.0, 0.15, 0.35, 0.55, 0.8):
        one = subprocess.Popen(
            [sys.executable, "-m", "bench", *run],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while server.sent.get("model.safetensors", 0) <= share * large and one.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert one.poll() is None, f"ended before {share:.0%}"
        one.kill() if share in (0.15, 0.55) else one.terminate()
        assert one.wait(60) in (-9, 130)
    server.faults.bytes_per_s = None
    halves = list(hub.storage("org/tiny").glob(f"blobs/*{hub_fetch.HALF}"))
    assert sum(half.stat().st_size for half in halves) >= constants.DOWNLOAD_CHUNK_SIZE
    done = bench(*run)
    assert done.returncode == 0, done.stderr
    assert f"fetching org/tiny at {commit[:12]} (mit)" in done.stderr
    assert "of it here from before" in done.stderr
    assert len(server.ranges) >= 2
    # A piece of 10 MB that was on its way, for each of five ends.
    assert server.sent["model.safetensors"] < large + 5 * constants.DOWNLOAD_CHUNK_SIZE
    folder = hub.storage("org/tiny") / "snapshots" / commit
    assert weights.sha256(folder / "model.safetensors") == weights.sha256(
        middling_folder / "model.safetensors"
    )
    assert not server.leaked
    # The client begins each fetch of its own with HEAD: the worker asked nothing.
    assert all(method == "GET" for method, _ in server.requests)
    (row,) = json.loads(done.stdout)
    assert row["model"] == f"org/tiny@{commit[:12]}"
    assert row["ppl"] > 1
    file = tmp_path / "into" / "records.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    variants = [line["variant"] for line in lines if line["kind"] != "environment"]
    assert len(variants) == 2
    for variant in variants:
        assert variant["source"] == "hub"
        assert (variant["repo"], variant["license"]) == ("org/tiny", "mit")
        assert variant["revision"] == commit

    asked = len(server.requests)
    again = bench(*run, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert len(server.requests) == asked
    assert "going by commit" in again.stderr
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(lines) + 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-m", "org/gone"], 2, "no folder 'org/gone' here, and the hub has no model org/gone"),
        (["-m", "org/gated"], 3, "org/gated is gated"),
        (["-m", "org/bert"], 2, "org/bert is BertModel: not a language model"),
        (["-m", "org/name@no"], 2, "org/name has no revision 'no'"),
        (["-m", "org/GGUF:Q2_K", "-e", "llama.cpp"], 2, "holds no GGUF file 'Q2_K'"),
    ],
)
def test_one_line_and_an_exit_code(
    server: Hub, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.cli import main

    server.push("org/name", FILES)
    server.push("org/gated", FILES, gated=True)
    server.push("org/bert", FILES | {"config.json": b'{"architectures": ["BertModel"]}'})
    server.push("org/GGUF", GGUF)
    for verb in ("run", "plan"):
        assert main([verb, *arguments]) == code
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_a_plan_of_a_name(server: Hub, tiny_folder: Path) -> None:
    commit = server.push_folder("org/tiny", tiny_folder)
    done = bench("plan", "-m", "org/tiny", "-q", "none,int8-weight-only", "-d", "cpu", "-o", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["model"] for row in rows] == [f"org/tiny@{commit[:12]}"] * 2
    assert all(row["memory_bytes"] > 0 for row in rows)
    assert "model.safetensors" not in server.sent


def test_an_interrupt_waits_for_no_thread(server: Hub) -> None:
    server.push("org/name", FILES)
    snapshot = look_up("org/name")
    server.faults.bytes_per_s = 10_000

    def interrupt(text: str) -> None:
        if text.startswith("fetching"):
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hub_fetch.fetch(snapshot, None, interrupt)
    server.faults.bytes_per_s = None
    assert time.monotonic() - before < 60  # the whole file would take 100 s


def test_the_first_error_stops_the_others(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.push("org/name", FILES)
    snapshot = look_up("org/name")
    server.faults.bytes_per_s = 100_000
    del server.repos["org/name"].commits[snapshot.revision]["tokenizer.json"]
    with pytest.raises(UnsupportedError, match="lists a file that it does not have"):
        hub_fetch.fetch(snapshot, None, quiet)
    assert server.sent["model.safetensors"] < len(WEIGHTS)


def test_an_error_that_is_not_known_is_not_hidden() -> None:
    with pytest.raises(KeyError), telling(hub.Ref(repo="a/b")):
        raise KeyError("x")
    with pytest.raises(BenchError, match="a/b: OSError: disk"), telling(hub.Ref(repo="a/b")):
        raise OSError("disk\nmore")
