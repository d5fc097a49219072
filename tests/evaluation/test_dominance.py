"""DOC: dominance by rated words, of heads and of the reference rows, by loops over lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from cache.manifest import write_manifest
from cache.pairs import cached_pairs
from cache.stores import Stores, open_stores
from pipeline.core.config import EvaluateConfig
from pipeline.data.captions.word_norms import dominance_lists
from pipeline.evaluation.comparison import comparison_tables
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.order_tests import OrderTests
from pipeline.evaluation.references import reference_results
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.data.captions.test_dominance_lists import rated_file
from tests.evaluation.oracles import reference_draws
from tests.evaluation.test_references import ridge
from tests.planted import plant
from tests.stage_two import SETTINGS, unlisted

SPLITS = {"train": 300, "dev": 60, "test": 90}
QUICK = ["trials=2", "lists=40", "projections=2", "pairs=20", "bootstrap=8"]


def with_dominance(stores: Stores, dominance: np.ndarray) -> Stores:
    write_manifest(replace(stores.manifest, dominance=dominance), stores.folder / "manifest.csv")
    unlisted(stores.folder)
    return open_stores(stores.folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds; every ninth utterance has no dominance, and six test speakers are known."""
    folder = tmp_path_factory.mktemp("dominance")
    norms = rated_file(folder, 60)
    planted = plant(folder / "s", SPLITS, audio_width=12, text_width=8, noise=0.3, word_norms=norms, speakers=6)
    manifest = planted.manifest
    known = np.where(np.arange(len(manifest)) % 9 == 0, np.nan, 0.7 * manifest.arousal + 0.3 * manifest.valence)
    stores = with_dominance(planted, known)
    overrides = [*SETTINGS, "epochs=6"]
    return train(stores, method="clap_sce", seeds=2, overrides=overrides, out=folder / "run")


@pytest.fixture(scope="module")
def found(run: Run) -> dict[str, Any]:
    return evaluate(run, overrides=QUICK)


def by_hand(stores: Stores, nearness: Callable[[int], np.ndarray], lists: int = 40) -> list[float]:
    """Tau of each list; `nearness` is that of the labelled test utterances to a prompt, by its row."""
    words = list(stores.captions.prompts.of_style("word_norms"))
    labels = stores.manifest.dominance[stores.manifest.rows("test")]
    labels, taus = labels[np.isfinite(labels)], []
    for rows in dominance_lists(words, lists).tolist():
        retrieved: list[int] = []
        for row in rows:
            order = np.argsort(-nearness(row), kind="stable").tolist()
            retrieved.append(next(utterance for utterance in order if utterance not in retrieved))
        tau = kendalltau([words[row].dominance for row in rows], labels[retrieved]).statistic
        taus.append(float(np.nan_to_num(tau)))
    return taus


def test_every_list_of_every_seed_is_that_of_a_loop(run: Run, found: dict[str, Any]) -> None:
    stores = run.stores()
    order = OrderTests(stores, cached_pairs(stores, "test", style="dimensional"), EvaluateConfig(), torch.device("cpu"))
    rows = stores.manifest.rows("test")
    known = np.isfinite(stores.manifest.dominance[rows])
    assert known.sum() == 80
    for seed in run.seeds:
        heads = run.heads(seed)
        with torch.no_grad():
            speech = heads.embed_speech(torch.from_numpy(stores.audio.read(rows[known])[0]))
            prompts = heads.embed_text(order.vectors["dominance"])
        similarity = (prompts @ speech.T).numpy()
        measured = found["seeds"][str(seed)]["dominance"]["doc"]
        assert measured["taus"] == pytest.approx(by_hand(stores, similarity.__getitem__), abs=1e-10)
        assert measured["mean"] == pytest.approx(np.mean(measured["taus"]))
    assert found["dominance"]["doc"]["seed_values"] == [found["seeds"][s]["dominance"]["doc"]["mean"] for s in "01"]
    assert "40 lists of 14 different rated words near one of 15 points" in found["dominance"]["doc"]["convention"]


