"""An exported model: whole or not at all, and safe to open."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from cache import disk
from pipeline import EmotionRankCLAP
from pipeline.training.heads import load_heads, save_heads
from tests.faults.faulty_os import CHANGES, Crash, FaultyOs
from tests.inference.test_model import as_of_before, one_line, refusal
from tests.inputs.hostile_runs import nested

FILES = ["README.md", "config.json", "model.safetensors"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_loaded_exports_to_the_same_bytes(
    planted_model: EmotionRankCLAP, exported: Path, tmp_path: Path
) -> None:
    assert sorted(contents(exported)) == FILES
    again = EmotionRankCLAP.from_pretrained(exported)
    again.save_pretrained(tmp_path / "elsewhere/erc")
    assert contents(tmp_path / "elsewhere/erc") == contents(exported)
    for name, tensor in planted_model.heads.state_dict().items():
        assert torch.equal(again.heads.state_dict()[name], tensor)


def test_the_heads_are_the_best_seeds(planted_run: Path, planted_model: EmotionRankCLAP) -> None:
    about = json.loads((planted_run / "run.json").read_text())
    best = min(about["seeds"], key=lambda seed: about["seeds"][seed]["dev_loss"])
    heads, _ = load_heads(planted_run / "seeds" / best / "heads.safetensors")
    assert planted_model.config.trained.seed == int(best)
    assert torch.equal(planted_model.heads.audio.weight, heads.audio.weight)


def test_no_path_of_this_machine_travels(exported: Path) -> None:
    for name, data in contents(exported).items():
        assert b"secret-place" not in data, name
    said = json.loads((exported / "config.json").read_text())["encoders"]
    assert (said["audio"]["model"], said["text"]["model"], said["text"]["revision"]) == (None, "owner/roberta", "v1")


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


def test_any_byte_that_changes_is_noticed(planted_model: EmotionRankCLAP, exported: Path) -> None:
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
    assert refused["config.json"] == 60
    assert not kept


def test_a_changed_figure_is_noticed(planted_model: EmotionRankCLAP, exported: Path) -> None:
    """It stood outside the checksum: an AOC of .053 was read as .073."""
    settings = json.loads((exported / "config.json").read_text())
    figure = settings["evaluation"]["heads"]["aoc"]
    figure["mean"] = -figure["mean"]
    (exported / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    assert "config.json: corrupt or edited" in one_line(lambda: EmotionRankCLAP.from_pretrained(exported), 5)


def test_an_export_of_before_has_a_part_of_config_json_under_its_checksum_and_is_read(exported: Path) -> None:
    about = as_of_before(exported)
    assert EmotionRankCLAP.from_pretrained(exported).config.trained.seed == about["trained"]["seed"]


def test_heads_of_another_export_are_refused(planted_model: EmotionRankCLAP, exported: Path) -> None:
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
    planted_model: EmotionRankCLAP, tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = FaultyOs(counted=CHANGES)
    monkeypatch.setattr(disk, "os", counted)
    planted_model.save_pretrained(tmp_path / "whole")
    for at in range(len(counted.calls)):
        monkeypatch.setattr(disk, "os", os)
        folder = tmp_path / f"{at}"
        if before == "an export":
            planted_model.save_pretrained(folder)
        monkeypatch.setattr(disk, "os", FaultyOs(at, errno.ENOSPC, counted=CHANGES))
        error = refusal(lambda folder=folder: planted_model.save_pretrained(folder))
        assert error is None or error.exit_code == 1
        monkeypatch.setattr(disk, "os", os)
        left = sorted(path.name for path in folder.glob("*"))
        assert left in ([], FILES) or "config.json" not in left
        assert not folder.is_dir() or left == FILES or not left, (at, left)
        planted_model.save_pretrained(folder)  # and nothing stands in the way of the next
        assert sorted(contents(folder)) == FILES


def test_an_export_killed_at_any_moment_over_another_is_whole_or_none(
    planted_model: EmotionRankCLAP, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = planted_model.config.trained.model_copy(update={"seed": 5})
    other = EmotionRankCLAP(planted_model.heads, planted_model.config.model_copy(update={"trained": trained}))
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
        planted_model.save_pretrained(exported)
    assert at > 10
    assert set(found) == {planted_model.config.trained.seed, 5}


def test_other_peoples_files_are_left_alone(planted_model: EmotionRankCLAP, planted_run: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    for folder in (planted_run, tmp_path):
        before = contents(folder) if folder == tmp_path else (folder / "run.json").read_bytes()
        assert "Choose another folder" in one_line(lambda folder=folder: planted_model.save_pretrained(folder), 2)
        assert before == (contents(folder) if folder == tmp_path else (folder / "run.json").read_bytes())
    assert not (planted_run / "config.json").exists()
