"""What each row's source is before it is decoded: the file's size and time, and how long the clip will be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.layout import Rows
from cache.manifest import Manifest
from cache.reader import Store
from pipeline.audio import Decoding, digest_of
from pipeline.device import cores


def sources_of(manifest: Manifest, decoding: Decoding, store: Path) -> Rows:
    """Stamp every file and look up its length in samples: from `store` where it is unchanged, else from its header."""
    paths = [manifest.path(row) for row in range(len(manifest))]
    with ThreadPoolExecutor(4 * cores()) as pool:
        stamps = np.array(list(pool.map(_stamp, paths)), dtype=np.int64).reshape(-1, 2)
        lengths = _known_lengths(store, manifest.id, stamps)
        new = np.flatnonzero(lengths < 0)
        lengths[new] = list(pool.map(lambda row: decoding.samples(paths[row]), new.tolist()))
    return Rows(manifest.id, stamps, lengths)


def content_of(path: Path) -> bytes | None:
    """The digest of a file's bytes, None where it cannot be read."""
    try:
        return digest_of(path.read_bytes())
    except OSError:
        return None


def _known_lengths(path: Path, ids: list[str], stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) lengths that an existing store knows of unchanged files; -1 elsewhere."""
    lengths = np.full(len(ids), -1, dtype=np.int64)
    if not path.exists():
        return lengths
    old = Store.open(path).rows
    row_of = {name: row for row, name in enumerate(old.ids)}
    was = np.array([row_of.get(name, -1) for name in ids], dtype=np.int64)
    same = (was >= 0) & (old.stamps[was] == stamps).all(axis=1) if len(old) else was >= 0
    lengths[same] = old.lengths[was[same]]
    return lengths


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (-1, 0)
    return (found.st_size, found.st_mtime_ns)
