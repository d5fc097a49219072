"""The bootstrap over test speakers: its fast form is the readable one, and its draws follow from the speakers alone."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import accuracy_score, recall_score

from cache.captions import Prompt
from pipeline.evaluation import speakers as module
from pipeline.evaluation.ordinality import VALUES, OrdinalityTest
from pipeline.evaluation.pooling import over_seeds, over_speakers
from pipeline.evaluation.speakers import (
    SpeakerResamples,
    kendall_taus,
    ordinality_draws,
    recognition_draws,
    resample_speakers,
)
from tests.evaluation.oracles import nearest_of, reference_draws

GRID = [Prompt("dimensional", f"{v} {a}", v, a, 0) for v, a in itertools.product(VALUES.tolist(), VALUES.tolist())]


def corpus(seed: int, utterances: int, speakers: int, *, unknown: float = 0.0) -> tuple[np.ndarray, list[str]]:
    """(n, 2) labels on a grid of .2, and speakers of unequal size, some unknown."""
    draw = np.random.default_rng(seed)
    weights = draw.dirichlet(np.full(speakers, 2.0))
    names = [f"spk{i}" for i in draw.choice(speakers, utterances, p=weights)]
    hidden = draw.random(utterances) < unknown
    labels = np.round(np.clip(draw.normal(4, 1.1, (utterances, 2)), 1, 7) * 5) / 5
    return labels, ["" if hide else name for name, hide in zip(names, hidden, strict=True)]


def near_the_point(labels: np.ndarray, speakers: list[str], test: OrdinalityTest, levels: int) -> np.ndarray:
    """Similarities that fall with the distance in the plane, clustered by speaker; rounded, so that many tie."""
    draw = np.random.default_rng(1)
    offset = {name: draw.normal(0, 1, 2) for name in sorted(set(speakers))}
    heard = labels + draw.normal(0, 0.8, labels.shape) + np.array([offset[name] for name in speakers])
    asked = np.array([GRID[row][2:4] for row in test.prompts])
    distance = np.linalg.norm(asked[:, None] - heard[None], axis=-1)
    return -np.round(distance * levels).astype(np.float32) / levels


@pytest.mark.parametrize(
    ("utterances", "speakers", "unknown", "levels", "depth"),
    [(40, 6, 0.0, 2, 256), (90, 12, 0.3, 1000, 3), (60, 5, 0.1, 1, 1), (200, 8, 0.0, 4, 7)],
)
def test_the_fast_form_equals_the_readable_one(
    utterances: int, speakers: int, unknown: float, levels: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LISTS_AT_ONCE", 50)  # five lists of ten resamples
    labels, names = corpus(utterances, utterances, speakers, unknown=unknown)
    test = OrdinalityTest(labels, GRID, lists=14)
    similarity = near_the_point(labels, names, test, levels)
    resamples = resample_speakers(names, draws=10, seed=0, at_least=14)
    assert resamples is not None
    assert resamples.left_out == names.count("")
    nearest = nearest_of(similarity, depth)
    fast, slow = ordinality_draws(test, nearest, resamples), reference_draws(test, similarity, resamples)
    for name in ("aoc", "voc"):
        assert fast[name].shape == (10,)
        assert fast[name] == pytest.approx(slow[name], abs=1e-12)
    assert np.ptp(fast["aoc"]) > 0.01


def test_a_resample_of_everyone_once_is_the_measure_itself() -> None:
    labels, names = corpus(0, 120, 7)
    test = OrdinalityTest(labels, GRID, lists=20)
    similarity = near_the_point(labels, names, test, 1000)
    resamples = resample_speakers(names, draws=1, seed=0)
    assert resamples is not None
    everyone = resamples._replace(counts=np.ones_like(resamples.counts))
    nearest = nearest_of(similarity)
    measured = test.measure(nearest)
    for name, draws in ordinality_draws(test, nearest, everyone).items():
        assert draws[0] == pytest.approx(measured[name]["mean"], abs=1e-12)


def test_each_copy_of_an_utterance_is_retrieved_once_and_no_utterance_of_an_absent_speaker() -> None:
    labels, names = corpus(3, 50, 6)
    test = OrdinalityTest(labels, GRID, lists=14)
    similarity = np.tile(-np.arange(50, dtype=np.float32), (len(test.prompts), 1))  # the first utterances are nearest
    resamples = resample_speakers(names, draws=30, seed=0, at_least=14)
    assert resamples is not None
    nearest = nearest_of(similarity)
    retrieved = module._retrieve_from_resamples(nearest, test.lists["aoc"].rows, resamples)
    assert retrieved.shape == (14, 14, 30)
    for draw, counts in enumerate(resamples.counts):
        copies = np.repeat(np.arange(50), counts[resamples.speaker])[:14]
        assert retrieved[:, 0, draw].tolist() == copies.tolist()


def test_resamples_follow_from_the_speakers_and_the_seed_alone() -> None:
    names = corpus(1, 80, 9, unknown=0.2)[1]
    first, again = (resample_speakers(names, draws=50, seed=3) for _ in range(2))
    other = resample_speakers(names, draws=50, seed=4)
    assert first is not None
    assert again is not None
    assert other is not None
    assert (first.counts == again.counts).all()
    assert (first.counts != other.counts).any()
    assert (first.counts.sum(1) == 9).all()
    assert [names[row] for row in first.rows] == [name for name in names if name]
    assert len({(names[row], first.speaker[i]) for i, row in enumerate(first.rows)}) == 9


def test_every_speaker_is_drawn_as_often_as_chance_has_it() -> None:
    resamples = resample_speakers([f"s{i}" for i in range(8)], draws=4000, seed=0)
    assert resamples is not None
    assert np.abs(resamples.counts.mean(0) - 1).max() < 5 * math.sqrt(7 / 8 / 4000)
    assert abs((resamples.counts == 0).mean() - (7 / 8) ** 8) < 0.01


def test_a_resample_of_too_few_utterances_is_drawn_again() -> None:
    names = ["a"] * 20 + ["b", "c", "d", "e"] * 2
    resamples = resample_speakers(names, draws=200, seed=0, at_least=14)
    assert resamples is not None
    assert (resamples.counts[:, 0] > 0).all()  # without a there are at most ten
    assert len(resamples.counts) == 200


@pytest.mark.parametrize(
    ("names", "draws", "at_least"),
    [
        (["a", "b", "c", "d"] * 9 + [""] * 9, 10, 1),
        (["a", "b", "c", "d", "e"], 10, 14),
        (["a", "b", "c", "d", "e"] * 9, 0, 1),
        ([""] * 40, 10, 1),
    ],
)
def test_there_are_none_where_they_would_say_nothing(names: list[str], draws: int, at_least: int) -> None:
    assert resample_speakers(names, draws=draws, seed=0, at_least=at_least) is None
    assert resample_speakers([*"abcde"] * 3, draws=1, seed=0, at_least=14) is not None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(2, 14), st.integers(0, 2**32 - 1), st.booleans())
def test_kendalls_tau_is_scipys(levels: int, length: int, seed: int, tied_prompts: bool) -> None:
    draw = np.random.default_rng(seed)
    asked = draw.integers(0, 3, (2, length)) / 2 if tied_prompts else np.sort(draw.random((2, length)))
    retrieved = draw.integers(0, levels, (length, 2, 5))
    found = kendall_taus(asked, retrieved)
    for row, draws in np.ndindex(2, 5):
        expected = kendalltau(asked[row], retrieved[:, row, draws]).statistic
        assert found[row, draws] == pytest.approx(np.nan_to_num(expected), abs=1e-12)


def test_recognition_on_a_resample_is_scikit_learns_on_its_copies() -> None:
    draw = np.random.default_rng(0)
    names = corpus(5, 90, 8, unknown=0.2)[1]
    truth, predicted = draw.integers(0, 4, 90), draw.integers(0, 4, 90)
    truth[[i for i, name in enumerate(names) if name not in ("spk1", "spk2")]] %= 3  # a class that a resample may lack
    resamples = resample_speakers(names, draws=40, seed=0)
    assert resamples is not None
    found = recognition_draws(truth, predicted, 4, resamples)
    lacking = 0
    for b, counts in enumerate(resamples.counts):
        rows = np.repeat(resamples.rows, counts[resamples.speaker])
        present = sorted(set(truth[rows].tolist()))
        lacking += len(present) < 4
        recalls = recall_score(truth[rows], predicted[rows], labels=present, average="macro")
        assert found["war"][b] == pytest.approx(accuracy_score(truth[rows], predicted[rows]), abs=1e-12)
        assert found["uar"][b] == pytest.approx(recalls, abs=1e-12)
    assert 0 < lacking < 40


def test_a_measure_over_seeds_names_each_of_its_spreads() -> None:
    draws = np.random.default_rng(0).normal(size=(3, 400))
    interval = over_speakers(draws.mean(0), count=12, left_out=4)
    found = over_seeds([0.1, 0.2, 0.6], "tau", list_std=0.2, speakers=interval)
    assert list(found) == ["mean", "std", "seed_values", "list_std", "convention", "speakers"]
    assert found["mean"] == pytest.approx(0.3)
    assert found["std"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    ordered = np.sort(draws.mean(0))
    assert ordered[9] <= interval["low"] <= ordered[10]
    assert ordered[389] <= interval["high"] <= ordered[390]
    assert interval["std"] == pytest.approx(np.std(interval["draws"], ddof=1))
    assert found["convention"] == "tau"  # the same for any number of seeds or speakers, so that it can be compared
    alone = over_seeds([0.4], "war")
    assert alone == {"mean": 0.4, "std": 0.0, "seed_values": [0.4], "convention": "war"}


def test_resamples_weigh_speakers_and_not_utterances() -> None:
    names = ["a"] * 50 + ["b", "c", "d", "e"] * 5
    resamples = resample_speakers(names, draws=2000, seed=0)
    assert isinstance(resamples, SpeakerResamples)
    sizes = Counter(names)
    drawn = [sizes[name] for name in "abcde"] @ resamples.counts.T
    assert drawn.mean() == pytest.approx(70, rel=0.05)
    assert drawn.max() == 250  # a alone, five times