def test_a_draw_of_the_speakers_is_that_of_a_corpus_of_its_own(run: Run, found: dict[str, Any]) -> None:
    stores, config = run.stores(), EvaluateConfig(bootstrap=8, lists=40)
    pairs = cached_pairs(stores, "test", style="dimensional")
    order = OrderTests(stores, pairs, config, torch.device("cpu"))
    test, expected = order.tests["dominance"], []
    for seed in run.seeds:
        with torch.no_grad():
            speech = run.heads(seed).embed_speech(pairs.speech)[test.labelled]
            prompts = run.heads(seed).embed_text(order.vectors["dominance"])[test.prompts]
        expected.append(reference_draws(test, (prompts @ speech.T).numpy(), order.resamples["dominance"])["doc"])
    interval = found["dominance"]["doc"]["speakers"]
    assert interval["draws"] == pytest.approx(np.mean(expected, axis=0), abs=1e-12)
    assert interval["n"] == 6


def test_the_reference_rows_are_asked_with_the_words_true_valence_arousal_and_dominance(run: Run) -> None:
    stores = run.stores()
    found = reference_results(stores, split="test", config=EvaluateConfig(lists=40, bootstrap=0))
    manifest, words = stores.manifest, list(stores.captions.prompts.of_style("word_norms"))
    labels = np.stack([manifest.valence, manifest.arousal, manifest.dominance], axis=1)
    rows = {split: manifest.rows(split) for split in SPLITS}
    known = {split: of[np.isfinite(labels[of, 2])] for split, of in rows.items()}

    def predicted(columns: list[int], fitted_on: dict[str, np.ndarray]) -> np.ndarray:
        of = [stores.audio.read(rows)[0].astype(np.float64) for rows in (*fitted_on.values(), known["test"])]
        train, dev = (labels[fitted_on[split]][:, columns] for split in ("train", "dev"))
        answer: np.ndarray = ridge(of[0], train, of[1], dev).predict(of[-1])
        return answer.reshape(-1, len(columns))

    points = {
        "labels": labels[known["test"]],
        "ceiling": np.hstack([predicted([0, 1], rows), predicted([2], known)]),
    }
    for bound, of in points.items():

        def nearness(row: int, of: np.ndarray = of) -> np.ndarray:
            asked = np.array([words[row].valence, words[row].arousal, words[row].dominance], dtype=np.float64)
            return -((of - asked) ** 2).sum(axis=1).round(6)

        taus = by_hand(stores, nearness)
        assert found[bound]["seeds"]["0"]["dominance"]["doc"]["taus"] == pytest.approx(taus, abs=1e-10)
    assert found["labels"]["dominance"]["doc"]["mean"] > found["ceiling"]["dominance"]["doc"]["mean"] > 0.1
    assert found["chance"]["dominance"]["doc"]["mean"] == 0


def test_the_tables_show_it_with_its_direction_and_its_reference_rows(run: Run, found: dict[str, Any]) -> None:
    chance = {"chance": {"dominance": {"doc": {"mean": 0.0, "convention": "no order"}}}}
    (table,) = [each for each in comparison_tables({"a": found, **chance}).tables if each.name == "dominance"]
    assert table.texts().headers == ["method", "DOC ↑"]
    assert list(table.rows) == ["a", "chance"]
    assert any("dominance ordinal consistency" in note for note in table.notes)


def test_where_nothing_is_rated_or_labelled_there_is_none_and_a_line_says_so(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def asked(stores: Stores) -> OrderTests:
        pairs = cached_pairs(stores, "test", style="dimensional")
        return OrderTests(stores, pairs, EvaluateConfig(lists=14, bootstrap=0), torch.device("cpu"))

    few = rated_file(tmp_path, 60, unrated=1)
    blank = plant(tmp_path / "blank", {"train": 20, "test": 20}, audio_width=4, text_width=4, word_norms=few)
    assert asked(blank).notes == [
        "order of dominance (DOC) is not measured: 0 rated words of the stores have a dominance; 14 are needed"
    ]
    rated = plant(
        tmp_path / "rated", {"train": 20, "test": 20}, audio_width=4, text_width=4, word_norms=rated_file(tmp_path, 60)
    )
    assert asked(rated).notes == [
        "order of dominance (DOC) is not measured: 0 utterances of the split have valence, arousal and dominance; "
        "14 are needed"
    ]
    assert asked(rated).tests.keys() == {"ordinality", "word_norms"}
