"""Fixtures shared by the stages' tests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the suite has a process a core (-n in pyproject.toml)
os.environ["EMOTIONRANKCLAP_CACHE"] = tempfile.mkdtemp(prefix="texts-")  # every process its own; removed at its end

import pipeline.inference.search
from pipeline.core.config import TrainConfig
from pipeline.core.progress import narration
from pipeline.extraction.audio.resampling import choose_resampling
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.extract import extract
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.speech import QUICK, write_corpus
from tests.stage_two import small_stores

choose_resampling()  # as `load_encoder` does, before a test imports a model of transformers


@pytest.fixture(scope="session", autouse=True)
def text_cache() -> Iterator[None]:
    """Prompts are encoded once for all tests of a process."""
    yield
    shutil.rmtree(os.environ["EMOTIONRANKCLAP_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def narrated() -> Iterator[None]:
    """Log messages stand on stderr, as under a command."""
    with narration():
        yield


@pytest.fixture(scope="session", autouse=True)
def without_umap() -> Iterator[None]:
    """umap-learn is not installed: its figure takes 20 s, so the tests that want it say so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "umap", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def a_checkpoint_an_epoch() -> Iterator[None]:
    """The trainings of tests take less than two seconds, and would have none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.train.CHECKPOINT_SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a small corpus of real audio files."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture(scope="session")
def stores(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of that corpus by the embedded encoders, extracted once."""
    out = tmp_path_factory.mktemp("stores")
    extract(corpus, out=out, overrides=QUICK)
    return out


@pytest.fixture(scope="session")
def all_styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores that every method can be trained from: 64 utterances, all caption styles, acoustic features."""
    folder = tmp_path_factory.mktemp("all-styles")
    manifest = write_corpus(folder / "c", 64)
    styles = "captions.styles=[dimensional,template,clap4emo,acoustic]"
    extract(manifest, out=folder / "stores", overrides=[*QUICK, styles])
    return folder / "stores"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planted stores that a training takes a few hundredths of a second on; not to be changed."""
    return small_stores(tmp_path_factory.mktemp("small") / "stores")


@pytest.fixture(scope="session")
def trained(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Heads for `stores`, barely trained; not to be changed."""
    config = TrainConfig(width=16, batch_size=4, epochs=2, threads=1)
    return train(stores, method=config, out=tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def encoders_loaded_once() -> Iterator[None]:
    """A search loads its encoders anew; here once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.inference.search, "load_encoder", cache(load_encoder))
        yield
