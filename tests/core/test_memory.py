"""A training set larger than memory: vectors read from disk in shuffled blocks, nothing else different."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.core import resources as memory
from pipeline.core.config import TrainConfig
from pipeline.core.errors import StoreCorrupt
from pipeline.objectives.base import objective_of
from pipeline.training import training_data
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads import Heads
from pipeline.training.heads_config import HeadsConfig
from pipeline.training.train import train
from pipeline.training.training_data import TrainingData, epoch_batches, epoch_rng, shuffled
from tests.planted import plant

CONFIG = TrainConfig(batch_size=8, epochs=3, width=8, learning_rate=1e-2, threads=1, standardise="always")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("planted")
    return plant(folder, {"train": 300, "dev": 60, "test1": 20}, audio_width=12, text_width=6)


def both(stores: Stores, split: str = "train") -> tuple[CachedPairs, CachedPairs]:
    resident, disk = (cached_pairs(stores, split, style="dimensional", resident=r) for r in (True, False))
    return resident, disk


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["dev_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_pairs_on_disk_are_the_resident_ones(planted: Stores) -> None:
    resident, disk = both(planted)
    assert disk.disk is not None
    assert disk.speech.shape == (0, 12)
    assert len(disk) == len(resident) == 300
    places = torch.tensor([250, 3, 3, 0, 299])
    assert torch.equal(disk.disk.read(places), resident.speech[places])
    assert torch.equal(disk.labels[:, :2], resident.labels[:, :2])
    for name in ("text", "offsets", "caption"):
        assert torch.equal(getattr(disk, name), getattr(resident, name))


def test_an_epoch_from_disk_shows_every_pair_once_and_reads_few_places_at_a_time(
    planted: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_data, "BLOCK_ROWS", 10)
    monkeypatch.setattr(training_data, "WINDOW_BLOCKS", 5)
    _, disk = both(planted)
    orders = [shuffled(disk, epoch_rng(0, epoch)) for epoch in (0, 1, 0)]
    assert orders[0].sort().values.tolist() == list(range(300))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    for window in orders[0].split(50):
        assert len({place // 10 for place in window.tolist()}) == 5
        assert not torch.equal(window, window.sort().values)


def test_the_same_batches_give_the_same_heads_from_disk_and_from_memory(
    planted: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is made the same by hand, so that all else must be."""
    heads = Heads(12, 6, dim=8)
    heads.initialise(0)
    heads.audio_mean.fill_(0.3)
    heads.audio_std.fill_(1.7)
    results = []
    for on_disk in (False, True):
        pairs, dev = (both(planted, split)[on_disk] for split in ("train", "dev"))
        order = torch.randperm(300, generator=torch.Generator().manual_seed(3))
        monkeypatch.setattr(
            training_data, "shuffled", lambda pairs, _, o=order: o if len(pairs) == 300 else torch.arange(60)
        )
        material = TrainingData(pairs, dev, 8, heads)
        stack = BatchedHeads([HeadsConfig(heads, objective_of(CONFIG, pairs), 1e-2)])
        losses = material.train(stack, 0, 0, lambda: None)
        results.append((losses, material.dev_losses(stack, material.dev_batches(stack.objectives)), stack.state(0)))
    (first, first_dev, first_state), (second, second_dev, second_state) = results
    assert torch.equal(first, second)
    assert first_dev == pytest.approx(second_dev, abs=1e-6)
    assert all(torch.equal(tensor, second_state[name]) for name, tensor in first_state.items())


def test_training_from_disk_learns_standardises_and_is_recorded(planted: Stores, tmp_path: Path) -> None:
    longer = CONFIG.model_copy(update={"memory": "disk", "epochs": 20})
    disk = train(planted, method=longer, out=tmp_path / "disk")
    resident = train(planted, method=CONFIG.model_copy(update={"memory": "resident"}), out=tmp_path / "resident")
    assert disk.about["memory"] == "disk"
    assert min(losses(disk.folder)) < losses(disk.folder)[0] - 0.02
    for name in ("audio_mean", "audio_std", "text_mean"):
        expected = getattr(resident.heads(), name)
        assert torch.allclose(getattr(disk.heads(), name), expected, rtol=1e-5, atol=1e-6), name
    assert disk.about["data"] == resident.about["data"]


def test_what_does_not_fit_is_read_from_disk_and_said(
    planted: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 30_000)  # 360 x 12 x 4 = 17,280 is over half of it
    run = train(planted, method=CONFIG, out=tmp_path)
    assert run.about["memory"] == "disk"
    assert "memory=disk: 360 speech vectors need" in capsys.readouterr().err
    monkeypatch.setattr(memory, "free_bytes", lambda device: 35_000)
    assert memory.choose_memory(planted, torch.device("cpu")) == "resident"


def test_a_run_goes_on_as_it_began_whatever_is_free_later(
    planted: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    train(planted, method=CONFIG, seeds=1, out=tmp_path)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**40)
    assert train(planted, method=CONFIG, seeds=2, out=tmp_path).about["memory"] == "disk"
    assert train(planted, method=CONFIG, out=tmp_path, fresh=True).about["memory"] == "resident"


def test_a_vector_that_changes_on_disk_while_training_stops_it(tmp_path: Path) -> None:
    stores = plant(tmp_path, {"train": 40}, audio_width=4, text_width=4)
    disk = cached_pairs(stores, "train", style="dimensional", resident=False).disk
    assert disk is not None
    with h5py.File(tmp_path / "audio.h5", "r+") as file:
        file["vectors"][7] = np.float32(0.5)
    with pytest.raises(StoreCorrupt, match="1 rows changed while they were in use"):
        disk.read(torch.arange(20))


def test_free_memory_is_below_what_the_machine_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = memory.free_bytes(torch.device("cpu"))
    assert 2**20 < before < 2**46
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes(torch.device("cpu")) == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(torch.device("cpu")) > 2**20


@pytest.mark.parametrize("names", [None, {"SC_PHYS_PAGES": 0, "SC_PAGE_SIZE": 0}, {"SC_PAGE_SIZE": 0}])
def test_a_system_that_does_not_count_free_pages_has_some_memory(
    names: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if names is None:  # Windows
        monkeypatch.delattr("os.sysconf_names")
        monkeypatch.delattr("os.sysconf")
    else:
        monkeypatch.setattr("os.sysconf_names", names)
        monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    (tmp_path / "meminfo").mkdir()
    monkeypatch.setattr(memory, "Path", lambda _: tmp_path / "meminfo")  # no /proc
    expected = 4_096_000 if names and "SC_PHYS_PAGES" in names else memory._ASSUMED_BYTES
    assert memory.free_bytes(torch.device("cpu")) == expected


def test_large_batches_are_prepared_a_few_at_a_time(planted: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.training_data._PAIRS_AHEAD", 100)
    pairs, _ = both(planted)
    made = list(epoch_batches(pairs, 7, epoch_rng(0, 0), [objective_of(CONFIG, pairs)]))
    assert {len(batches.rows) for batches in made} == {2}
    assert sum(len(batches.rows) for batches in made) == 300 // 7
