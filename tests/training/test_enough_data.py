"""Too little to train on is refused with the numbers; a training of few steps says so."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.core.config import TrainConfig
from pipeline.core.errors import UsageError
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
        assert "8, 1 epoch): results may be near chance. Take --training small_corpus" in said[0]
