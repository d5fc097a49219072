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
