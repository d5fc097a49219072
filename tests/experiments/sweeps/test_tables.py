"""The tables of a sweep."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pipeline.experiments.sweeps.sweep import sweep
from tests.experiments.sweeps.conftest import a_sweep


@pytest.mark.usefixtures("undrawn")
def test_the_files_say_what_was_tried(planted: Path, tmp_path: Path) -> None:
    sampled = {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "method": ["emotionrankclap", "clap_sce"],
        "objective.symmetric": [True, False],
    }
    result, text = sweep(planted, a_sweep(sampler="tpe", trials=6, space=sampled), out=tmp_path)
    with open(tmp_path / "trials.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["number"]) for row in table] == [row["number"] for row in result["trials"]]
    assert {row["objective.symmetric"] for row in table if row["method"] == "clap_sce"} <= {""}
    assert json.loads((tmp_path / "sweep.json").read_text())["trials"] == result["trials"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"best.yaml", "trials.csv", "sweep.json", "sweep.yaml", "journal.log"}
    assert text.startswith("| trial | state | ordinality |")
    assert text.count("\n| ") == 6
    assert not list(tmp_path.glob("brackets/*/checkpoint.safetensors"))
