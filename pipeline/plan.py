"""The plan: which rows are encoded together. Cut from the manifest alone, never from what is left to do.

So a store that was interrupted anywhere and resumed is byte-identical to one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

MOST = 512  # rows in one batch


class Batches(Sequence[NDArray[np.int64]]):
    """Batches of rows, cut as they are asked for: millions of them take 16 bytes each.

    Batch i is `order[starts[i]:stops[i]]`.
    """

    def __init__(self, order: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        self._order, self._starts, self._stops = order, starts, stops

    @classmethod
    def of_size(cls, order: NDArray[np.int64], size: int) -> Batches:
        """`order` in batches of `size` rows; the last may be smaller."""
        starts = np.arange(0, len(order), size, dtype=np.int64)
        return cls(order, starts, np.minimum(starts + size, len(order)))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, place: slice) -> Batches: ...

    def __getitem__(self, place: int | slice) -> NDArray[np.int64] | Batches:
        if isinstance(place, slice):
            return Batches(self._order, self._starts[place], self._stops[place])
        return self._order[self._starts[place] : self._stops[place]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(len,) rows in each batch."""
        return self._stops - self._starts

    def counts(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(len,) how many rows of each batch are `chosen`, which is (N,) over all rows."""
        before = np.zeros(len(self._order) + 1, dtype=np.int64)
        np.cumsum(chosen[self._order], out=before[1:])
        counted: NDArray[np.int64] = before[self._stops] - before[self._starts]
        return counted

    def take(self, places: NDArray[np.int64]) -> Batches:
        """The batches at `places`, in that order."""
        return Batches(self._order, self._starts[places], self._stops[places])


def batches(lengths: NDArray[np.int64], budget: int) -> Batches:
    """Cut rows into batches of similar length, longest first, so that memory's peak comes at once.

    A batch's padded size (rows x longest) is at most `budget`, or it is a single row. Ties keep manifest order.
    """
    order = np.argsort(-lengths, kind="stable")
    sizes = np.minimum(MOST, np.maximum(1, budget // np.maximum(1, lengths[order]))).tolist()
    starts, start = [], 0
    while start < len(order):
        starts.append(start)
        start += sizes[start]
    cuts = np.array([*starts, len(order)], dtype=np.int64)
    return Batches(order, cuts[:-1], cuts[1:])
