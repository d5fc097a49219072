"""What a search keeps beside a RUN is used only for the same heads and rows, and is never needed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import pipeline.inference.kept_index as kept_index
from cache.disk import writer_lock
from cache.stores import open_stores
from cache.writer import StoreWriter
from pipeline.inference.filters import Filter
from pipeline.inference.kept_index import KeptIndex, read_kept
from pipeline.inference.search import NearestNeighbours, SpeechIndex, _Embedder, embed_rows
from pipeline.training.run_folder import SEARCH_FOLDER, Run
from pipeline.training.train import train
from tests.planted import plant
from tests.stage_two import SETTINGS, small_stores, unlisted


@pytest.fixture(autouse=True)
def of_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small stores are kept too, and sentences are vectors that are there already."""
    monkeypatch.setattr(kept_index, "MIN_ROWS", 1)
    embed = np.eye(1, 4, dtype=np.float32)
    monkeypatch.setattr(_Embedder, "text_encoder", lambda self: None)
    monkeypatch.setattr(_Embedder, "sentence_embedder", lambda self, encoder: lambda sentence: embed)


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    folder = small_stores(tmp_path / "stores")
    (folder / "config.yaml").write_text("{}")
    return folder


@pytest.fixture
def run(stores: Path, tmp_path: Path) -> Run:
    return train(stores, overrides=SETTINGS, out=tmp_path / "run")


def files(run: Run) -> list[Path]:
    return sorted(run.folder.glob(f"{SEARCH_FOLDER}/*.safetensors"))


def opened(run: Run, stores: Path, **options: object) -> NearestNeighbours:
    return SpeechIndex.open(stores, run, device="cpu", **options).neighbours  # type: ignore[arg-type]


def same(one: NearestNeighbours | None, two: NearestNeighbours) -> bool:
    return one is not None and np.array_equal(one.rows, two.rows) and one.vectors.tobytes() == two.vectors.tobytes()


def plain(run: Run, stores: Path) -> NearestNeighbours:
    """Projected here, with nothing that is kept."""
    heads = run.heads().requires_grad_(False)
    speech = run.stores(stores).audio
    return embed_rows(speech, np.arange(len(speech)), lambda vectors: np.asarray(heads.embed_speech(vectors)))


def kept(run: Run, stores: Path) -> NearestNeighbours | None:
    index = index_of(run, stores)
    found = index.of_these(read_kept(index.path))
    return None if found is None else NearestNeighbours(*found)


def index_of(run: Run, stores: Path) -> KeptIndex:
    return KeptIndex.of(run, run.stores(stores), run.heads(), torch.device("cpu"))


