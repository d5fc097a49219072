"""Every layer is kept unless one vector is asked for; stores and heads of one vector stay in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.stores import open_joint, open_stores
from cache.writer import StoreWriter
from pipeline.core.config import TrainConfig
from pipeline.extraction.extract import extract
from pipeline.training.train import train
from tests.speech import QUICK


def test_heads_know_a_layer_alone_and_among_others(corpus: Path, stores: Path, tmp_path: Path) -> None:
    """The stores of a release before this one, of one vector a row, and those of now are one encoder's to heads."""
    extract(corpus, out=tmp_path / "alone", overrides=[*QUICK, "audio.layers=null"])
    alone, among = open_stores(tmp_path / "alone"), open_stores(stores)
    assert alone.audio.axes is None
    assert among.audio.axes is not None
    assert among.fingerprint() == alone.fingerprint()
    assert among.selected((1, "mean")).fingerprint() != alone.fingerprint()
    rows = np.arange(len(alone.audio))
    assert (among.audio.read(rows)[0] == alone.audio.read(rows)[0]).all()
    for first, second in ((among, alone), (alone, among)):  # the same vectors in one corpus
        joint = open_joint([first, second])
        assert joint.fingerprint() == alone.fingerprint()
        read, done = joint.audio.read(np.arange(48))
        assert done.all()
        assert (read[:24] == read[24:]).all()
    run = train(among, method=TrainConfig(width=4, batch_size=4, epochs=1, threads=1), out=tmp_path / "run")
    run.stores(alone)
    run.stores(among)


def test_a_row_takes_all_its_layers_or_nothing(stores: Path) -> None:
    store = open_stores(stores).audio
    vector = store.read(np.array([0]))[0][0]
    with StoreWriter(store) as writer, pytest.raises(ValueError, match=r"\(384,\), expected \(1920,\)"):
        writer.commit(0, vector, bytes(16))
    assert (open_stores(stores).audio.read(np.array([0]))[0][0] == vector).all()


def test_layers_are_left_as_the_stores_have_them(corpus: Path, tmp_path: Path) -> None:
    """A run of now goes on in a folder of before, and of a choice of layers."""
    for chosen in ("null", "[1,3]"):
        extract(corpus, out=tmp_path / chosen, overrides=[*QUICK, f"audio.layers={chosen}"], limit=4)
        before = open_stores(tmp_path / chosen).audio.axes
        result = extract(corpus, out=tmp_path / chosen, overrides=QUICK)
        assert result["audio"]["pending"] == 0
        assert open_stores(tmp_path / chosen).audio.axes == before
    anew = extract(corpus, out=tmp_path / "null", overrides=QUICK, fresh=True)
    axes = open_stores(tmp_path / "null").audio.axes
    assert axes is not None
    assert axes.layers == (0, 1, 2, 3, 4)
    assert anew["audio"]["done"] == 24
