"""A run on planted vectors, the model it is, and its export."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cache.writer import StoreWriter
from pipeline import EmotionRankCLAP, evaluate, train
from pipeline.core.config import AudioConfig, TextConfig
from pipeline.inference.search import SpeechIndex
from pipeline.training.run_folder import Run
from tests.inference.test_model import CONFIG
from tests.planted import plant

TESTS = ["trials=2", "lists=14", "projections=2", "pairs=8"]


@pytest.fixture(scope="session")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds, evaluated, on planted vectors that say they come from encoders in folders."""
    folder = tmp_path_factory.mktemp("secret-place")
    planted = plant(folder / "stores", {"train": 48, "dev": 16, "test": 16}, audio_width=6, text_width=5)
    with StoreWriter(planted.audio) as writer:
        writer.reset([79])
        writer.fail(79, "a bad file", bytes(16))
    encoders = {
        "audio": AudioConfig(encoder="transformers", model=str(folder / "wavlm")).model_dump(mode="json"),
        "text": TextConfig(encoder="transformers", model="owner/roberta", revision="v1").model_dump(mode="json"),
    }
    (folder / "stores/config.yaml").write_text(yaml.safe_dump(encoders))
    run = train(folder / "stores", method=CONFIG, out=folder / "run", seeds=2)
    evaluate(run, overrides=TESTS)
    return folder / "run"


@pytest.fixture(scope="session")
def planted_model(planted_run: Path) -> EmotionRankCLAP:
    return EmotionRankCLAP.from_pretrained(planted_run)


@pytest.fixture
def exported(planted_model: EmotionRankCLAP, tmp_path: Path) -> Path:
    planted_model.save_pretrained(tmp_path / "erc")
    return tmp_path / "erc"


@pytest.fixture(scope="session")
def index(stores: Path, trained: Run) -> SpeechIndex:
    """What the command line asks."""
    return SpeechIndex.open(stores, trained)
