"""A run is evaluated seed by seed and pooled; other encoders are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache.manifest import write_manifest
from cache.stores import open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.errors import StoreMismatch, UsageError
from pipeline.evaluation.evaluate import evaluate
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.planted import plant
from tests.stage_two import unlisted

QUICK = ["trials=3", "lists=28", "pairs=40", "projections=8"]
CONFIG = TrainConfig(width=32, batch_size=32, epochs=8, learning_rate=3e-3, threads=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("planted")
    stores = plant(
        folder / "stores", {"train": 600, "dev": 100, "test1": 200}, audio_width=24, text_width=16, noise=0.3
    )
    return train(stores, method=CONFIG, seeds=2, out=folder / "run")


def test_planted_order_is_found_and_a_broken_one_is_not(run: Run, tmp_path: Path) -> None:
    found = evaluate(run, overrides=QUICK)
    assert found["split"] == "test1"
    assert found["utterances"] == 200
    assert found["ordinality"]["aoc"]["mean"] > 0.4
    assert found["ordinality"]["voc"]["mean"] > 0.4
    shutil.copytree(run.about["stores"], tmp_path / "stores")
    manifest = open_stores(tmp_path / "stores").manifest
    shuffled = np.random.default_rng(0).permutation(len(manifest))
    labels = {"valence": manifest.valence[shuffled], "arousal": manifest.arousal[shuffled]}
    write_manifest(dataclasses.replace(manifest, **labels), tmp_path / "stores/manifest.csv")
    unlisted(tmp_path / "stores")
    broken = evaluate(run, stores=tmp_path / "stores", overrides=QUICK)
    assert abs(broken["ordinality"]["aoc"]["mean"]) < 0.2
    assert abs(broken["ordinality"]["voc"]["mean"]) < 0.2


def test_the_pooled_figures_are_those_of_the_seeds_together(run: Run) -> None:
    found = evaluate(run, overrides=QUICK)
    assert json.loads((run.folder / "evaluation.json").read_text()) == found
    for test, values, names in (
        ("ordinality", "taus", ("aoc", "voc")),
        ("alignment", "values", ("mmd", "wasserstein", "sliced_wasserstein")),
    ):
        for name in names:
            of_seeds = [seed[test][name] for seed in found["seeds"].values()]
            every = np.concatenate([seed[values] for seed in of_seeds])
            pooled = found[test][name]
            assert pooled["mean"] == pytest.approx(every.mean())
            assert pooled["std"] == pytest.approx(every.std(ddof=1))
            assert pooled["seed_std"] == pytest.approx(np.std([seed["mean"] for seed in of_seeds], ddof=1))
            assert "2 seeds pooled" in pooled["convention"]


def test_evaluating_again_gives_the_same_numbers(run: Run) -> None:
    assert evaluate(run, overrides=QUICK) == evaluate(run.folder, overrides=QUICK)


def test_stores_of_another_encoder_are_refused(run: Run, stores: Path) -> None:
    with pytest.raises(StoreMismatch, match=r"encoder\.encoder: the heads have \"planted\", the stores \"embedded\""):
        evaluate(run, stores=stores)


def test_a_split_that_is_not_there_is_said(run: Run) -> None:
    with pytest.raises(UsageError, match="split test3: not in the stores; expected one of"):
        evaluate(run, overrides=["split=test3"])
    assert open_stores(run.about["stores"]).manifest.split.count("test3") == 0
