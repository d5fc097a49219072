"""Audio-only ordinality by a loop over anchors and scipy's Kendall's tau."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.stats import kendalltau
from sklearn.preprocessing import StandardScaler

from cache.pairs import cached_pairs
from pipeline.evaluation import speech_ordinality
from pipeline.evaluation.references import reference_results
from pipeline.evaluation.speech_ordinality import SpeechOrdinalityTest
from tests.planted import plant


def labels_of(count: int, seed: int) -> np.ndarray:
    """Means of five whole ratings, some unknown; dominance of half."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(1, 8, (count, 5, 3)).mean(axis=1)
    labels[::7, 1] = np.nan
    labels[::2, 2] = np.nan
    return labels


def by_hand(labels: np.ndarray, speech: np.ndarray, columns: list[int], seed: int, counts: tuple[int, int]) -> float:
    known = [row for row in range(len(labels)) if np.isfinite(labels[row, columns]).all()]
    order = np.random.default_rng(seed).permutation(known).tolist()
    taus = []
    for anchor in order[: counts[0]]:
        others = [row for row in order[-counts[1] :] if row != anchor]
        of_labels = [round(sum((labels[row, c] - labels[anchor, c]) ** 2 for c in columns), 6) for row in others]
        tau = kendalltau(of_labels, [cosine(speech[row], speech[anchor]) for row in others]).statistic
        taus.append(0.0 if np.isnan(tau) else tau)
    return float(np.mean(taus))


@pytest.mark.parametrize(("count", "counts"), [(60, (200, 1000)), (60, (8, 20)), (90, (60, 60))])
@pytest.mark.parametrize("seed", range(2))
def test_every_measure_is_the_mean_tau_of_a_loop_over_anchors(
    count: int, counts: tuple[int, int], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_ordinality, "ANCHORS", counts[0])
    monkeypatch.setattr(speech_ordinality, "COMPARED", counts[1])
    labels = labels_of(count, seed)
    speech = np.random.default_rng(seed).standard_normal((count, 5)) + np.nan_to_num(labels[:, :1])
    test = SpeechOrdinalityTest(labels, seed)
    found = test.measure(torch.from_numpy(speech[test.utterances]))
    columns = {"valence": [0], "arousal": [1], "dominance": [2], "plane": [0, 1]}
    expected = {f"{name}_tau": by_hand(labels, speech, of, seed, counts) for name, of in columns.items()}
    assert found == pytest.approx(expected, abs=1e-10)
    assert test.conventions().keys() == test.chance().keys() == found.keys()
    assert test.notes == []


def test_a_space_in_the_order_of_the_labels_is_1_one_without_order_near_0_and_one_of_equal_vectors_0() -> None:
    valence = np.random.default_rng(0).permutation(1500) / 250 + 1
    test = SpeechOrdinalityTest(np.c_[valence, np.full((1500, 2), np.nan)], seed=3)
    angle = torch.from_numpy(valence[test.utterances] / 3)
    assert test.measure(torch.stack([angle.cos(), angle.sin()], dim=1))["valence_tau"] == pytest.approx(1, abs=1e-3)
    noise = np.random.default_rng(1).standard_normal((len(angle), 8))
    assert abs(test.measure(torch.from_numpy(noise))["valence_tau"]) < 0.02
    assert test.measure(torch.full((len(angle), 8), 0.3)) == {"valence_tau": 0.0}
    assert test.notes == [
        "order of speech by arousal, dominance, plane is not measured: it needs three utterances of the split with "
        "such labels, not all the same"
    ]
    assert "mean over 200 anchors, each with 1000 utterances" in test.conventions()["valence_tau"]


def test_without_labels_nothing_is_measured() -> None:
    test = SpeechOrdinalityTest(np.full((9, 3), np.nan), seed=0)
    assert test.measure(torch.empty(0, 4)) == test.chance() == test.conventions() == {}
    assert len(test.utterances) == 0


def test_the_reference_is_the_frozen_vectors_standardised(tmp_path: Path) -> None:
    stores = plant(tmp_path, {"train": 200, "dev": 40, "test": 60}, audio_width=8, text_width=4, noise=0.3)
    found = reference_results(stores, split="test")["ceiling"]["speech_ordinality"]
    pairs = cached_pairs(stores, "test", style="dimensional")
    order = SpeechOrdinalityTest(pairs.labels.numpy(), seed=0)
    assert order.utterances.tolist() == list(range(60))  # fewer than are drawn of many
    expected = order.measure(torch.from_numpy(StandardScaler().fit_transform(pairs.speech.double().numpy())))
    assert {name: entry["mean"] for name, entry in found.items()} == pytest.approx(expected, abs=1e-10)
    assert expected["plane_tau"] > 0.02
    assert found["plane_tau"]["chance"] == 0
