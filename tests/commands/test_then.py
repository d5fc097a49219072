"""`train-heads --then evaluate` is both commands in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.train_heads import main as train_heads
from pipeline.evaluation import evaluate as module
from pipeline.evaluation.report import evaluation_report as report
from pipeline.training.run_folder import open_run
from tests.stage_two import EVALUATION, TRAINING, run_command


def test_the_heads_are_evaluated_when_they_are_trained(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, reported = module.evaluate, []

    def quick(*arguments: Any, overrides: tuple[str, ...], **options: Any) -> dict[str, Any]:
        assert overrides == ()
        return evaluate(*arguments, overrides=[word for word in EVALUATION if "=" in word], **options)

    monkeypatch.setattr(module, "evaluate", quick)
    monkeypatch.setattr(report, "evaluation_report", lambda run, *_, **__: reported.append(run))
    words = [small, *TRAINING, "--out", tmp_path / "run", "--then", "evaluate"]
    trained = run_command(train_heads, *words)
    assert trained.stdout.startswith("seed 0: epoch")
    assert "Alignment" in trained.stdout
    evaluation = open_run(tmp_path / "run").evaluation()
    assert evaluation is not None
    again = run_command(train_heads, *words, "--json")
    assert json.loads(again.stdout) == {name: evaluation[name] for name in json.loads(again.stdout)}
    assert json.loads(again.stdout)["run"] == str(tmp_path / "run")
    assert reported == [tmp_path / "run"] * 2


def test_several_stores_are_evaluated_one_by_one(small: Path, tmp_path: Path) -> None:
    refused = run_command(train_heads, small, small, "--then", "evaluate", "--out", tmp_path / "run", *TRAINING)
    assert refused.exit_code == 2
    assert "evaluate-heads on each" in refused.stderr
    assert not (tmp_path / "run").exists()
