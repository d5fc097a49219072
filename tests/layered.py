"""Layered copies of planted stores, and the copies of one vector a row that an extraction of one layer would give."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.layers import Axes
from cache.reader import Store
from cache.stores import Stores, open_stores
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing

Matrix = NDArray[np.float32]


def write_rows(path: Path, ids: list[str], rows: Matrix, axes: Axes | None, dtype: str = "<f4") -> None:
    """A store of done rows."""
    named = StoreRows(ids, np.zeros((len(ids), 2), np.int64), np.zeros(len(ids), np.int64))
    fingerprint = {"store_version": 2, "encoder": {"encoder": "planted"}}
    spec = StoreSpec(path, path.stem, named, dim=rows.shape[1], dtype=dtype, fingerprint=fingerprint, axes=axes)
    with StoreWriter(open_for_writing(spec)[0]) as writer:
        for row, vector in enumerate(rows):
            writer.commit(row, vector, row.to_bytes(16, "little"))


def layers_of(
    folder: Path, out: Path, noises: Sequence[float] = (1.0, 0.0, 3.0), poolings: Sequence[str] = ("mean", "std")
) -> Stores:
    """Stores like those in `folder`, whose layer l has the vectors of these with `noises[l]` on them, of both sides.

    Every pooling has a noise of its own; layer 1 of the first pooling, where its noise is 0, is the vector there.
    """
    out.mkdir(parents=True)
    for name in ("manifest.csv", "captions.jsonl"):
        shutil.copy(folder / name, out / name)
    for number, side in enumerate(("audio", "text")):
        store = Store.open(folder / f"{side}.h5")
        vectors, draw = store.read(np.arange(len(store)))[0], np.random.default_rng(number)
        axes = Axes(tuple(range(len(noises))), tuple(poolings), store.dim, layer=1)
        parts = [
            vectors + np.float32(noise + bool(place)) * draw.standard_normal(vectors.shape, dtype=np.float32)
            if noise + bool(place)
            else vectors
            for noise in noises
            for place in range(len(poolings))
        ]
        write_rows(out / f"{side}.h5", store.ids, np.concatenate(parts, axis=1), axes)
    return open_stores(out)


def single_of(stores: Stores, out: Path, layers: int, pooling: str) -> Stores:
    """Stores of one vector a row: what layer `layers` and `pooling` of both sides of `stores` are."""
    out.mkdir(parents=True)
    for name in ("manifest.csv", "captions.jsonl"):
        shutil.copy(stores.folder / name, out / name)
    view = stores.selected((layers, pooling), (layers, pooling))
    for store in (view.audio, view.text):
        write_rows(out / store.path.name, store.ids, store.read(np.arange(len(store)))[0], None)
    return open_stores(out)
