"""Rows of a store as heads embed them, on the unit sphere: whichever lie nearest to a vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.reader import Store
from pipeline.errors import UsageError
from pipeline.progress import Meter

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
_ROWS = 8192  # of a store projected at once: what they take comes and goes beside the index
_TOGETHER = 16  # vectors asked in one product: their similarities take 10 MB at 150,000 rows


@dataclass(frozen=True)
class UnitRows:
    """Rows of a store as heads embed them, normalised once; rows without a vector or a direction are not here."""

    rows: Rows  # (n,) ascending
    vectors: Vectors  # (n, width) of length 1

    def nearest(self, asked: Vectors, top: int, allowed: Mask | None = None) -> list[list[tuple[int, float]]]:
        """The `top` rows nearest to each of `asked` (q, width), as (row, cosine): nearest first, of equals the lower.

        `allowed` (N,) says which rows of the store may be hits. The products are float32, the cosines and the order
        float64, so they do not depend on what else is asked or how many cores there are. A vector without a direction
        has no hits. Raises UsageError for a `top` below 1.
        """
        if top < 1:
            raise UsageError(f"top {top}", "no hits asked for", "1 or more", "Ask for more.")
        places = np.arange(len(self.rows)) if allowed is None else np.flatnonzero(allowed[self.rows])
        if not len(places):
            return [[] for _ in asked]
        found = []
        for start in range(0, len(asked), _TOGETHER):
            part = asked[start : start + _TOGETHER]
            rough = part @ self.vectors.T  # (q, n)
            found += [self._best(one, near[places], places, top) for one, near in zip(part, rough, strict=True)]
        return found

    def _best(self, asked: Vectors, rough: Vectors, places: Rows, top: int) -> list[tuple[int, float]]:
        if not have_length_1(asked[None])[0]:
            return []
        if top < len(places):
            # a float32 product of unit vectors is wrong by width * 2^-24 at most, of this row and of the top-th
            least = np.partition(rough, -top)[-top] - 2 * (len(asked) + 2) * np.float32(2**-24)
            places = places[rough >= least]
        exact = self._cosines(asked.astype(np.float64), places)
        order = np.argsort(-exact, kind="stable")[:top]
        return list(zip(self.rows[places[order]].tolist(), exact[order].tolist(), strict=True))

    def _cosines(self, asked: NDArray[np.float64], places: Rows) -> NDArray[np.float64]:
        """(m,) float64; each is summed by itself, so that equal rows are equal to the last bit."""
        parts = (places[start : start + _ROWS] for start in range(0, len(places), _ROWS))
        return np.concatenate([(self.vectors[part] * asked).sum(axis=1) for part in parts])


def embed_rows(store: Store, rows: Rows, embed: Callable[[Tensor], Vectors]) -> UnitRows:
    """The done ones of `rows`, ascending, by `embed` ((n, width of the store) -> (n, width)), a block at a time."""
    kept = np.zeros(len(rows), dtype=bool)
    vectors, filled = np.empty((0, 0), np.float32), 0
    with Meter("load", len(rows), unit="rows") as meter:
        for start in range(0, len(rows), _ROWS):
            read, done = store.read(rows[start : start + _ROWS])
            block = embed(torch.from_numpy(read.astype(np.float32, copy=False)))
            if not start:  # whole: parts joined at the end would take twice the memory
                vectors = np.empty((len(rows), block.shape[1]), np.float32)
            usable = kept[start : start + _ROWS] = done & have_length_1(block)
            vectors[filled : (filled := filled + int(usable.sum()))] = block[usable]
            meter.advance(len(read))
    return UnitRows(rows[kept], vectors[:filled])


def have_length_1(vectors: Vectors) -> Mask:
    """(n,) which rows have a direction: heads give zeros where no unit fires (F7), and NaN for what overflows."""
    return np.asarray(np.isclose(np.einsum("nw,nw->n", vectors, vectors), 1, atol=0.01))
