"""The vectors of a training lie in memory once, as the encoders gave them, and are standardised batch by batch."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cache.pairs import cached_pairs
from cache.stores import open_stores
from cache.writer import StoreWriter
from pipeline.core.config import TrainConfig
from pipeline.training.standardisation import std_and_mean
from pipeline.training.training_data import TrainingData, load_training_data
from tests.planted import plant

CONFIG = TrainConfig(standardise="always", batch_size=8, width=4)


class LiveTensors(TorchDispatchMode):
    """The most bytes of tensors that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._alive = 0, dict[int, tuple[StorageWeakRef, int]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def test_loading_holds_the_vectors_once_and_a_block_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """500,000 rows peaked at 2.8 times their vectors: raw, in float64 and standardised."""
    monkeypatch.setattr("cache.reader._BLOCK_BYTES", 2**13)
    for module in ("standardisation", "training_data"):
        monkeypatch.setattr(f"pipeline.training.{module}.CHUNK_ROWS", 16)
    stores = plant(tmp_path, {"train": 300, "dev": 100}, audio_width=2048, text_width=4)
    with LiveTensors() as tensors:
        data = load_training_data(stores, CONFIG, torch.device("cpu"))
        for pairs in (data.pairs, data.dev):
            for vectors, _ in data.speech_chunks(pairs):
                assert vectors.abs().max() < 10
    tracemalloc.start()  # the manifest and what else is read once are there
    load_training_data(stores, CONFIG, torch.device("cpu"))
    arrays = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    vectors_in_use = 4 * 400 * 2048
    assert vectors_in_use < tensors.peak < 1.2 * vectors_in_use
    assert arrays < 0.3 * vectors_in_use


def test_batches_and_statistics_are_those_of_vectors_standardised_at_once(tmp_path: Path) -> None:
    stores = plant(tmp_path, {"train": 60, "dev": 20}, audio_width=7, text_width=5)
    data: TrainingData = load_training_data(stores, CONFIG, torch.device("cpu"))
    speech, text = data.pairs.speech, data.pairs.text
    std, mean = torch.std_mean(speech.double(), dim=0)
    assert torch.equal(std_and_mean(speech)[0], std)
    assert torch.equal(std_and_mean(speech)[1], mean)
    whole = (speech - mean.float()) / std.float(), data.standard.standardise_side("text", text)
    rows, captions = torch.tensor([[5, 0, 59], [7, 7, 1]]), torch.tensor([3, 0, 3])
    assert torch.equal(data.speech(data.pairs, rows), whole[0][rows])
    assert torch.equal(data.text(data.pairs, captions), whole[1][captions])
    assert torch.equal(torch.cat([chunk for chunk, _ in data.speech_chunks(data.pairs)]), whole[0])


def test_many_rows_are_embedded_block_by_block_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.heads.BLOCK_ROWS", 16)
    stores = plant(tmp_path, {"train": 60, "dev": 20}, audio_width=7, text_width=5)
    data = load_training_data(stores, CONFIG, torch.device("cpu"))
    speech, text = data.pairs.speech, data.pairs.text
    with torch.no_grad():
        whole, _ = data.standard.project(*data.standard.standardise(speech, text))
        assert torch.allclose(data.standard.embed_speech(speech), whole, atol=1e-6)


def test_failed_rows_shift_no_vector_to_another_utterance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.reader._BLOCK_BYTES", 2**8)  # a few rows
    planted = plant(tmp_path, {"train": 60, "dev": 20}, audio_width=7, text_width=5)
    links = planted.captions.links("dimensional", 80)
    texts = [links.text[links.offsets[row] : links.offsets[row + 1]].tolist() for row in range(80)]
    for store, failed in ((planted.audio, [0, 3, 4, 59, 61]), (planted.text, [*texts[7], texts[30][0]])):
        with StoreWriter(store) as writer:
            for row in failed:
                writer.fail(row, "spoiled")
    stores = open_stores(tmp_path)
    speech, done = stores.audio.read(np.arange(80))
    text, text_done = stores.text.read(np.arange(len(stores.text)))
    usable = [row for row in range(60) if done[row] and text_done[texts[row]].any()]
    assert 0 < len(usable) < 56
    pairs = cached_pairs(stores, "train", style="dimensional")
    assert pairs.rows.tolist() == usable
    for place, row in enumerate(usable):
        assert np.array_equal(pairs.speech[place], speech[row])
        captions = pairs.caption[pairs.offsets[place] : pairs.offsets[place + 1]]
        assert np.array_equal(pairs.text[captions], text[[each for each in texts[row] if text_done[each]]])
