"""Fixtures shared by the stages' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.extraction import extract
from tests.speech import QUICK, write_corpus


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
