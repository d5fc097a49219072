"""What captions are written from, and what the styles share."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.captions import Caption, Captions, Columns
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig

LABEL_DECIMALS = 2  # of valence and arousal in prompts and captions files; pairs that agree at them are one
TemplateSplit = Literal["train", "test"]  # of the templates and words: development utterances get the train ones
TEMPLATE_SPLITS: tuple[TemplateSplit, ...] = ("train", "test")


@dataclass(frozen=True)
class Acoustics:
    """Acoustic features of every utterance: `values` is (N, F), NaN where a row is not done."""

    names: tuple[str, ...]
    values: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class CaptionSource:
    """A corpus. `acoustics` is there only for styles that need it."""

    manifest: Manifest
    acoustics: Acoustics | None = None


Style = Callable[[CaptionSource, CaptionsConfig], Captions]


def template_split(split: str) -> TemplateSplit:
    """Which templates describe the utterances of a corpus's `split`."""
    return "test" if split.startswith("test") else "train"


def is_test(manifest: Manifest, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) 1 where the row's utterance gets test templates, else 0."""
    test = {split: template_split(split) == "test" for split in set(manifest.split)}
    return np.array([test[split] for split in manifest.split], dtype=np.int64)[rows]


def hash_ids(manifest: Manifest, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """(M,) a number below 2^32 for each of `rows`: of the utterance's id and the seed, not of its row."""
    start, ids = zlib.crc32(f"{seed}:".encode()), manifest.id
    hashes = [zlib.crc32(ids[row].encode(errors="surrogateescape"), start) for row in rows.tolist()]
    return np.array(hashes, dtype=np.int64)


def group_rows(
    style: str, keys: NDArray[np.int64], rows: NDArray[np.int64], texts_of: Callable[[NDArray[np.int64]], list[str]]
) -> Columns[Caption]:
    """One caption per distinct key, ascending, with its text by `texts_of`; `keys` is (M, K), those of `rows` (M,).

    `rows` are ascending, so a stable sort keeps them so in each caption.
    """
    counts = np.bincount(keys.ravel()) if keys.size else np.empty(0, np.int64)
    dtype = np.uint16 if len(counts) <= 1 << 16 else np.int64  # numpy sorts 16 bits in one pass
    order = np.argsort(keys.ravel().astype(dtype), kind="stable")
    sorted_rows = array("q", rows[order // keys.shape[1]].tobytes())
    present = np.flatnonzero(counts)
    ends = np.cumsum(counts[present]).tolist()
    parts = [sorted_rows[start:end] for start, end in pairwise([0, *ends])]
    return Columns.of(Caption, [style] * len(parts), texts_of(present), parts)
