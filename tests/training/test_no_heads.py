"""Two encoders that share a space already, without heads: the vectors themselves are what is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline import compare, evaluate, train
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import UsageError
from tests.planted import plant
from tests.stage_two import small_stores

NO_HEADS = ["objective.name=no_heads", "standardise=never"]
TESTS = ["trials=2", "lists=14", "pairs=8"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores whose speech and text vectors have one dimension."""
    folder = tmp_path_factory.mktemp("shared") / "stores"
    plant(folder, {"train": 48, "dev": 16, "test": 16}, audio_width=6, text_width=6)
    return folder


def test_embeddings_are_the_vectors_at_unit_length_of_every_seed(shared: Path, tmp_path: Path) -> None:
    run = train(shared, overrides=NO_HEADS, seeds=2, out=tmp_path / "run")
    stores = run.stores()
    vectors = stores.speech("test")
    for seed in run.seeds:
        found = run.heads(seed).embed_speech(torch.tensor(vectors))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(found.detach(), unit, rtol=0, atol=1e-6)
    standardised = train(shared, overrides=["objective.name=no_heads", "standardise=always"], out=tmp_path / "other")
    part = stores.speech("train")
    scaled = (vectors - part.mean(0)) / part.std(0)
    found = standardised.heads().embed_speech(torch.tensor(vectors)).detach()
    np.testing.assert_allclose(found, scaled / np.linalg.norm(scaled, axis=1, keepdims=True), rtol=0, atol=1e-5)


def test_a_method_file_gives_a_row_of_a_table(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "paraspeechclap.yaml").write_text(yaml.safe_dump({"objective": {"name": "no_heads"}}))
    methods = [str(tmp_path / "paraspeechclap.yaml"), "supcon"]
    quick = ["epochs=1", "batch_size=16", "standardise=never", "threads=1"]
    summary, text = compare(
        shared, methods=methods, seeds=1, overrides=quick, evaluation=TESTS, out=tmp_path / "comparison"
    )
    assert "| paraspeechclap |" in text
    figures = summary["methods"]["paraspeechclap"]
    again = evaluate(tmp_path / "comparison/paraspeechclap", overrides=TESTS)
    for test in ("ordinality", "alignment", "retrieval"):
        assert figures[test] == again[test]


def test_two_spaces_are_refused_and_leave_no_run(tmp_path: Path) -> None:
    stores = small_stores(tmp_path / "stores")
    with pytest.raises(UsageError, match="vectors of 6 numbers for speech and of 5 for text; expected one space"):
        train(stores, overrides=NO_HEADS, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="weighted is not for no_heads"):
        load_config(TrainConfig, None, [*NO_HEADS, "speech.layers=weighted"], kind="methods")
