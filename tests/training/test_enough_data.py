"""Too little to train on is refused with the numbers; a training of few steps says so."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.core.config import TrainConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import UsageError
from pipeline.experiments.sweeps.config import SweepConfig
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.extraction.extract import extract
from pipeline.training.train import train
from tests.faults.small import quick_encoders
from tests.speech import QUICK, write_corpus


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_encoders(monkeypatch)


def stores_of(folder: Path, *, train_rows: int, labels: int = 50) -> Path:
    """Stores of `train_rows` training utterances with at most `labels` different points."""
    manifest = write_corpus(folder / "c", 32)
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    for number, row in enumerate(rows):
        row["split"] = "train" if number < train_rows else "dev"
        row["valence"], row["arousal"] = str(1 + 6 * (number % labels) / 50), "4"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    extract(manifest, out=folder / "s", overrides=[*QUICK, "corpus.scale=[1,7]"])
    return folder / "s"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("pairs", "batch", "least"), [(1, 64, 16), (15, 64, 16), (7, 4, 8)])
def test_fewer_pairs_than_two_batches_are_refused(pairs: int, batch: int, least: int, tmp_path: Path) -> None:
    stores = stores_of(tmp_path, train_rows=pairs)
    found = f"{pairs} training pairs, of batches of {batch}; expected at least {least}, two batches"
    with pytest.raises(UsageError, match=found):
        train(stores, method=TrainConfig(width=4, batch_size=batch, epochs=1, threads=1), out=tmp_path / "run")


@pytest.mark.usefixtures("quick")
def test_labels_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    stores = stores_of(tmp_path, train_rows=20, labels=1)
    with pytest.raises(UsageError, match="20 training pairs that all have the same valence and arousal"):
        train(stores, method=TrainConfig(width=4, batch_size=4, epochs=1, threads=1), out=tmp_path / "run")


@pytest.mark.parametrize(("epochs", "warned"), [(1, True), (60, False)])
def test_a_training_of_few_steps_says_so(
    epochs: int, warned: bool, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small, method=TrainConfig(width=4, batch_size=8, epochs=epochs, threads=1), out=tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING: only")]
    assert len(said) == warned
    if warned:
        assert "8, 1 epoch): results may be near chance. Use --training small_corpus" in said[0]


@pytest.mark.parametrize(
    ("pairs", "epochs", "batch_size", "found"),
    [
        (90_022, 1, 512, (1, 512)),  # 175 steps are enough: nothing changes
        (960, 1, 512, (22, 120)),  # eight batches an epoch
        (3_000, 1, 512, (22, 375)),
        (20, 1, 512, (88, 8)),  # a batch is not smaller than 8
        (960, 30, 64, (30, 64)),
    ],
)
def test_min_steps_cuts_batches_then_adds_epochs(
    pairs: int, epochs: int, batch_size: int, found: tuple[int, int]
) -> None:
    config = TrainConfig(epochs=epochs, batch_size=batch_size, min_steps=175)
    scaled = config.with_min_steps(pairs)
    assert (scaled.epochs, scaled.batch_size) == found
    assert pairs // scaled.batch_size * scaled.epochs >= 175
    assert scaled.with_min_steps(pairs) == scaled


def test_the_fast_preset_takes_its_steps_on_a_small_corpus_and_says_so(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["width=4", "threads=1"]
    run = train(small, training="fast", overrides=quick, out=tmp_path / "run")
    assert "for min_steps=175" in capsys.readouterr().err
    assert len(run.metrics_text(0).splitlines()) == run.config.epochs > 1
    train(small, training="fast", overrides=quick, out=tmp_path / "run")  # resumes: the settings are the same
    asked = train(small, training="fast", overrides=[*quick, "epochs=2"], out=tmp_path / "asked")
    assert (asked.config.epochs, asked.config.batch_size) == (2, 512)


def test_a_sweep_of_the_fast_preset_trains_what_train_heads_does(small: Path, tmp_path: Path) -> None:
    run = train(small, training="fast", overrides=["width=4", "threads=1"], out=tmp_path / "run")
    config = SweepConfig(
        name="s", training="fast", fixed={"width": 4, "threads": 1}, sampler="grid", space={"temperature": [0.1, 0.2]}
    )
    result, _ = sweep(small, config, out=tmp_path / "sweep", report=False)
    expected = run.config.epochs, run.config.batch_size
    best = load_config(TrainConfig, tmp_path / "sweep/best.yaml", kind="methods")
    assert (best.epochs, best.batch_size) == expected
    assert {row["state"] for row in result["trials"]} == {"complete"}  # a small grid has no halving
