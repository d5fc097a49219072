"""Nothing linear in the corpus is heavy: what a row costs in memory, and that blocks leave no seam."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cache import reader
from cache.header import DONE, FAILED, PENDING
from cache.reader import Store
from cache.writer import StoreWriter, open_for_writing
from pipeline.core.config import CorpusConfig
from pipeline.data.corpora import read_corpus
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.batching import batches
from pipeline.extraction.status import sources_of
from tests.cache.stores_of import digest_of, filled, rows_of, spec_of, vector_of

ROWS = 5000


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    soundfile.write(folder / "wave.wav", np.full(1600, 0.1), 16_000)
    lines = ["id,audio,split,valence"]
    for row in range(ROWS):
        os.link(folder / "wave.wav", folder / f"{row:05}.wav")
        lines.append(f"utterance {row},{row:05}.wav,train,{1 + row % 31 / 5:.1f}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def bytes_a_row(work: Callable[[], object]) -> float:
    """The most memory that `work` holds at once, over `ROWS`."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / ROWS
    finally:
        tracemalloc.stop()


def test_reading_a_manifest_takes_less_than_a_kilobyte_a_row(manifest: Path) -> None:
    config = CorpusConfig(reader="manifest", manifest=manifest)
    read_corpus(config)  # what is made once
    assert bytes_a_row(lambda: read_corpus(config)) < 1000


def test_stamping_files_and_reading_headers_takes_no_object_a_row(manifest: Path) -> None:
    corpus, decoding = read_corpus(CorpusConfig(reader="manifest", manifest=manifest)), Decoding(16_000, 10.0, "start")
    found = sources_of(corpus, decoding, manifest.with_name("none.h5"))
    assert found.lengths.tolist() == [1600] * ROWS
    assert bytes_a_row(lambda: sources_of(corpus, decoding, manifest.with_name("none.h5"))) < 200


def test_one_clip_a_batch_takes_no_array_a_row() -> None:
    assert bytes_a_row(lambda: batches(np.arange(ROWS), 0)) < 150


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_BLOCK_BYTES", 100)  # three rows of 7 floats


@pytest.mark.usefixtures("small_blocks")
def test_a_scan_in_blocks_finds_every_state(tmp_path: Path) -> None:
    store, _ = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(20)))
    expected = np.full(20, PENDING)
    with StoreWriter(store) as writer:
        for row in (0, 2, 3, 10, 11, 12, 19):
            writer.commit(row, vector_of(row, 7), digest_of(row))
            expected[row] = DONE
        for row in (1, 13, 18):
            writer.fail(row, f"reason {row}", digest_of(row))
            expected[row] = FAILED
    assert store.scan().tolist() == expected.tolist()
    with open(store.path, "r+b") as file:
        for row in (2, 19):
            file.seek(store.layout.extents["vectors"].offset + row * 28)
            file.write(b"\1")
    assert store.inconsistent_rows().tolist() == [2, 19]


@pytest.mark.usefixtures("small_blocks")
def test_rows_are_reused_in_blocks_wherever_they_move(tmp_path: Path) -> None:
    filled(tmp_path / "a.h5", 20, failed=(4, 9))
    order = np.random.default_rng(0).permutation(20)
    rows = rows_of(25)
    rows.ids[:20] = [f"u{row}" for row in order]
    rows.stamps[:20] = rows.stamps[order]
    store, reused = open_for_writing(spec_of(tmp_path / "a.h5", rows))
    assert reused == 20
    states = store.scan()
    assert states[:20].tolist() == [FAILED if row in (4, 9) else DONE for row in order]
    assert states[20:].tolist() == [PENDING] * 5
    assert store.reasons(states) == {int(np.flatnonzero(order == row)[0]): f"reason {row}" for row in (4, 9)}
    values, done = store.read(np.flatnonzero(states == DONE))
    assert done.all()
    assert np.array_equal(values, np.stack([vector_of(row, 7) for row in order if row not in (4, 9)]))


def test_a_block_of_pending_rows_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(20)))
    column = Store.column

    def refuse(self: Store, name: str, *place: int) -> np.ndarray:
        assert name != "vectors"
        return column(self, name, *place)

    monkeypatch.setattr(Store, "column", refuse)
    assert store.scan().tolist() == [PENDING] * 20
