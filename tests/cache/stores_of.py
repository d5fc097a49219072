"""Small stores for the cache's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.layers import Axes
from cache.reader import Store
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing

FINGERPRINT = {"store_version": 1, "encoder": {"name": "test", "weights": "sha256:0"}}


def rows_of(count: int, *, prefix: str = "u", mtime: int = 1) -> StoreRows:
    stamps = np.array([[100 + i, mtime] for i in range(count)], dtype=np.int64).reshape(-1, 2)
    return StoreRows([f"{prefix}{i}" for i in range(count)], stamps, np.arange(count, dtype=np.int64))


def vector_of(row: int, dim: int) -> np.ndarray:
    return np.random.default_rng(row).standard_normal(dim).astype(np.float32)


def digest_of(row: int) -> bytes:
    return (row + 1).to_bytes(16, "little")


def spec_of(
    path: Path,
    rows: StoreRows,
    *,
    dim: int = 7,
    dtype: str = "<f4",
    fingerprint: dict = FINGERPRINT,
    axes: Axes | None = None,
) -> StoreSpec:
    return StoreSpec(path, "audio", rows, dim=dim, dtype=dtype, fingerprint=fingerprint, axes=axes)


def filled(
    path: Path, count: int = 9, *, dim: int = 7, failed: tuple[int, ...] = (), axes: Axes | None = None
) -> Store:
    store, _ = open_for_writing(spec_of(path, rows_of(count), dim=dim, axes=axes))
    with StoreWriter(store) as writer:
        for row in range(count):
            if row in failed:
                writer.fail(row, f"reason {row}", digest_of(row))
            else:
                writer.commit(row, vector_of(row, dim), digest_of(row))
        writer.sync()
    return store
