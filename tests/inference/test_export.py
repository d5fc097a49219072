"""An exported model: whole or not at all, safe to open, described, and on the hub."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard, constants

from cache import disk
from cache.writer import StoreWriter
from pipeline import EmotionRankCLAP, evaluate, train
from pipeline.core.config import AudioConfig, TextConfig, TrainConfig
from pipeline.core.errors import EmotionRankError
from pipeline.inference.model_card import card_of
from pipeline.training.heads import load_heads, save_heads
from pipeline.training.run_folder import open_run
from tests.faults.faulty_os import CHANGES, Crash, FaultyOs
from tests.inference.model_hub import Hub, serving
from tests.inference.test_model import CONFIG, one_line, refusal
from tests.inputs.hostile_runs import nested
from tests.planted import plant
from tests.speech import tone

ROOT = Path(__file__).resolve().parents[2]
FILES = ["README.md", "config.json", "model.safetensors"]
TESTS = ["trials=2", "lists=14", "projections=2", "pairs=8"]
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds, evaluated, on planted vectors that say they come from encoders in folders."""
    folder = tmp_path_factory.mktemp("secret-place")
    planted = plant(folder / "stores", {"train": 48, "dev": 16, "test": 16}, audio_width=6, text_width=5)
    with StoreWriter(planted.audio) as writer:
        writer.reset([79])
        writer.fail(79, "a bad file", bytes(16))
    encoders = {
        "audio": AudioConfig(encoder="transformers", model=str(folder / "wavlm")).model_dump(mode="json"),
        "text": TextConfig(encoder="transformers", model="owner/roberta", revision="v1").model_dump(mode="json"),
    }
    (folder / "stores/config.yaml").write_text(yaml.safe_dump(encoders))
    run = train(folder / "stores", method=CONFIG, out=folder / "run", seeds=2)
    evaluate(run, overrides=TESTS)
    return folder / "run"


@pytest.fixture(scope="module")
def model(trained: Path) -> EmotionRankCLAP:
    return EmotionRankCLAP.from_pretrained(trained)


@pytest.fixture
def exported(model: EmotionRankCLAP, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "erc")
    return tmp_path / "erc"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_loaded_exports_to_the_same_bytes(model: EmotionRankCLAP, exported: Path, tmp_path: Path) -> None:
    assert sorted(contents(exported)) == FILES
    again = EmotionRankCLAP.from_pretrained(exported)
    again.save_pretrained(tmp_path / "elsewhere/erc")
    assert contents(tmp_path / "elsewhere/erc") == contents(exported)
    for name, tensor in model.heads.state_dict().items():
        assert torch.equal(again.heads.state_dict()[name], tensor)


def test_the_heads_are_the_best_seeds(trained: Path, model: EmotionRankCLAP) -> None:
    about = json.loads((trained / "run.json").read_text())
    best = min(about["seeds"], key=lambda seed: about["seeds"][seed]["dev_loss"])
    heads, _ = load_heads(trained / "seeds" / best / "heads.safetensors")
    assert model.config.trained.seed == int(best)
    assert torch.equal(model.heads.audio.weight, heads.audio.weight)


def test_no_path_of_this_machine_travels(exported: Path) -> None:
    for name, data in contents(exported).items():
        assert b"secret-place" not in data, name
    said = json.loads((exported / "config.json").read_text())["encoders"]
    assert (said["audio"]["model"], said["text"]["model"], said["text"]["revision"]) == (None, "owner/roberta", "v1")


