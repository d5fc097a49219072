"""When a training writes a checkpoint and chooses its threads, and that a killed one repeats both."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core.errors import Interrupted
from pipeline.training import train as module
from pipeline.training.train import Trainer, train
from tests.stage_two import tree
from tests.training.test_train import SMALL


def test_a_training_of_less_than_two_seconds_writes_no_checkpoint(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 2.0)
    monkeypatch.setattr(Trainer, "_checkpoint", lambda *_: pytest.fail("written"))
    for name, tick in (("short", 0.05), ("long", 0.5)):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=itertools.count(step=tick).__next__))
        with nullcontext() if name == "short" else pytest.raises(pytest.fail.Exception, match="written"):
            train(stores, method=SMALL, out=tmp_path / name)


def test_a_short_training_takes_one_thread_and_a_long_one_measures(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = SMALL.model_copy(update={"threads": "auto", "epochs": 2})
    monkeypatch.setattr("pipeline.core.resources.choose_threads", lambda step: step() is None or 2)
    assert train(stores, method=auto, out=tmp_path / "short").about["seeds"]["0"]["threads"] == 1
    monkeypatch.setattr(module, "SHORT", 0.0)
    assert train(stores, method=auto, out=tmp_path / "long").about["seeds"]["0"]["threads"] == 2


def test_a_long_training_that_was_killed_repeats_epochs_on_the_threads_that_they_had(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads are chosen anew at every checkpoint here: 1, 2, 1, 2 for four epochs."""
    auto = SMALL.model_copy(update={"threads": "auto"})
    monkeypatch.setattr(module, "SHORT", 0.0)

    def trained(out: Path, measured: Sequence[int]) -> dict[str, bytes]:
        """On the thread counts that are measured one after the other."""
        counts = iter(measured)
        monkeypatch.setattr("pipeline.core.resources.MeasuredThreads.now", lambda _: next(counts))
        train(stores, method=auto, out=out)
        assert list(counts) == []
        return tree(out)

    whole = trained(tmp_path / "whole", [1, 2, 1, 2])
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert [line["threads"] for line in lines] == [1, 2, 1, 2]

    end_epoch, ended = Trainer._end_epoch, iter(range(4))

    def killed(self: Trainer, *arguments: Any) -> None:
        if next(ended) == 2:  # the third epoch is trained again
            raise Interrupted(tmp_path, 9)
        end_epoch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", killed)
        with pytest.raises(Interrupted):
            trained(tmp_path / "cut", [1, 2, 1])
    assert trained(tmp_path / "cut", [2]) == whole
