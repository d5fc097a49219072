"""The rows below the methods: scikit-learn's ridge and plain loops are the oracles."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from cache.pairs import cached_pairs
from cache.stores import Stores, open_stores
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions.word_norms import word_lists
from pipeline.evaluation.comparison import comparison_tables
from pipeline.evaluation.fold_results import bounds_over_folds
from pipeline.evaluation.measures import BOUNDS as ALL_BOUNDS
from pipeline.evaluation.measures import OF_TRANSCRIPTS
from pipeline.evaluation.ordinality import NULL_STD, VALUES
from pipeline.evaluation.readout import ReadOut
from pipeline.evaluation.references import reference_results
from pipeline.training.ridge import PENALTIES
from tests.data.captions.test_word_norms import made_up, norms_file
from tests.planted import plant, with_transcripts

BOUNDS = tuple(name for name in ALL_BOUNDS if name not in OF_TRANSCRIPTS)  # these stores have none
CONFIG = EvaluateConfig(lists=28, bootstrap=50)
SPLITS = {"train": 400, "dev": 90, "test": 150}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("references")
    styles, norms = ("dimensional", "template", "acoustic"), norms_file(folder, *made_up(60))
    return plant(folder / "stores", SPLITS, audio_width=24, text_width=8, styles=styles, word_norms=norms, speakers=8)


@pytest.fixture(scope="module")
def found(planted: Stores) -> dict[str, Any]:
    return reference_results(planted, config=CONFIG)


def ridge(
    x: np.ndarray, y: np.ndarray, dev_x: np.ndarray, dev_y: np.ndarray, penalties: Sequence[float] = PENALTIES
) -> Ridge:
    """Of the penalty with the least error on the development part; alpha is of summed squares, a penalty of means."""
    fits = [Ridge(alpha=len(x) * penalty).fit(x, y) for penalty in penalties]
    return min(fits, key=lambda fit: float(((fit.predict(dev_x).reshape(dev_y.shape) - dev_y) ** 2).mean()))


def retrieved_by_hand(asked: np.ndarray, points: np.ndarray) -> list[int]:
    """Each point of a list takes its nearest utterance that is left."""
    left, retrieved = list(range(len(points))), []
    for point in asked:
        retrieved.append(min(left, key=lambda i: round(float(((points[i] - point) ** 2).sum()), 6)))
        left.remove(retrieved[-1])
    return retrieved


def tau(asked: np.ndarray, labels: np.ndarray, column: int) -> float:
    return float(np.nan_to_num(kendalltau(asked[:, column], labels[:, column]).statistic))


def by_hand(asked: np.ndarray, points: np.ndarray, labels: np.ndarray, column: int) -> float:
    return tau(asked, labels[retrieved_by_hand(asked, points)], column)


def grammar_points(column: int, lists: int) -> list[np.ndarray]:
    columns = [(VALUES, np.full(14, VALUES[number % 14])) for number in range(lists)]
    return [np.stack(each if column == 0 else each[::-1], axis=1) for each in columns]


def speech_and_labels(stores: Stores, split: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = cached_pairs(stores, split, style="dimensional")
    return pairs.speech.double().numpy(), pairs.labels[:, :2].numpy()


def test_the_ceiling_asks_the_ridge_of_speech_with_each_prompts_true_point(
    planted: Stores, found: dict[str, Any]
) -> None:
    parts = [speech_and_labels(planted, split) for split in ("train", "dev", "test")]
    points, labels = ridge(*parts[0], *parts[1]).predict(parts[2][0]), parts[2][1]
    words = list(planted.captions.prompts.of_style("word_norms"))
    for name, axis, column in (("aoc", "arousal", 1), ("voc", "valence", 0)):
        taus = [by_hand(asked, points, labels, column) for asked in grammar_points(column, 28)]
        assert found["ceiling"]["seeds"]["0"]["ordinality"][name]["taus"] == pytest.approx(taus)
        assert found["ceiling"]["ordinality"][name]["mean"] == pytest.approx(np.mean(taus))
        assert found["ceiling"]["ordinality"][name]["mean"] > 0.25
        rated = [np.array([words[row][2:4] for row in rows]) for rows in word_lists(words, axis, 28)]
        taus = [by_hand(asked, points, labels, column) for asked in rated]
        assert found["ceiling"]["seeds"]["0"]["word_norms"][name]["taus"] == pytest.approx(taus)


def test_the_ceiling_has_the_read_out_of_the_frozen_vectors(planted: Stores, found: dict[str, Any]) -> None:
    frozen = ReadOut(planted, "test", torch.device("cpu")).measure(lambda vectors: vectors)
    assert {name: entry["mean"] for name, entry in found["ceiling"]["readout"].items()} == pytest.approx(frozen)
    assert frozen.keys() == {"valence_ccc", "arousal_ccc", "category_uar"}
    assert "readout" not in found["labels"]


def test_the_labels_are_asked_likewise_and_are_the_highest(planted: Stores, found: dict[str, Any]) -> None:
    labels = speech_and_labels(planted, "test")[1]
    for name, column in (("aoc", 1), ("voc", 0)):
        taus = [by_hand(asked, labels, labels, column) for asked in grammar_points(column, 28)]
        assert found["labels"]["seeds"]["0"]["ordinality"][name]["taus"] == pytest.approx(taus)
        assert found["labels"]["ordinality"][name]["mean"] > found["ceiling"]["ordinality"][name]["mean"]
    assert "recognition" not in found["labels"]


def test_the_ceilings_classes_are_the_highest_of_a_ridge_each(planted: Stores, found: dict[str, Any]) -> None:
    manifest = planted.manifest
    names = sorted(set(manifest.emotion) - {""})

    def of_split(split: str) -> tuple[np.ndarray, list[str]]:
        rows = [row for row in manifest.rows(split).tolist() if manifest.emotion[row]]
        return planted.audio.read(np.array(rows))[0].astype(np.float64), [manifest.emotion[row] for row in rows]

    (x, train), (dev_x, dev), (test_x, truth) = (of_split(split) for split in ("train", "dev", "test"))
    hot, dev_hot = (np.array([[name == each for name in names] for each in part], float) for part in (train, dev))
    scores = ridge(x, hot, dev_x, dev_hot).predict(test_x)
    present = sorted(set(truth))
    among = [names.index(name) for name in present]
    predicted = [present[i] for i in scores[:, among].argmax(1)]
    recognition = found["ceiling"]["recognition"]
    assert recognition["classes"] == present
    assert recognition["war"]["mean"] == pytest.approx(accuracy_score(truth, predicted))
    assert recognition["uar"]["mean"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert recognition["n"] == len(truth)
    assert "ridge regressions from speech" in recognition["convention"]
    assert recognition["war"]["speakers"]["n"] == 8


def test_chance_is_nothing_with_the_std_that_a_training_of_no_order_would_have(found: dict[str, Any]) -> None:
    for test in ("ordinality", "word_norms"):
        for measure in found["chance"][test].values():
            assert (measure["mean"], measure["seed_values"]) == (0, [0])
            # the variance of one list is that of the mean over lists and that around it
            assert np.hypot(measure["std"], measure["list_std"]) == pytest.approx(NULL_STD, rel=0.05)
            assert measure["std"] > 2 * NULL_STD / np.sqrt(28)  # neighbouring lists retrieve the same utterances
            assert "speakers" not in measure
    recognition = found["chance"]["recognition"]
    assert recognition["uar"]["mean"] == recognition["war"]["mean"] == 1 / len(recognition["classes"])


def test_the_std_of_chance_is_that_of_stores_whose_labels_are_shuffled(planted: Stores, found: dict[str, Any]) -> None:
    """By hand: the ceiling's retrieval of 150 utterances whose labels other utterances have."""
    parts = [speech_and_labels(planted, split) for split in ("train", "dev", "test")]
    points, labels = ridge(*parts[0], *parts[1]).predict(parts[2][0]), parts[2][1]
    draw, lists = np.random.default_rng(7), grammar_points(1, 14)
    retrieved = [retrieved_by_hand(asked, points) for asked in lists]
    means = []
    for _ in range(150):
        shuffled = labels[draw.permutation(len(labels))]
        means.append(np.mean([tau(asked, shuffled[rows], 1) for asked, rows in zip(lists, retrieved, strict=True)]))
    assert np.std(means, ddof=1) == pytest.approx(found["chance"]["ordinality"]["aoc"]["std"], rel=0.25)
    assert abs(np.mean(means)) < 4 * np.std(means) / np.sqrt(150)


