"""Everyday settings as options of their own, what others call a setting, and help as wide as the terminal."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipeline.commands.extract_features import main as extract_features
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.config import EvaluateConfig, TrainConfig
from pipeline.core.settings import NO_SETTINGS, SYNONYMS, setting_names, synonym

EVERYDAY = ["--epochs", "1", "--batch-size", "8", "--learning-rate", "1e-3", "--temperature", "0.5", "--seed", "3"]


def overrides(*words: str) -> set[str]:
    return set(train_heads.make_context("train-heads", ["stores", *words]).params["overrides"])


def test_an_everyday_option_is_the_override_of_its_setting() -> None:
    expected = {"epochs=1", "batch_size=8", "learning_rate=0.001", "temperature=0.5", "seeds=[3]"}
    assert overrides(*EVERYDAY) == expected
    assert overrides(*EVERYDAY, "-o", "width=4") == {*expected, "width=4"}
    words = ["c", "--precision", "float32", "--batch-seconds", "auto", "--num-workers", "2"]
    params = extract_features.make_context("extract-features", words).params
    assert set(params["overrides"]) == {"audio.precision=float32", "audio.batch_seconds=auto"}
    assert params["num_workers"] == 2


@pytest.mark.parametrize("same", ["learning_rate=1e-3", "learning_rate=0.001", " learning_rate = 0.001"])
def test_the_same_value_twice_is_no_conflict(same: str) -> None:
    assert overrides("--learning-rate", "1e-3", "-o", same) == {"learning_rate=0.001", same}


def test_a_run_records_them_as_it_records_overrides(small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = CliRunner().invoke(train_heads, [str(small), "--out", str(run), "-o", "width=4", *EVERYDAY])
    assert ended.exit_code == 0, ended.output
    config = yaml.safe_load((run / "config.yaml").read_text())
    found = [config[name] for name in ("epochs", "batch_size", "learning_rate", "temperature", "seeds")]
    assert found == [1, 8, 1e-3, 0.5, [3]]


def test_what_others_call_a_setting_names_one_that_there_is() -> None:
    known = setting_names(TrainConfig)
    assert set(SYNONYMS.values()) <= set(known)
    assert not {*SYNONYMS, *NO_SETTINGS} & set(known)
    assert synonym("lr", known) == "learning_rate"
    assert not any(synonym(name, setting_names(EvaluateConfig)) for name in (*SYNONYMS, *NO_SETTINGS))


@pytest.mark.parametrize("columns", [60, 100, 140])
def test_help_is_as_wide_as_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = extract_features.make_context("extract-features", ["corpus"]).get_help().splitlines()
    widest = max(len(line) for line in shown if not line.startswith("  extract-features"))  # an example is not wrapped
    assert columns - 20 < widest <= columns


def test_the_version_is_the_package_s() -> None:
    result = CliRunner().invoke(train_heads, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"emotionrankclap {version('emotionrankclap')}\n")
