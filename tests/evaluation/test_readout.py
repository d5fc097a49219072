"""The read-outs against scikit-learn's ridge on standardised channels, and CCC against its own formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as ScikitRidge
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from cache.manifest import write_manifest
from cache.stores import Stores, open_stores
from pipeline.evaluation.readout import PENALTIES, ReadOut, concordance, unweighted_recall
from tests.planted import plant
from tests.stage_two import unlisted

SPLITS = {"train": 300, "dev": 80, "test": 120}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Emotions of nine in ten, dominance of two in three, arousal of most."""
    folder = tmp_path_factory.mktemp("readout") / "stores"
    manifest = plant(folder, SPLITS, audio_width=12, text_width=6, styles=("dimensional", "acoustic")).manifest
    rows = np.arange(len(manifest))
    known = replace(
        manifest,
        dominance=np.where(rows % 3 == 0, np.nan, (manifest.valence + manifest.arousal) / 2),
        arousal=np.where(rows % 11 == 0, np.nan, manifest.arousal),
        emotion=["" if row % 10 == 3 else name for row, name in enumerate(manifest.emotion)],
    )
    write_manifest(known, folder / "manifest.csv")
    unlisted(folder)
    return open_stores(folder)


def ccc(x: np.ndarray, y: np.ndarray) -> float:
    """By Pearson's correlation."""
    spread = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return float(2 * np.corrcoef(x, y)[0, 1] * x.std() * y.std() / spread)


def squares(vectors: torch.Tensor) -> torch.Tensor:
    """Some space; its last channel is constant."""
    return torch.cat([vectors, vectors**2, torch.ones(len(vectors), 1)], dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_concordance_is_that_of_pearsons_correlation(seed: int) -> None:
    x, y = np.random.default_rng(seed).normal([[1.0], [seed]], 2, (2, 50))
    assert concordance(x, y) == pytest.approx(ccc(x, y), abs=1e-12)
    assert concordance(x + y, y) == pytest.approx(ccc(x + y, y), abs=1e-12)
    assert concordance(y, y) == pytest.approx(1)
    assert concordance(np.full(50, 4.0), y) == 0
    assert concordance(np.full(3, 4.0), np.full(3, 4.0)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_unweighted_recall_is_scikit_learns_balanced_accuracy(seed: int) -> None:
    truth, predicted = np.random.default_rng(seed).integers(0, 4, (2, 60))
    predicted[truth == 3] = 0
    assert unweighted_recall(truth, predicted) == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)


def part(stores: Stores, split: str, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a split's utterances that are `known`, in the space `squares`, and their rows."""
    rows = np.array([row for row in stores.manifest.rows(split) if known[row]])
    return squares(torch.from_numpy(stores.audio.read(rows)[0])).double().numpy(), rows


@pytest.mark.parametrize("block", [32, 4096])
@pytest.mark.parametrize("name", ["valence", "arousal", "dominance"])
def test_a_dimension_is_read_out_by_scikit_learns_ridge(
    stores: Stores, name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluation.readout._BLOCK_ROWS", block)
    labels = getattr(stores.manifest, name)
    (x, train), (dev_x, dev), (test_x, test) = (part(stores, split, np.isfinite(labels)) for split in SPLITS)
    scaler = StandardScaler().fit(x)
    fits = [ScikitRidge(alpha=len(x) * penalty).fit(scaler.transform(x), labels[train]) for penalty in PENALTIES]
    best = min(fits, key=lambda fit: float(np.mean((fit.predict(scaler.transform(dev_x)) - labels[dev]) ** 2)))
    found = ReadOut(stores, "test", CPU).measure(squares)
    assert found[f"{name}_ccc"] == pytest.approx(ccc(best.predict(scaler.transform(test_x)), labels[test]), abs=1e-10)
    assert found[f"{name}_ccc"] > 0.15


def test_the_probe_is_scikit_learns_ridge_with_categories_of_equal_weight(stores: Stores) -> None:
    emotions = np.array(stores.manifest.emotion)
    (x, train), (dev_x, dev), (test_x, test) = (part(stores, split, emotions != "") for split in SPLITS)
    names, hot = np.unique(emotions[emotions != ""]), {}
    weights = {}
    for split, rows in (("train", train), ("dev", dev)):
        hot[split] = (emotions[rows][:, None] == names).astype(float)
        weights[split] = 1 / hot[split].sum(0)[hot[split].argmax(1)]
    mean = np.average(x, axis=0, weights=weights["train"])
    std = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights["train"]))
    std[-1] = 1  # constant
    fits = [
        ScikitRidge(alpha=weights["train"].sum() * penalty).fit((x - mean) / std, hot["train"], weights["train"])
        for penalty in PENALTIES
    ]
    best = min(
        fits, key=lambda fit: weights["dev"] @ ((fit.predict((dev_x - mean) / std) - hot["dev"]) ** 2).sum(axis=1)
    )
    predicted = names[best.predict((test_x - mean) / std).argmax(axis=1)]
    test_readout = ReadOut(stores, "test", CPU)
    found = test_readout.measure(squares)["category_uar"]
    assert found == pytest.approx(balanced_accuracy_score(emotions[test], predicted), abs=1e-12)
    assert found > test_readout.chance()["category_uar"] == 1 / len(set(emotions[test]))


def test_conventions_count_what_is_known(stores: Stores) -> None:
    test = ReadOut(stores, "test", CPU)
    assert test.notes == []
    assert test.conventions().keys() == test.chance().keys() == test.measure(squares).keys()
    assert "fitted on 200 utterances of train" in test.conventions()["dominance_ccc"]
    assert test.conventions()["category_uar"].endswith("on 72 of dev, measured on 108 of test")


def test_what_is_not_labelled_is_left_out_with_a_line(tmp_path: Path) -> None:
    planted = plant(tmp_path / "stores", {"train": 40, "test": 20}, audio_width=4, text_width=3)
    nothing = ReadOut(planted, "test", CPU)
    assert nothing.measure(squares) == nothing.chance() == nothing.conventions() == {}
    assert nothing.notes == [
        "read-out of valence, arousal, dominance, category is not measured: it needs two different labels in train "
        "and in test, and one in dev"
    ]
    planted = plant(tmp_path / "some", {"train": 40, "dev": 9, "test": 20}, audio_width=4, text_width=3)
    some = ReadOut(planted, "test", CPU)
    assert [note.partition(" is not")[0] for note in some.notes] == ["read-out of dominance, category"]
    assert some.measure(squares).keys() == {"valence_ccc", "arousal_ccc"}


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_space_of_one_point_holds_nothing(stores: Stores, noise: float) -> None:
    test = ReadOut(stores, "test", CPU)
    found = test.measure(lambda vectors: 0.3 + noise * vectors)
    assert found == pytest.approx(test.chance(), abs=1e-9)
