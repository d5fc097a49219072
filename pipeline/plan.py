"""The plan: which rows are encoded together. Cut from the manifest alone, never from what is left to do.

So a store that was interrupted anywhere and resumed is byte-identical to one that was not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 512  # rows in one batch


def batches(lengths: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Cut rows into batches of similar length, longest first, so that memory's peak comes at once.

    A batch's padded size (rows x longest) is at most `budget`, or it is a single row. Ties keep manifest order.
    """
    order = np.argsort(-lengths, kind="stable")
    cut: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        size = min(MOST, max(1, budget // longest))
        cut.append(order[start : start + size])
        start += size
    return cut
