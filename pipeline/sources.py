"""What each row's source is before it is decoded: the file's size and time, and how long the clip will be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.layout import Rows
from cache.manifest import Manifest
from cache.names import Names
from cache.reader import Store
from pipeline.audio import Decoding
from pipeline.audio_file import digest_of_file, opened, stamp_of
from pipeline.device import cores

_PART = 1024  # files in one piece of work: a future for each of two million would take gigabytes
_QUICK_SECONDS = 1e-4  # a file; a header from the page cache takes a tenth


def sources_of(manifest: Manifest, decoding: Decoding, store: Path) -> Rows:
    """Stamp every file and look up its length in samples: from `store` where it is unchanged, else from its header."""
    root, audio = str(manifest.root), manifest.audio
    stamps = _over(np.arange(len(manifest)), lambda row: _stamp(os.path.join(root, audio[row]))).reshape(-1, 2)
    lengths = _known_lengths(store, manifest.id, stamps)
    new = np.flatnonzero(lengths < 0)
    lengths[new] = _over(new, lambda row: decoding.samples(os.path.join(root, audio[row])))
    return Rows(manifest.id, stamps, lengths)


def content_of(path: Path) -> bytes | None:
    """The digest of a file's bytes, None where it cannot be read."""
    try:
        with opened(path) as handle:
            return digest_of_file(handle, os.fstat(handle).st_size)
    except (OSError, ValueError):
        return None


def _over(rows: NDArray[np.int64], look: Callable[[int], object]) -> NDArray[np.int64]:
    """`look` of every row, an integer or some: here, and as soon as that is slow, by threads.

    A network's file system answers many at once; on a local one threads only wait for each other (twice the time).
    """

    def part(start: int) -> NDArray[np.int64]:
        return np.array([look(row) for row in rows[start : start + _PART].tolist()], dtype=np.int64)

    starts = iter(range(0, len(rows), _PART))
    parts = []
    for start in starts:
        began = time.monotonic()
        parts.append(part(start))
        if time.monotonic() - began > _PART * _QUICK_SECONDS:
            break
    with ThreadPoolExecutor(4 * cores()) as pool:
        parts += pool.map(part, starts)
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _known_lengths(path: Path, ids: list[str], stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) lengths that an existing store knows of unchanged files; -1 elsewhere."""
    lengths = np.full(len(ids), -1, dtype=np.int64)
    if not path.exists():
        return lengths
    old = Store.open(path)
    if old.names == Names.of(ids):
        was = np.arange(len(ids))
    else:
        row_of = {name: row for row, name in enumerate(old.ids)}
        was = np.array([row_of.get(name, -1) for name in ids], dtype=np.int64)
    known = np.flatnonzero(was >= 0)
    known = known[(old.column("stamp")[was[known]] == stamps[known]).all(axis=1)]
    lengths[known] = old.column("length")[was[known]]
    return lengths


def _stamp(path: str) -> tuple[int, int]:
    try:
        return stamp_of(os.stat(path))
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return (-1, 0)