def test_the_rows_have_the_form_of_an_evaluation_and_are_the_same_again(planted: Stores, found: dict[str, Any]) -> None:
    assert tuple(found) == BOUNDS
    for name in ("ceiling", "labels"):
        for test in ("ordinality", "word_norms"):
            for measure in found[name][test].values():
                assert list(measure) == ["mean", "std", "seed_values", "list_std", "convention", "speakers"]
                assert measure["std"] == 0
                assert measure["speakers"]["low"] < measure["mean"]
    for bound in BOUNDS:
        assert (found[bound]["method"], found[bound]["split"], found[bound]["utterances"]) == (bound, "test", 150)
        assert "alignment" not in found[bound]
    assert reference_results(planted, split="test", config=CONFIG) == found


def test_stores_without_emotions_or_known_speakers_have_rows_without_them(tmp_path: Path) -> None:
    stores = plant(tmp_path / "stores", {"train": 60, "dev": 30, "test": 40}, audio_width=8, text_width=8)
    found = reference_results(stores, config=EvaluateConfig(lists=14))
    for bound in BOUNDS:
        assert not {"recognition", "word_norms"} & found[bound].keys()
        assert "speakers" not in found[bound]["ordinality"]["aoc"]
    with pytest.raises(UsageError, match="split test3: not in the stores"):
        reference_results(stores, split="test3")