def test_the_second_search_projects_nothing_and_finds_the_same(
    run: Run, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same(opened(run, stores), plain(run, stores))
    assert len(files(run)) == 1
    among = Filter(split=["test"])
    some = opened(run, stores, among=among)
    monkeypatch.setattr("pipeline.inference.search.embed_rows", lambda *_: pytest.fail("rebuilt"))
    assert same(opened(run, stores), kept(run, stores))
    assert same(opened(run, stores, among=among), some)
    assert some.rows.tolist() == [row for row in range(80) if row >= 64]


def test_it_is_a_safetensors_file(run: Run, stores: Path) -> None:
    found = opened(run, stores)
    tensors = load_file(files(run)[0])
    assert same(NearestNeighbours(tensors["rows"], tensors["vectors"]), found)


def other_heads(run: Run, stores: Path) -> None:
    train(stores, overrides=[*SETTINGS, "learning_rate=0.1"], out=run.folder, fresh=True)


def another_vector(run: Run, stores: Path) -> None:
    unlisted(stores)
    with StoreWriter(open_stores(stores).audio) as writer:
        writer.reset([3])
        writer.commit(3, np.full(6, 0.5, np.float32), bytes(16))


def a_failed_row(run: Run, stores: Path) -> None:
    unlisted(stores)
    with StoreWriter(open_stores(stores).audio) as writer:
        writer.reset([70])
        writer.fail(70, "a bad file", bytes(16))


def another_seed_of_the_stores(run: Run, stores: Path) -> None:
    plant(stores.with_name("other"), {"train": 48, "dev": 16, "test": 16}, audio_width=6, text_width=5, seed=1)
    shutil.copyfile(stores / "config.yaml", stores.with_name("other") / "config.yaml")
    shutil.rmtree(stores)
    stores.with_name("other").rename(stores)


@pytest.mark.parametrize("change", [other_heads, another_vector, a_failed_row, another_seed_of_the_stores])
def test_other_heads_or_rows_are_projected_again(run: Run, stores: Path, change: Callable[[Run, Path], None]) -> None:
    before = opened(run, stores)
    change(run, stores)
    after = opened(Run(run.folder), stores)
    assert same(after, plain(Run(run.folder), stores))
    assert not same(after, before)
    assert same(opened(Run(run.folder), stores), after)
    assert len(files(run)) == 1


def test_hits_have_the_labels_of_the_manifest_as_it_is_now(run: Run, stores: Path) -> None:
    SpeechIndex.open(stores, run, device="cpu")
    unlisted(stores)
    text = (stores / "manifest.csv").read_text()
    (stores / "manifest.csv").write_text(text.replace(",70.wav,test,", ",moved.wav,test,"))
    hits = SpeechIndex.open(stores, run, device="cpu").ask("x", among=Filter(split=["test"]), top=80)[0]
    assert [hit["audio"] for hit in hits if hit["id"] == "u70"] == ["moved.wav"]


def test_two_folders_of_stores_are_kept_side_by_side(run: Run, stores: Path, tmp_path: Path) -> None:
    other = plant(tmp_path / "other", {"test": 30}, audio_width=6, text_width=5, seed=2).folder
    (other / "config.yaml").write_text("{}")
    for _ in range(2):
        for folder in (stores, other):
            assert same(opened(run, folder), plain(run, folder))
    assert len(files(run)) == 2


def test_a_changed_byte_anywhere_and_a_file_that_ends_early_are_never_used(run: Run, stores: Path) -> None:
    expected = opened(run, stores)
    [path] = files(run)
    whole = path.read_bytes()
    assert kept(run, stores) is not None
    for at in range(0, len(whole), 10):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert kept(run, stores) is None, at
    for length in range(0, len(whole), 100):
        path.write_bytes(whole[:length])
        assert kept(run, stores) is None, length
    path.write_bytes(whole + b"\0")
    assert kept(run, stores) is None
    assert same(opened(run, stores), expected)  # and written again
    assert path.read_bytes() == whole


def test_a_corrupt_file_is_told(run: Run, stores: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(run, stores)
    [path] = files(run)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        opened(run, stores)
    assert f"{path}: the search index is corrupt (its bytes do not match their checksum); it is rebuilt" in caplog.text


def test_where_nothing_can_be_written_a_search_does_without(
    run: Run, stores: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)  # the tests may run as root, who may write everywhere
        assert same(opened(run, stores), plain(run, stores))
    assert not (run.folder / SEARCH_FOLDER).exists()
    (run.folder / SEARCH_FOLDER).write_text("a file is in the way")
    with caplog.at_level(logging.INFO):
        assert same(opened(run, stores), plain(run, stores))
    assert "could not be saved" in caplog.text


def test_two_writers_leave_one_whole_file(run: Run, stores: Path, caplog: pytest.LogCaptureFixture) -> None:
    with writer_lock(run.folder / SEARCH_FOLDER), caplog.at_level(logging.INFO):
        assert same(opened(run, stores), plain(run, stores))
    assert "is writing here" in caplog.text
    assert files(run) == []
    opened(run, stores)
    assert same(kept(run, stores), plain(run, stores))


def test_rows_that_are_corrupt_now_are_not_left_out_for_ever(run: Run, stores: Path) -> None:
    """Restored, they have the checksums that they had before."""
    path = stores / "audio.h5"
    whole, layout = path.read_bytes(), open_stores(stores).audio.layout
    at = layout.extents["vectors"].offset
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert opened(run, stores).rows[0] == 1
    path.write_bytes(whole)
    assert opened(run, stores).rows[0] == 0
