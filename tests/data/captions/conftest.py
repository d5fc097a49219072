"""A small corpus to write captions for, and a key to pay with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.captions.writer import KEY, ROWS, corpus


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return corpus(tmp_path / "c", ROWS)


@pytest.fixture
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