@pytest.fixture(scope="module", params=["words", "voice"])
def spoken(request: pytest.FixtureRequest, planted: Stores, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Stores with transcripts whose labels are in the words alone, or in the voice alone; one in ten has none."""
    folder = tmp_path_factory.mktemp(request.param) / "stores"
    shutil.copytree(planted.folder, folder)
    return with_transcripts(open_stores(folder), labels_in=request.param, without=range(0, 640, 10))


def test_words_order_where_the_labels_are_in_the_words_and_the_voice_where_they_are_in_it(
    spoken: Stores, found: dict[str, Any]
) -> None:
    results = reference_results(spoken, config=CONFIG)
    assert tuple(results) == ALL_BOUNDS
    good, bad = OF_TRANSCRIPTS if spoken.folder.parent.name.startswith("words") else OF_TRANSCRIPTS[::-1]
    for test in ("ordinality", "word_norms"):
        for axis in ("aoc", "voc"):
            ceiling = results["ceiling"][test][axis]["mean"]
            assert ceiling > 0.4
            assert results[good][test][axis]["mean"] > 0.8 * ceiling
            assert abs(results[bad][test][axis]["mean"]) < 4 * results["chance"][test][axis]["std"]
    assert results["words"].keys() == results["voice"].keys() == results["labels"].keys()
    assert results["labels"] == found["labels"]


def test_words_and_voice_are_those_of_ridges_by_hand(spoken: Stores) -> None:
    assert spoken.words is not None
    parts = []
    for split in ("train", "dev", "test"):
        pairs = cached_pairs(spoken, split, style="dimensional")
        words, there = spoken.words.read(pairs.rows)
        assert 0 < there.sum() < len(there)
        parts.append((words.astype(float), there, pairs.speech.double().numpy(), pairs.labels[:, :2].numpy()))
    known = parts[0][0][parts[0][1]]
    words = [np.where(part[1][:, None], (part[0] - known.mean(0)) / known.std(0, ddof=1), 0) for part in parts]

    def with_words(place: int) -> list[np.ndarray]:
        return [array[part[1]] for part, w in zip(parts[:2], words[:2], strict=True) for array in (w, part[place])]

    to_speech = ridge(*with_words(2), PENALTIES[:1])
    left = [np.where(part[1][:, None], part[2] - to_speech.predict(w), 0) for part, w in zip(parts, words, strict=True)]
    train, dev = parts[0][1], parts[1][1]
    points = {
        "words": ridge(*with_words(3)).predict(words[2]),
        "voice": ridge(left[0][train], parts[0][3][train], left[1][dev], parts[1][3][dev]).predict(left[2]),
    }
    results = reference_results(spoken, config=CONFIG)
    for bound, found in points.items():
        for name, column in (("aoc", 1), ("voc", 0)):
            taus = [by_hand(asked, found, parts[2][3], column) for asked in grammar_points(column, 28)]
            assert results[bound]["seeds"]["0"]["ordinality"][name]["taus"] == pytest.approx(taus)


def test_a_split_of_no_transcript_has_neither_row(spoken: Stores, tmp_path: Path) -> None:
    shutil.copytree(spoken.folder, tmp_path / "stores")
    dev = spoken.manifest.rows("dev").tolist()
    stores = with_transcripts(open_stores(tmp_path / "stores"), labels_in="words", without=dev)
    assert tuple(reference_results(stores, config=CONFIG)) == BOUNDS


def test_tables_say_what_words_and_voice_are_and_test_neither(spoken: Stores) -> None:
    results = reference_results(spoken, config=CONFIG)
    methods = {name: {**results["labels"], "method": name} for name in ("one", "two")}
    tables = {table.name: table for table in comparison_tables({**results, **methods}).tables}
    for name in ("ordinality", "word_norms"):
        table = tables[name]
        assert list(table.rows) == ["one", "two", *ALL_BOUNDS]
        assert not any(cell.best or cell.marks for bound in ALL_BOUNDS for cell in table.rows[bound].values())
        assert any(note.startswith("words: what was said") for note in table.notes)
        assert any(note.startswith("voice: how it was said") for note in table.notes)
        assert "not methods, and not tested: ceiling, words, voice, labels, chance" in table.notes


def test_folds_have_words_and_voice_where_every_fold_has(spoken: Stores) -> None:
    rows = reference_results(spoken, config=CONFIG)
    recognised = {"recognition": rows["ceiling"]["recognition"]}
    method = {**recognised, "zero_shot": [], "folds": {"one": recognised, "two": recognised}}
    both = bounds_over_folds({"one": rows, "two": rows}, method, ratio=0.5)
    assert tuple(both) == ALL_BOUNDS
    assert both["words"]["ordinality"]["aoc"]["mean"] == pytest.approx(rows["words"]["ordinality"]["aoc"]["mean"])
    lacking = {name: row for name, row in rows.items() if name not in OF_TRANSCRIPTS}
    assert tuple(bounds_over_folds({"one": rows, "two": lacking}, method, ratio=0.5)) == BOUNDS
