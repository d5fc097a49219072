"""Layers chosen in stage two: a slice trains as a store of that layer alone, and wherever the heads go it is read."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.errors import Interrupted, StoreMismatch, UsageError
from cache.pairs import cached_pairs
from cache.stores import Stores
from pipeline.core.config import TrainConfig
from pipeline.evaluation.evaluate import evaluate
from pipeline.training.heads import Heads, load_heads, save_heads
from pipeline.training.run_folder import open_run
from pipeline.training.train import Trainer, resolve_training, train
from tests.layered import layers_of, single_of
from tests.planted import plant
from tests.stage_two import SETTINGS, small_stores


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("layers")
    return layers_of(small_stores(folder / "single"), folder / "layered")


def trained(stores: Stores, out: Path, *more: str) -> dict[str, bytes]:
    run = train(stores, out=out, overrides=[*SETTINGS, *more], seeds=2)
    return {
        **{f"metrics {seed}": (run.seed_folder(seed) / "metrics.jsonl").read_bytes() for seed in run.seeds},
        **{f"heads {seed}": (run.seed_folder(seed) / "heads.safetensors").read_bytes() for seed in run.seeds},
    }


@pytest.mark.parametrize("memory", ["resident", "disk"])
@pytest.mark.parametrize(("layer", "pooling"), [(0, "mean"), (2, "std"), (1, "mean_std")])
def test_a_layer_of_many_trains_as_a_store_of_it_alone_to_the_bit(
    stores: Stores, tmp_path: Path, layer: int, pooling: str, memory: str
) -> None:
    alone = trained(single_of(stores, tmp_path / "alone", layer, pooling), tmp_path / "a", f"memory={memory}")
    choice = [f"{side}.{what}" for side in ("speech", "text") for what in (f"layers={layer}", f"pooling={pooling}")]
    assert trained(stores, tmp_path / "b", *choice, f"memory={memory}") == alone


def test_nothing_chosen_is_the_vector_that_the_encoder_is_known_for(stores: Stores, tmp_path: Path) -> None:
    assert trained(stores, tmp_path / "a") == trained(stores, tmp_path / "b", "speech.layers=1", "text.layers=1")


def by_hand(heads: Heads, side: str, vectors: Tensor) -> Tensor:
    """The weighted sum layer by layer, as its formula is written, in autograd's tensors."""
    layer_sum = getattr(heads, f"{side}_sum")
    if layer_sum is None:
        return vectors
    total = sum(logit.exp() for logit in layer_sum.logits)
    parts = vectors.chunk(len(layer_sum.logits), -1)
    return layer_sum.scale * sum(
        logit.exp() / total * part for logit, part in zip(layer_sum.logits, parts, strict=True)
    )


def test_weighted_training_resumes_with_the_same_bits(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = ["speech.layers=weighted", "text.layers=weighted", "epochs=3"]
    undisturbed = trained(stores, tmp_path / "a", *choice)
    ended, end_epoch = [0], Trainer._checkpoint

    def killed(self: Trainer, progress: object) -> None:
        end_epoch(self, progress)  # type: ignore[arg-type]
        ended[0] += 1
        if ended[0] == 2:
            raise Interrupted(tmp_path, 9)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_checkpoint", killed)
        with pytest.raises(Interrupted):
            trained(stores, tmp_path / "b", *choice)
    assert trained(stores, tmp_path / "b", *choice) == undisturbed


def test_weights_of_layers_are_saved_with_the_heads_and_find_the_layer_without_noise(tmp_path: Path) -> None:
    plant(tmp_path / "single", {"train": 400, "dev": 60, "test": 30}, audio_width=16, text_width=8, noise=0.3)
    stores = layers_of(tmp_path / "single", tmp_path / "layered", (5.0, 0.0, 5.0))
    longer = ["standardise=always", "epochs=8", "width=16", "learning_rate=0.01", "temperature=0.2", "threads=1"]
    run = train(stores, out=tmp_path / "run", overrides=[*longer, "speech.layers=weighted"])
    heads = run.heads()
    assert heads.layers == (3, 1)
    assert heads.audio_sum is not None
    shares = heads.audio_sum.logits.softmax(0)
    assert int(shares.argmax()) == 1  # where the vector lies without noise
    path = tmp_path / "run" / "heads.safetensors"
    loaded, about = load_heads(path)
    save_heads(loaded, tmp_path / "again.safetensors", about)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    view = run.stores()
    vectors = torch.tensor(view.speech("test"))
    assert vectors.shape[1] == heads.input_dims[0] == 3 * view.audio.axes.dim  # type: ignore[union-attr]
    scaled = heads.standardise_side("audio", vectors)
    expected = copy.deepcopy(heads)._normalise(heads.audio(by_hand(heads, "audio", scaled)))
    torch.testing.assert_close(heads.embed_speech(vectors), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("choice", ["2", "[2,0]", "weighted"])
def test_a_run_reads_the_layers_it_was_trained_on_wherever_it_is_used(
    stores: Stores, tmp_path: Path, choice: str
) -> None:
    run = train(stores, out=tmp_path / "run", overrides=[*SETTINGS, f"speech.layers={choice}", "speech.pooling=std"])
    layers = 1 if choice == "2" else 2 if choice == "[2,0]" else 3
    assert run.stores().audio.dim == layers * 6
    figures = evaluate(run, overrides=["trials=2", "lists=14", "projections=2", "pairs=8"])
    heads, view = open_run(run.folder).heads(), run.stores(stores.folder)
    pairs = cached_pairs(view, "test", style="dimensional")
    assert pairs.speech.shape == (16, layers * 6)
    assert heads.embed_speech(pairs.speech).shape == (16, 4)
    assert json.loads((run.folder / "evaluation.json").read_text())["utterances"] == figures["utterances"] == 16


def test_a_store_without_those_layers_is_refused(stores: Stores, tmp_path: Path) -> None:
    single = single_of(stores, tmp_path / "single", 0, "mean")
    with pytest.raises(UsageError, match=r"one vector per row, but layers=weighted .*audio.layers=all"):
        train(single, out=tmp_path / "a", overrides=[*SETTINGS, "speech.layers=weighted"])
    with pytest.raises(UsageError, match=r"layer 7; expected layers 0, 1, 2 \(mean, std\)"):
        train(stores, out=tmp_path / "a", overrides=[*SETTINGS, "text.layers=7"])
    run = train(stores, out=tmp_path / "run", overrides=[*SETTINGS, "speech.layers=0"])
    with pytest.raises(StoreMismatch, match=r"speech.layers: the run has 0, now 2"):
        train(stores, out=run.folder, overrides=[*SETTINGS, "speech.layers=2"])


@pytest.mark.parametrize("setting", ["norm=batch", "start=ridge", "objective={name: ridge}"])
def test_weights_go_with_gradient_steps_on_raw_units_alone(setting: str) -> None:
    with pytest.raises(UsageError, match="weighted is not for"):
        resolve_training(TrainConfig().method, overrides=["speech.layers=weighted", setting])


def test_what_is_read_for_a_layer_is_that_layer(stores: Stores) -> None:
    view = stores.selected(speech=(2, "std"))
    whole = stores.audio.layout.extents["vectors"].shape[1]
    assert whole == 3 * 2 * view.audio.dim
    assert np.isfinite(view.speech("train")).all()
    assert view.speech("train").shape == (48, 6)