def test_the_card_says_what_the_run_says(trained: Path, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    _, body = card.removeprefix("---\n").split("---\n", 1)
    assert "| train | 48 |\n| dev | 16 |\n| test | 15 |" in body
    assert "| text | transformers | owner/roberta | v1 |" in body
    assert 'from_pretrained("erc", audio_model="' in body
    assert "exp(-gamma \\|x - y\\|^2)" in body  # a bar in a table's cell
    measured = json.loads((trained / "evaluation.json").read_text())
    own = measured["seeds"][str(json.loads((trained / "run.json").read_text())["best_seed"])]
    for test, names in {"ordinality": ("aoc", "voc"), "alignment": ("mmd", "wasserstein")}.items():
        for name in names:
            figures = [each[test][name] for each in (own, measured)]
            cells = " | ".join(f"{figure['mean']:.3f} ± {figure['std']:.3f}" for figure in figures)
            assert f"| {name} | {cells} |" in body
    for part in ("Intended use and limits", "MIT licence", "Interspeech 2025", "rank_n_contrast", "[0, 1]"):
        assert part in body


def test_the_metadata_of_the_card_is_what_the_hub_reads(trained: Path, exported: Path) -> None:
    data = ModelCard.load(exported / "README.md").data
    assert (data.library_name, data.license, data.model_name) == ("emotionrankclap", "other", "erc")
    assert data.base_model == ["owner/roberta"]  # the other encoder lies in a folder, whose path stays here
    assert data.metrics == ["aoc", "voc", "mmd", "wasserstein", "sliced_wasserstein"]
    assert (data.language, data.datasets) == (None, None)  # a manifest may hold anything
    best = str(json.loads((trained / "run.json").read_text())["best_seed"])
    measured = json.loads((trained / "evaluation.json").read_text())["seeds"][best]
    for result in data.eval_results:
        test = "ordinality" if result.metric_type in ("aoc", "voc") else "alignment"
        assert result.metric_value == measured[test][result.metric_type]["mean"]
        assert (result.dataset_name, result.dataset_split) == ("custom corpus", "test")


def test_a_known_corpus_is_in_the_metadata(model: EmotionRankCLAP) -> None:
    described = model.config.model_copy(update={"data": model.config.data.model_copy(update={"corpus": "emodb"})})
    data = ModelCard(card_of(described, "me/erc")).data
    assert (data.language, data.datasets, data.eval_results[0].dataset_name) == ("de", ["emodb"], "EmoDB")


HOSTILE = "a`|<b>[x](http://evil.invalid)\n---\ntags: [evil]\n# {{ 7 * 7 }} {% raw %}"


def test_text_of_a_stranger_is_no_markup_and_no_metadata(model: EmotionRankCLAP) -> None:
    """config.json of a downloaded model is exported again."""
    plain = model.config
    assert plain.evaluation is not None
    figure = plain.evaluation.heads["aoc"].model_copy(update={"convention": HOSTILE})
    evaluation = plain.evaluation.model_copy(
        update={"split": HOSTILE, "style": HOSTILE, "heads": {HOSTILE: figure, "aoc": figure}}
    )
    data = plain.data.model_copy(update={"corpus": HOSTILE, "utterances": {HOSTILE: 1}})
    training = plain.training.model_copy(update={"method": HOSTILE})
    described = plain.model_copy(update={"evaluation": evaluation, "data": data, "training": training})
    card = ModelCard(card_of(described, "erc"))
    assert card.data.tags == ModelCard(card_of(plain, "erc")).data.tags
    assert card.data.datasets is None
    for markup in ("<b>", "](http", "\n# {{", "\ntags:", "`|"):
        assert markup not in card.text
    rows = [line for line in card.text.splitlines() if line.startswith("| a\\|")]
    assert len(rows) == 2  # the split and the metric
    assert "{{ 7 * 7 }}" in card.text


def test_figures_of_other_heads_are_left_out(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for edit in (lambda found: found["trained"].pop("0"), lambda found: found.pop("ordinality")):
        found = json.loads((trained / "evaluation.json").read_text())
        edit(found)
        (run / "evaluation.json").write_text(json.dumps(found))
        assert EmotionRankCLAP.from_pretrained(run).config.evaluation is None
        assert "evaluation.json: left out" in capsys.readouterr().err
    (run / "evaluation.json").unlink()
    EmotionRankCLAP.from_pretrained(run).save_pretrained(tmp_path / "erc")
    assert "None yet" in (tmp_path / "erc/README.md").read_text()


Edit = Callable[[dict[str, Any]], Any]
SETTINGS: dict[str, Edit] = {
    "nothing": lambda s: "",
    "cut": lambda s: json.dumps(s)[:-9],
    "a list": lambda s: [s],
    "100,000 brackets": lambda s: "[" * 100_000,
    "too large": lambda s: json.dumps(s) + " " * (1 << 20),
    "not UTF-8": lambda s: "\udc80",
    "a key twice": lambda s: json.dumps(s)[:-1] + ', "format": "emotionrankclap-model/1"}',
    "an unknown key": lambda s: s.update(auto_map={"AutoModel": "evil.Model"}),
    "another format": lambda s: s.update(format="emotionrankclap-model/9"),
    **{f"no {key}": lambda s, key=key: s.pop(key) and None for key in ("encoders", "fingerprint", "trained", "data")},
    "a model that is a path": lambda s: s["encoders"]["text"].update(model="/etc"),
    "a model beside": lambda s: s["encoders"]["text"].update(model="../x"),
    "a model at home": lambda s: s["encoders"]["audio"].update(model="~/x"),
    "a fingerprint nested deep": lambda s: s["fingerprint"].update(audio=nested(900)),
    "a loss that is none": lambda s: s["trained"].update(dev_loss=float("nan")),
    "another epoch": lambda s: s["trained"].update(epoch=1 + s["trained"]["epoch"]),
    "another fingerprint": lambda s: s["fingerprint"]["audio"].update(encoder={"encoder": "other"}),
    "a number of 10,000 digits": lambda s: json.dumps(s).replace('"epochs": 2', '"epochs": ' + "1" * 10_000),
    "a count in words": lambda s: s["data"]["utterances"].update(train="many"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_config_json_that_cannot_be_true_is_one_line(exported: Path, case: str) -> None:
    settings = json.loads((exported / "config.json").read_text())
    found = SETTINGS[case](settings)
    text = found if isinstance(found, str) else json.dumps(settings if found is None else found)
    (exported / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    said = one_line(lambda: EmotionRankCLAP.from_pretrained(exported), 5)
    assert str(exported) in said
    assert "\n" not in said
    assert len(said) < 1500


def test_any_byte_that_changes_is_noticed_or_changes_no_tensor(model: EmotionRankCLAP, exported: Path) -> None:
    draw = random.Random(0)
    whole = contents(exported)
    refused = {"config.json": 0, "model.safetensors": 0}
    kept: list[EmotionRankCLAP] = []
    for case in range(120):
        name = ("config.json", "model.safetensors")[case % 2]
        data = bytearray(whole[name])
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (exported / name).write_bytes(data)
        error = refusal(lambda: kept.append(EmotionRankCLAP.from_pretrained(exported)))
        if error:
            assert error.exit_code == 5
            assert "\n" not in str(error)
            refused[name] += 1
        (exported / name).write_bytes(whole[name])
    assert refused["model.safetensors"] == 60
    assert refused["config.json"] > 30
    assert all(torch.equal(each.heads.audio.weight, model.heads.audio.weight) for each in kept)


def test_heads_of_another_export_are_refused(model: EmotionRankCLAP, exported: Path) -> None:
    heads, about = load_heads(exported / "model.safetensors")
    save_heads(heads, exported / "model.safetensors", about | {"trained": {"seed": 7}})
    assert "other heads" in one_line(lambda: EmotionRankCLAP.from_pretrained(exported), 5)
    deep = {"fingerprint": {"audio": nested(900), "text": {}}, "trained": about["trained"]}  # both files agree in it
    save_heads(heads, exported / "model.safetensors", deep)
    settings = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps(settings | {"fingerprint": deep["fingerprint"]}))
    assert "nested too deeply" in one_line(lambda: EmotionRankCLAP.from_pretrained(exported), 5)
    (exported / "model.safetensors").unlink()
    one_line(lambda: EmotionRankCLAP.from_pretrained(exported), 5)
    (exported / "config.json").unlink()
    assert "not a model" in one_line(lambda: EmotionRankCLAP.from_pretrained(exported), 2)
    os.mkfifo(exported / "config.json")
    assert "not a model" in one_line(lambda: EmotionRankCLAP.from_pretrained(exported), 2)


@pytest.mark.parametrize("before", ["no folder", "an export"])
def test_a_disk_that_fails_leaves_no_half_export(
    model: EmotionRankCLAP, tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = FaultyOs(counted=CHANGES)
    monkeypatch.setattr(disk, "os", counted)
    model.save_pretrained(tmp_path / "whole")
    for at in range(len(counted.calls)):
        monkeypatch.setattr(disk, "os", os)
        folder = tmp_path / f"{at}"
        if before == "an export":
            model.save_pretrained(folder)
        monkeypatch.setattr(disk, "os", FaultyOs(at, errno.ENOSPC, counted=CHANGES))
        error = refusal(lambda folder=folder: model.save_pretrained(folder))
        assert error is None or error.exit_code == 1
        monkeypatch.setattr(disk, "os", os)
        left = sorted(path.name for path in folder.glob("*"))
        assert left in ([], FILES) or "config.json" not in left
        assert not folder.is_dir() or left == FILES or not left, (at, left)
        model.save_pretrained(folder)  # and nothing stands in the way of the next
        assert sorted(contents(folder)) == FILES


def test_an_export_killed_at_any_moment_over_another_is_whole_or_none(
    model: EmotionRankCLAP, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = model.config.trained.model_copy(update={"seed": 5})
    other = EmotionRankCLAP(model.heads, model.config.model_copy(update={"trained": trained}))
    found: list[int] = []
    for at in range(100):
        fault = FaultyOs(at, counted=CHANGES)
        monkeypatch.setattr(disk, "os", fault)
        with suppress(Crash):
            other.save_pretrained(exported)
        monkeypatch.setattr(disk, "os", os)
        if (exported / "config.json").exists():
            found.append(EmotionRankCLAP.from_pretrained(exported).config.trained.seed)
        if not fault.dead:
            break
        model.save_pretrained(exported)
    assert at > 10
    assert set(found) == {model.config.trained.seed, 5}


def test_other_peoples_files_are_left_alone(model: EmotionRankCLAP, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    for folder in (trained, tmp_path):
        before = contents(folder) if folder == tmp_path else (folder / "run.json").read_bytes()
        assert "Choose another folder" in one_line(lambda folder=folder: model.save_pretrained(folder), 2)
        assert before == (contents(folder) if folder == tmp_path else (folder / "run.json").read_bytes())
    assert not (trained / "config.json").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on loopback, a token for it, and a cache of its own."""
    with serving() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield hub


def test_a_model_pushed_to_the_hub_comes_back_from_it(model: EmotionRankCLAP, hub: Hub, tmp_path: Path) -> None:
    assert model.push_to_hub("me/erc", commit_message="first").startswith(f"{hub.url}/me/erc/commit/")
    assert sorted(hub.files) == FILES
    assert [commit["summary"] for commit in hub.commits] == ["first"]
    assert hub.created[0]["visibility"] == "private"
    assert b'from_pretrained("me/erc"' in hub.files["README.md"]
    hub.files |= {"pytorch_model.bin": b"pickle", "evil.py": b"code", "run.sh": b"code"}
    hub.asked.clear()
    back = EmotionRankCLAP.from_pretrained("me/erc")
    back.save_pretrained(tmp_path / "erc")
    assert (tmp_path / "erc/config.json").read_bytes() == hub.files["config.json"]
    assert torch.equal(back.heads.text.weight, model.heads.text.weight)
    fetched = {path.rsplit("/", 1)[1] for _, path in hub.asked if "/resolve/" in path}
    assert fetched == set(FILES)


def test_the_token_goes_to_the_hub_and_nowhere_else(model: EmotionRankCLAP, hub: Hub, tmp_path: Path) -> None:
    model.push_to_hub("me/erc")
    EmotionRankCLAP.from_pretrained("me/erc").save_pretrained(tmp_path / "again")
    hub.status = 401
    for work in (lambda: model.push_to_hub("me/erc"), lambda: EmotionRankCLAP.from_pretrained("me/other")):
        with pytest.raises(EmotionRankError) as caught:
            work()
        assert "\n" not in str(caught.value)
        assert "401" in str(caught.value)
        assert TOKEN not in str(caught.value)
    assert f"Bearer {TOKEN}" in hub.tokens
    kept = [*hub.files.values(), *(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())]
    assert not [data for data in kept if TOKEN.encode() in data]


def test_what_is_meant_to_be_private_does_not_go_to_a_public_place(model: EmotionRankCLAP, hub: Hub) -> None:
    hub.public = True
    assert "public" in one_line(lambda: model.push_to_hub("me/erc"), 2)
    assert not hub.files
    model.push_to_hub("me/erc", private=False)
    assert sorted(hub.files) == FILES


def test_a_hub_that_cannot_be_reached_is_one_line(model: EmotionRankCLAP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "\n" not in one_line(lambda: model.push_to_hub("me/erc"), 1)
    assert "\n" not in one_line(lambda: EmotionRankCLAP.from_pretrained("me/erc"), 2)
    assert "\n" not in one_line(lambda: model.push_to_hub("no/such/name"), 1)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


@pytest.fixture
def place(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that docs/model.md speaks of."""
    for name, pitch in (("calm", 110.0), ("angry", 260.0), ("clip", 150.0)):
        soundfile.write(tmp_path / f"{name}.wav", tone(0.5, pitch=pitch), 16_000)
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores/msp").symlink_to(stores)
    config = TrainConfig(batch_size=4, epochs=1, threads=1)
    train(tmp_path / "stores/msp", method=config, out=tmp_path / "runs/erc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_page_and_of_the_card_run(place: Path, hub: Hub) -> None:
    names: dict[str, Any] = {}
    page = blocks(ROOT / "docs/model.md")
    assert len(page) == 5
    for block in page:
        exec(compile(block, "docs/model.md", "exec"), names)
    assert names["speech"].shape == (2, 512)
    assert names["similarity"].shape == (1, 6)
    torch.testing.assert_close(names["same"], names["speech"][:1], rtol=0, atol=1e-6)
    assert sorted(hub.files) == FILES
    (card,) = blocks(place / "exported/erc/README.md")
    os.chdir("exported")
    shutil.copy("../clip.wav", "clip.wav")
    exec(compile(card, "README.md", "exec"), names)
    assert names["speech"].shape == (1, 512)
    assert open_run(place / "runs/erc").seeds == [0]
