"""Layers as a dimension of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cache.stores import Stores, open_stores
from pipeline.core.errors import UsageError
from pipeline.experiments.sweeps.config import list_layers, load_sweep
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.training.train import train
from tests.experiments.sweeps.conftest import FIXED, a_sweep
from tests.layered import layers_of
from tests.planted import plant

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Layer 1 is the planted vector, the others are noise around it."""
    folder = tmp_path_factory.mktemp("layered")
    plant(folder / "single", {"train": 400, "dev": 60, "test": 30}, audio_width=16, text_width=8, noise=0.3)
    return layers_of(folder / "single", folder / "stores", (8.0, 0.0, 2.0))


def test_one_command_ranks_every_layer_and_their_weighted_sum(layered: Stores, tmp_path: Path) -> None:
    fixed = FIXED | {"epochs": 8, "learning_rate": 1e-2, "temperature": 0.2}
    settings = [f"fixed.{name}={value}" for name, value in fixed.items()]
    result, _ = sweep(layered, "layers", out=tmp_path / "sweep", overrides=[*settings, "repeats=2", "score=dev_loss"])
    trials = {row["params"]["speech.layers"]: row for row in result["trials"]}
    assert set(trials) == {0, 1, 2, "weighted"}
    scores: dict[Any, float] = {layer: row["score"] for layer, row in trials.items()}
    assert max(scores[1], scores["weighted"]) < min(scores[0], scores[2])
    for layer, row in trials.items():  # each is the training of that layer alone
        settings = [f"{name}={value}" for name, value in fixed.items()]
        choice = [f"speech.layers={layer}", "shuffle_seed=0", "memory=resident"]
        run = train(layered, out=tmp_path / str(layer), overrides=[*settings, *choice], seeds=2)
        losses = [result["dev_loss"] for result in run.about["seeds"].values()]
        assert row["dev_loss"] == pytest.approx(sum(losses) / 2, abs=1e-5)


def test_layers_share_a_sweep_with_other_settings(layered: Stores, tmp_path: Path) -> None:
    """Weighted trials of several learning rates train side by side, and are stopped and promoted like any other."""
    space = {"speech.layers": ["weighted", 1], "text.layers": ["last", [0, 1]], "learning_rate": [1e-3, 1e-2]}
    config = a_sweep(space=space, halving={"factor": 2, "rungs": 3})
    result, _ = sweep(layered, config, out=tmp_path / "sweep")
    assert len(result["trials"]) == 8
    assert result["best"]["state"] == "complete"
    again, _ = sweep(layered, config, out=tmp_path / "sweep")
    assert again["trials"] == result["trials"]


def test_stores_of_one_vector_have_no_layers_to_rank(planted: Path, layered: Stores, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"space.speech.layers: .*one vector per row.*audio.layers=all"):
        sweep(planted, "layers", out=tmp_path / "sweep")
    config = load_sweep("layers")
    assert list_layers(config, layered).space == {"speech.layers": [0, 1, 2, "weighted"]}
    assert open_stores(planted).audio.axes is None
