"""Texts that every corpus has are encoded once per machine; whatever happens to the cache, the stores are right."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cache.reader import Store
from cache.stores import Stores, open_stores
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing
from pipeline.core.files import CACHE_VARIABLE, cache_folder
from pipeline.extraction.encoders.text import TextModel
from pipeline.extraction.extract import extract
from pipeline.extraction.text_cache import TextVectorCache
from tests.faults.small import quick_encoders
from tests.speech import QUICK, write_corpus

STYLES = "captions.styles=[dimensional,template]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that takes no time, for what is the database's affair."""
    quick_encoders(monkeypatch)
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the encoder is given."""
    texts: list[str] = []
    prepare = TextModel.prepare
    monkeypatch.setattr(TextModel, "prepare", lambda self, inputs: (texts.extend(inputs), prepare(self, inputs))[1])
    return texts


def extracted(tmp_path: Path, name: str, *overrides: str) -> Stores:
    manifest = write_corpus(tmp_path / f"corpus-{name}", 8)
    extract(manifest, out=tmp_path / name, overrides=[*QUICK, STYLES, *overrides])
    return open_stores(tmp_path / name)


def databases(folder: Path) -> list[Path]:
    return sorted(folder.glob("texts/*.sqlite"))


def test_a_second_corpus_encodes_its_captions_alone(folder: Path, tmp_path: Path, encoded: list[str]) -> None:
    first = extracted(tmp_path, "first")
    encoded.clear()
    second = extracted(tmp_path, "second")
    captions = set(second.captions.captions.columns["text"])
    probe = 3  # sentences that an encoder is tried with
    assert len(set(encoded) - captions) == probe
    rows = np.arange(len(first.text))
    assert first.text.ids == second.text.ids
    assert all((one == two).all() for one, two in zip(first.text.read(rows), second.text.read(rows), strict=True))


def test_vectors_from_the_cache_are_those_of_the_encoder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted(tmp_path, "first")
    cached = extracted(tmp_path, "cached")
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_folder() is None
    anew = extracted(tmp_path, "anew")
    rows = np.arange(len(anew.text))
    np.testing.assert_allclose(cached.text.read(rows)[0], anew.text.read(rows)[0], atol=1e-6)
    captions = set(anew.captions.captions.columns["text"])
    own = np.array([row for row, text in enumerate(anew.text.ids) if text in captions])
    assert (cached.text.read(own)[0] == anew.text.read(own)[0]).all()  # captions to the bit


def test_another_pooling_has_a_cache_of_its_own(folder: Path, tmp_path: Path, encoded: list[str]) -> None:
    extracted(tmp_path, "first")
    encoded.clear()
    extracted(tmp_path, "second", "text.pooling=cls")
    assert len(encoded) > 150
    assert len(databases(folder)) == 2


@pytest.mark.usefixtures("quick")
def test_a_float16_store_is_filled_and_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    extracted(tmp_path, "rounded", "store_dtype=float16")
    assert not databases(folder)
    exact = extracted(tmp_path, "exact")
    rounded = extracted(tmp_path, "again", "store_dtype=float16")
    rows = np.arange(len(exact.text))
    assert (exact.text.read(rows)[0].astype(np.float16) == rounded.text.read(rows)[0]).all()


def test_a_vector_that_was_damaged_is_encoded_anew(folder: Path, tmp_path: Path, encoded: list[str]) -> None:
    first = extracted(tmp_path, "first")
    (path,) = databases(folder)
    with closing(sqlite3.connect(path)) as database, database:
        text, vector = database.execute("SELECT text, vector FROM vectors LIMIT 1").fetchone()
        damaged = bytes([vector[0] ^ 1]) + vector[1:]
        database.execute("UPDATE vectors SET vector = ? WHERE text = ?", (damaged, text))
    encoded.clear()
    second = extracted(tmp_path, "second")
    assert text in encoded
    rows = np.arange(len(first.text))
    np.testing.assert_allclose(first.text.read(rows)[0], second.text.read(rows)[0], atol=1e-6)
    with closing(sqlite3.connect(path)) as database, database:
        mended = database.execute("SELECT vector FROM vectors WHERE text = ?", (text,)).fetchone()[0]
    assert mended != damaged


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_file_that_is_no_database_is_replaced(content: bytes, folder: Path, tmp_path: Path) -> None:
    extracted(tmp_path, "first")
    (path,) = databases(folder)
    path.write_bytes(content)
    second = extracted(tmp_path, "second")
    assert second.text.scan().all()
    extracted(tmp_path, "third")
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute("SELECT count(*) FROM vectors").fetchone()[0] > 150


@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_written_is_done_without(folder: Path, tmp_path: Path) -> None:
    folder.write_text("a file where the folder would be")
    assert extracted(tmp_path, "stores").text.scan().all()


def test_two_processes_fill_it_together(folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.extraction.test_text_cache import extracted;"
        "extracted(Path(sys.argv[1]), sys.argv[2])"
    )
    root = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path, name], env=os.environ | {"PYTHONPATH": str(root)})
        for name in ("one", "two")
    ]
    assert [process.wait() for process in started] == [0, 0]
    one, two = (open_stores(tmp_path / name) for name in ("one", "two"))
    rows = np.arange(len(one.text))
    np.testing.assert_allclose(one.text.read(rows)[0], two.text.read(rows)[0], atol=1e-6)
    assert extracted(tmp_path, "three").text.scan().all()


@pytest.mark.parametrize("rounds", [40, pytest.param(2000, marks=pytest.mark.exhaustive)])
def test_no_damage_of_the_file_gives_another_vector(rounds: int, folder: Path, tmp_path: Path) -> None:
    """Single bits, cuts and swapped blocks: a text is found with its own vector or not at all."""
    fingerprint, dim = {"encoder": "made up"}, 8
    texts = [f"text {number}" for number in range(200)]
    vectors = np.random.default_rng(0).standard_normal((len(texts), dim)).astype(np.float32)
    cache = TextVectorCache(fingerprint, dim)
    assert cache.path is not None
    spec = StoreSpec(tmp_path / "text.h5", "text", named(texts), dim=dim, dtype="<f4", fingerprint=fingerprint)
    with StoreWriter(open_for_writing(spec)[0]) as writer:
        for row, vector in enumerate(vectors):
            writer.commit(row, vector, bytes(16))
    cache.keep(Store.open(tmp_path / "text.h5"), np.arange(len(texts)))
    whole, draw, lost = cache.path.read_bytes(), random.Random(0), 0
    for number in range(rounds):
        damaged = bytearray(whole)
        if number % 10 == 8:
            del damaged[draw.randrange(len(whole)) :]
        elif number % 10 == 9:
            one, two = (draw.randrange(len(whole) // 64) * 64 for _ in range(2))
            damaged[one : one + 64], damaged[two : two + 64] = damaged[two : two + 64], damaged[one : one + 64]
        else:
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        cache.path.write_bytes(bytes(damaged))
        found = cache._read(texts)
        assert all((found[text] == vectors[texts.index(text)]).all() for text in found)
        lost += len(found) < len(texts)
    assert 0 < lost <= rounds


def named(texts: list[str]) -> StoreRows:
    return StoreRows(texts, np.zeros((len(texts), 2), np.int64), np.array([len(text) for text in texts], np.int64))
