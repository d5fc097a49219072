"""The closed form against scikit-learn, its heads against distances in the plane, and the start against both."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge

from cache.pairs import cached_pairs, class_texts, grid_texts
from cache.stores import Stores
from pipeline.core.config import TrainConfig
from pipeline.core.errors import UsageError
from pipeline.evaluation.evaluate import evaluate
from pipeline.experiments.compare import compare
from pipeline.objectives.base import objective_of
from pipeline.training.heads import Heads
from pipeline.training.ridge import CENTRE, PENALTIES, Planes, fit_plane, fit_planes
from pipeline.training.train import missing_inputs, resolve_training, train
from pipeline.training.training_data import load_training_data
from tests.planted import plant
from tests.stage_two import EVALUATION, SETTINGS

RIDGE = resolve_training("ridge", overrides=["standardise=always"])


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("ridge")
    styles = ("dimensional", "template", "acoustic")
    splits = {"train": 240, "dev": 80, "test": 80}
    return plant(folder / "stores", splits, audio_width=24, text_width=16, styles=styles, grid=True)


def test_the_plane_is_scikit_learns_ridge_with_the_penalty_of_the_least_development_error() -> None:
    draw = np.random.default_rng(0)
    x, noise = draw.normal(3, 2, (90, 12)), draw.normal(0, 2, (90, 2))
    y = 4 + 0.1 * x @ draw.normal(0, 1, (12, 2)) + noise
    parts = [(torch.tensor(x[a:b]), torch.tensor(y[a:b])) for a, b in ((0, 25), (25, 60), (60, 90))]
    plane = fit_plane(parts[:2], parts[2:])
    errors = {}
    for penalty in PENALTIES:
        theirs = Ridge(alpha=penalty * 60).fit(x[:60], y[:60] - CENTRE)
        errors[penalty] = np.square(theirs.predict(x[60:]) - (y[60:] - CENTRE)).mean()
    best = min(errors, key=errors.__getitem__)
    theirs = Ridge(alpha=best * 60).fit(x[:60], y[:60] - CENTRE)
    assert plane.penalty == best
    assert plane.error == pytest.approx(errors[best])
    assert np.allclose(plane.weight.numpy(), theirs.coef_.T, atol=1e-10)
    assert np.allclose(plane.bias.numpy(), theirs.intercept_, atol=1e-10)


def _planes_and_vectors() -> tuple[Planes, Heads, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    speech, text = (torch.randn(300, n, generator=draw) for n in (8, 6))
    axes = [torch.randn(n, 2, generator=draw) for n in (8, 6)]
    planes = Planes(
        *(fit_plane([(x, 4 + 0.4 * x @ a)], [(x, 4 + 0.4 * x @ a)]) for x, a in zip((speech, text), axes, strict=True))
    )
    return planes, Heads(8, 6, dim=512), speech, text


def test_the_nearest_by_cosine_is_the_nearest_in_the_plane() -> None:
    planes, standard, speech, text = _planes_and_vectors()
    heads = planes.heads(standard)
    with torch.no_grad():
        cosines = heads.embed_text(text) @ heads.embed_speech(speech).T
    distances = torch.cdist(planes.text(text), planes.speech(speech))
    nearest = distances.gather(1, cosines.argmax(1, keepdim=True)).squeeze(1)
    assert (nearest - distances.amin(1)).max() < 0.05  # of a scale of 6
    taus = [kendalltau(cosines[i], -distances[i]).statistic for i in range(40)]
    assert min(taus) > 0.97


def test_the_start_orders_as_the_plane_does_and_follows_from_the_seed() -> None:
    planes, _, speech, text = _planes_and_vectors()
    first, second, third = (Heads(8, 6, dim=512) for _ in range(3))
    for heads, seed in ((first, 1), (second, 1), (third, 2)):
        planes.start(heads, seed)
    assert torch.equal(first.audio.weight, second.audio.weight)
    assert not torch.equal(first.audio.weight, third.audio.weight)
    with torch.no_grad():
        cosines = first.embed_text(text) @ first.embed_speech(speech).T
    distances = torch.cdist(planes.text(text), planes.speech(speech))
    assert np.mean([kendalltau(cosines[i], -distances[i]).statistic for i in range(40)]) > 0.7
    expected = 0.6 * math.sqrt((planes.speech.weight.norm() ** 2 / 2).item())
    assert first.audio.weight.norm().item() == pytest.approx(expected, rel=0.2)


def test_a_ridge_run_is_one_epoch_the_same_for_every_seed_and_used_as_any_other(
    planted: Stores, tmp_path: Path
) -> None:
    run = train(planted, method="ridge", seeds=2, training="small_corpus", out=tmp_path / "ridge")
    assert run.heads(0).audio.weight.equal(run.heads(1).audio.weight)
    assert [json.loads(line)["epoch"] for line in run.metrics_text(1).splitlines()] == [1]
    assert run.corruption(0) == ""
    again = train(planted, method="ridge", seeds=3, training="small_corpus", out=tmp_path / "ridge")
    assert again.seeds == [0, 1, 2]
    result = evaluate(run, overrides=EVALUATION[2::2])
    assert result["ordinality"]["aoc"]["mean"] > 0.25  # planted points are found


def test_the_heads_of_a_run_are_the_planes_of_its_data(planted: Stores, tmp_path: Path) -> None:
    run = train(planted, method=RIDGE, out=tmp_path / "grid")
    data = load_training_data(planted, RIDGE, torch.device("cpu"))
    planes, heads = fit_planes(data, RIDGE), run.heads()
    speech = data.speech(data.pairs, torch.arange(len(data.pairs)))
    with torch.no_grad():
        points = heads.audio(speech)[:, :2]
    assert torch.allclose(points.double(), planes.speech(speech), atol=1e-4)
    own = RIDGE.model_copy(update={"objective": RIDGE.objective.model_copy(update={"texts": "captions"})})
    captions = fit_planes(load_training_data(planted, own, torch.device("cpu")), own)
    assert not torch.equal(captions.text.weight, planes.text.weight)
    assert torch.equal(captions.speech.weight, planes.speech.weight)


def test_speech_that_stays_on_disk_gives_the_same_plane(planted: Stores) -> None:
    found = []
    for resident in (True, False):
        data = load_training_data(planted, RIDGE, torch.device("cpu"), resident=resident)
        found.append(fit_planes(data, RIDGE).speech)
    assert torch.allclose(found[0].weight, found[1].weight, atol=1e-6)


def test_our_method_trains_from_the_plane_with_texts_of_the_grid_and_the_classes(
    planted: Stores, tmp_path: Path
) -> None:
    config = resolve_training(
        "plane_clap", training="small_corpus", overrides=["epochs=2", "grid.texts=30", "threads=1"]
    )
    assert config.learning_rate == 5e-5  # the method's own, not the training's
    assert config.epochs == 2
    data = load_training_data(planted, config, torch.device("cpu"))
    grid, classes = grid_texts(planted, "dimensional"), class_texts(planted)
    assert len(data.pairs.text) == len(cached_pairs(planted, "train", style="dimensional").text) + len(grid.text) + len(
        classes.text
    )
    whole = train(planted, method=config, out=tmp_path / "whole")
    reference = train(planted, method=config.model_copy(update={"step": "reference"}), out=tmp_path / "reference")
    for name, tensor in whole.heads().state_dict().items():
        assert torch.allclose(tensor, reference.heads().state_dict()[name], atol=1e-4), name
    assert whole.heads().temperature == pytest.approx(0.2)


def test_what_a_method_of_the_grid_lacks_is_said(tmp_path: Path) -> None:
    bare = plant(tmp_path / "bare", {"train": 32, "dev": 16, "test": 16}, audio_width=6, text_width=5)
    assert missing_inputs(bare, RIDGE) == "whole-grammar texts of style dimensional (captions.grid)"
    own = resolve_training("ridge_own_captions")
    assert missing_inputs(bare, own) == ""
    with pytest.raises(UsageError, match="whole-grammar texts: none of style dimensional; expected encoded texts"):
        train(bare, method=RIDGE, out=tmp_path / "run")
    gridded = plant(tmp_path / "grid", {"train": 32, "dev": 16, "test": 16}, audio_width=6, text_width=5, grid=True)
    ours = resolve_training("plane_clap")
    assert missing_inputs(gridded, ours) == "emotions and class texts (captions.styles with template)"
    with pytest.raises(UsageError, match="no class texts of its emotions"):
        train(gridded, method=ours, out=tmp_path / "run")


def test_the_reference_rows_stand_in_a_comparison(planted: Stores, tmp_path: Path) -> None:
    methods = ["ridge", "clap_sce"]
    summary, text = compare(
        planted, methods=methods, seeds=2, out=tmp_path, overrides=SETTINGS, evaluation=EVALUATION[2::2]
    )
    assert list(summary["methods"])[:2] == methods
    assert re.search(r"\| ridge +\|", text)


def test_a_sweep_has_nothing_to_train(planted: Stores) -> None:
    with pytest.raises(UsageError, match="objective ridge: a closed form"):
        objective_of(TrainConfig(objective=RIDGE.objective), cached_pairs(planted, "train", style="dimensional"))
