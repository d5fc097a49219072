"""The system clock is set back by an hour during a run: what is written is what it would have been.

Also by hand, with libfaketime: docs/promises.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiments.sweeps.config import SweepConfig
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.training.train import train
from tests.faults.small import contents, quick_encoders, run_small, small_corpus
from tests.stage_two import SETTINGS, tree

HOUR = 3600.0
SWEEP = {
    "name": "tiny",
    "fixed": {"batch_size": 16, "width": 4, "epochs": 2, "standardise": "always", "threads": 1},
    "sampler": "random",
    "trials": 4,
    "halving": {"factor": 2, "rungs": 1},
    "score": "dev_loss",
    "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}


@pytest.fixture
def set_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Runs something, at whose third look at the clock that is an hour earlier."""
    clock = time.time

    def run(work: Callable[[], Any]) -> Any:
        looks = 0

        def earlier() -> float:
            nonlocal looks
            looks += 1
            return clock() - HOUR * (looks > 2)

        with monkeypatch.context() as patch:
            patch.setattr(time, "time", earlier)
            patch.setattr(time, "time_ns", lambda: int(earlier() * 1e9))  # what logging asks since Python 3.13
            result = work()
        assert looks > 3
        return result

    return run


def test_an_extraction_writes_the_same_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_back: Callable[[Callable[[], Any]], Any]
) -> None:
    quick_encoders(monkeypatch)
    manifest = small_corpus(tmp_path / "corpus")
    run_small(manifest, tmp_path / "whole")
    set_back(lambda: run_small(manifest, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_training_writes_the_same_run(
    small: Path, tmp_path: Path, set_back: Callable[[Callable[[], Any]], Any]
) -> None:
    train(small, out=tmp_path / "whole", overrides=SETTINGS, seeds=2)
    set_back(lambda: train(small, out=tmp_path / "out", overrides=SETTINGS, seeds=2))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("in_database", [False, True])
def test_a_sweep_trains_the_same_trials(
    small: Path, tmp_path: Path, set_back: Callable[[Callable[[], Any]], Any], in_database: bool
) -> None:
    config = SweepConfig.model_validate(SWEEP)
    whole, _ = sweep(small, config, out=tmp_path / "whole", report=False)
    storage = f"sqlite:///{tmp_path}/study.db" if in_database else None
    found, _ = set_back(lambda: sweep(small, config, out=tmp_path / "out", storage=storage, report=False))
    assert [row | {"seconds": 0} for row in found["trials"]] == [row | {"seconds": 0} for row in whole["trials"]]
