"""What captions are written from, what a style is, and the draw that styles share."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.captions import Caption, Captions
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig


@dataclass(frozen=True)
class Acoustics:
    """Acoustic features of every utterance: `values` is (N, F), NaN where a row is not done."""

    names: tuple[str, ...]
    values: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Source:
    """A corpus. `acoustics` is there only for styles that need it."""

    manifest: Manifest
    acoustics: Acoustics | None = None


Style = Callable[[Source, CaptionsConfig], Captions]


def drawn(manifest: Manifest, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """(M,) a number below 2^32 for each of `rows`, by the utterance's name and the seed, not by its place."""
    start, ids = zlib.crc32(f"{seed}:".encode()), manifest.id
    numbers = (zlib.crc32(ids[row].encode(errors="surrogateescape"), start) for row in rows.tolist())
    return np.fromiter(numbers, np.int64, len(rows))


def is_test(manifest: Manifest, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) 1 where the row's split is a test, else 0."""
    known = {split: split.startswith("test") for split in set(manifest.split)}
    return np.fromiter(map(known.__getitem__, manifest.split), np.int64, len(manifest))[rows]


def grouped(style: str, keys: NDArray[np.int64], rows: NDArray[np.int64], text: Callable[[int], str]) -> list[Caption]:
    """One caption per key present, ascending; `keys` is (M, K), those of `rows` (M,).

    `rows` are ascending, so a stable sort keeps them so in each caption.
    """
    counts = np.bincount(keys.ravel()) if keys.size else np.empty(0, np.int64)
    kind = np.uint16 if len(counts) <= 1 << 16 else np.int64  # numpy sorts 16 bits in one pass
    order = np.argsort(keys.ravel().astype(kind), kind="stable")
    owners = rows[order // keys.shape[1]]
    present = np.flatnonzero(counts)
    parts = np.split(owners, np.cumsum(counts[present])[:-1]) if present.size else []
    return [
        Caption(style, text(key), array("q", part.tobytes())) for key, part in zip(present.tolist(), parts, strict=True)
    ]
