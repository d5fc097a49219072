"""Submission files for Test3: the predictions of scikit-learn's ridge, under the columns of the challenge."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as ScikitRidge

from cache.manifest import write_manifest
from cache.stores import Stores, open_stores
from pipeline.core.errors import UsageError
from pipeline.evaluation.challenge import write_challenge
from pipeline.evaluation.readout import PENALTIES
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.planted import plant
from tests.stage_two import SETTINGS, unlisted

SPLITS = {"train": 160, "dev": 50, "test1": 20, "test3": 30}
LETTERS = {"angry": "A", "sad": "S", "happy": "H", "surprised": "U", "fearful": "F", "disgust": "D", "neutral": "N"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds on stores with dominance; of Test3 nothing is known, and its files are not in order."""
    folder = tmp_path_factory.mktemp("challenge")
    styles = ("dimensional", "acoustic")
    manifest = plant(folder / "stores", SPLITS, audio_width=8, text_width=4, noise=0.3, styles=styles).manifest
    hidden = np.array([split == "test3" for split in manifest.split])
    valence, arousal = (np.where(hidden, np.nan, of) for of in (manifest.valence, manifest.arousal))
    changed = replace(
        manifest,
        audio=[f"Audios/MSP-PODCAST_{split}_{307 * row % 1000:04}.wav" for row, split in enumerate(manifest.split)],
        valence=valence,
        arousal=arousal,
        dominance=(valence + 2 * arousal) / 3,
        emotion=["" if of else name for name, of in zip(manifest.emotion, hidden, strict=True)],
    )
    return train(
        rewritten(folder / "stores", changed), method="clap_sce", seeds=2, overrides=SETTINGS, out=folder / "r"
    )


def rewritten(folder: Path, manifest: object) -> Stores:
    write_manifest(manifest, folder / "manifest.csv")  # type: ignore[arg-type]
    unlisted(folder)
    return open_stores(folder)


def predicted(run: Run, targets: np.ndarray, weights: np.ndarray, shared: bool) -> np.ndarray:
    """Of Test3 by scikit-learn's ridge of each seed's space, (n, k), mean over seeds; `shared`: one penalty."""
    stores, outputs = run.stores(), []
    rows = {split: stores.manifest.rows(split) for split in SPLITS}
    for seed in run.seeds:
        with torch.no_grad():
            space = run.heads(seed).embed_speech(
                torch.from_numpy(stores.audio.read(np.arange(sum(SPLITS.values())))[0])
            )
        x, w = space.double().numpy(), weights[rows["train"]]
        mean = np.average(x[rows["train"]], axis=0, weights=w)
        x = (x - mean) / np.sqrt(np.average((x[rows["train"]] - mean) ** 2, axis=0, weights=w))
        fits = [ScikitRidge(w.sum() * each).fit(x[rows["train"]], targets[rows["train"]], w) for each in PENALTIES]
        errors = np.array([weights[rows["dev"]] @ (fit.predict(x) - targets)[rows["dev"]] ** 2 for fit in fits])
        best = np.full(targets.shape[1], errors.sum(axis=1).argmin()) if shared else errors.argmin(axis=0)
        of_fits = np.array([fit.predict(x[rows["test3"]]) for fit in fits])  # (P, n, k)
        outputs.append(of_fits[best, :, np.arange(targets.shape[1])].T)
    found: np.ndarray = np.mean(outputs, axis=0)
    return found


def read(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_attributes_are_those_of_scikit_learns_ridge_in_the_order_of_the_file(run: Run, tmp_path: Path) -> None:
    found = write_challenge(run, tmp_path / "sent" / "first")
    assert (found["utterances"], found["seeds"]) == (30, [0, 1])
    manifest = run.stores().manifest
    labels = np.stack([manifest.arousal, manifest.valence, manifest.dominance], axis=1)
    expected = predicted(run, np.nan_to_num(labels), np.ones(len(labels)), shared=False).clip(1, 7)
    lines = read(found["files"]["attributes"])
    assert list(lines[0]) == ["FileName", "EmoAct", "EmoVal", "EmoDom"]
    names = [Path(manifest.audio[row]).name for row in manifest.rows("test3")]
    assert [line["FileName"] for line in lines] == sorted(names) != names
    values = {line["FileName"]: [float(line[name]) for name in ("EmoAct", "EmoVal", "EmoDom")] for line in lines}
    assert np.array([values[name] for name in names]) == pytest.approx(expected, abs=6e-5)
    assert expected[:, 0].std() > 0.1


def test_a_category_is_the_letter_of_the_highest_output_that_has_one(run: Run, tmp_path: Path) -> None:
    lines = read(write_challenge(run, tmp_path)["files"]["categories"])
    assert list(lines[0]) == ["FileName", "EmoClass"]
    manifest = run.stores().manifest
    categories = sorted(set(manifest.emotion) - {""})
    assert "calm" in categories
    hot = (np.array(manifest.emotion)[:, None] == categories).astype(float)
    weights = np.zeros(len(hot))
    for split in ("train", "dev"):
        rows = manifest.rows(split)
        weights[rows] = 1 / hot[rows].sum(0)[hot[rows].argmax(1)]
    outputs = predicted(run, hot, weights, shared=True)
    outputs[:, categories.index("calm")] = -np.inf  # none of the corpus's
    names = [Path(manifest.audio[row]).name for row in manifest.rows("test3")]
    expected = {name: LETTERS[categories[best]] for name, best in zip(names, outputs.argmax(1), strict=True)}
    assert {line["FileName"]: line["EmoClass"] for line in lines} == expected
    assert len(set(expected.values())) > 2


def test_what_cannot_be_read_out_is_left_out_or_refused_in_a_line(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = run.stores().manifest
    without = replace(manifest, dominance=np.full(len(manifest), np.nan))
    stores = plant(tmp_path / "stores", SPLITS, audio_width=8, text_width=4)
    found = write_challenge(run, tmp_path / "out", stores=rewritten(stores.folder, without))
    assert found["files"].keys() == {"categories"}
    assert "no test3_attributes.csv: the labels of task attributes are not known in both train and dev" in caplog.text
    nothing = replace(without, emotion=[""] * len(manifest))
    with pytest.raises(
        UsageError, match="train and dev without such labels; expected categories by MSP-Podcast's names"
    ):
        write_challenge(run, tmp_path / "none", stores=rewritten(plant_again(tmp_path / "b"), nothing))
    other = replace(manifest, split=["test1" if each == "test3" else each for each in manifest.split])
    with pytest.raises(UsageError, match="splits dev, test1, train; expected test3 among them"):
        write_challenge(run, tmp_path / "none", stores=rewritten(plant_again(tmp_path / "c"), other))
    assert not (tmp_path / "none").exists()


def plant_again(folder: Path) -> Path:
    return plant(folder, SPLITS, audio_width=8, text_width=4).folder
