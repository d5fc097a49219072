"""Small planted stores, and a sweep of them that takes a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.experiments.sweeps.bracket import Bracket, BracketState, HeadsProgress
from pipeline.experiments.sweeps.config import SweepConfig
from tests.planted import plant

FIXED = {"batch_size": 16, "width": 16, "epochs": 4, "standardise": "always", "threads": 1}


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "stores"
    plant(folder, {"train": 300, "dev": 80, "test1": 40}, audio_width=8, text_width=8)
    return folder


def a_sweep(**settings: Any) -> SweepConfig:
    """A grid of four learning rates, halved twice, unless `settings` say otherwise."""
    tree = {
        "name": "tiny",
        "fixed": FIXED,
        "sampler": "grid",
        "halving": {"factor": 2, "rungs": 2},
        "space": {"learning_rate": [1e-5, 1e-4, 1e-3, 1e-2]},
    }
    return SweepConfig.model_validate(tree | settings)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report: it takes longer than the sweep."""
    monkeypatch.setattr("pipeline.experiments.sweeps.sweep.sweep_report", lambda *_: None)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], HeadsProgress]:
    """Every member of every bracket as it was at its end: of those stopped at a rung, what was then known of them."""
    found: dict[tuple[int, int], HeadsProgress] = {}
    finish = Bracket.finish

    def noted(bracket: Bracket, state: BracketState) -> None:
        found.update(state.heads)
        finish(bracket, state)

    monkeypatch.setattr(Bracket, "finish", noted)
    return found
