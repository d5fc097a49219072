"""What the rows of a store are called: ids or texts, held as one run of UTF-8 and not as millions of strings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Names:
    """(N,) names. Name i is `data[offsets[i]:offsets[i + 1]]`; bytes that are no UTF-8 are surrogates in a string."""

    def __init__(self, data: bytes, offsets: NDArray[np.int64]) -> None:
        """`offsets` is (N + 1,). Raises ValueError when they do not cut `data` into names."""
        if not offsets.size or offsets[0] != 0 or offsets[-1] != len(data) or np.any(np.diff(offsets) < 0):
            raise ValueError("names out of order")
        self.data, self.offsets = data, offsets

    @classmethod
    def of(cls, texts: Sequence[str]) -> Names:
        """The names `texts`."""
        data = "".join(texts).encode("utf-8", "surrogateescape")
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        if sizes.sum() != len(data):  # not ASCII: characters are not bytes
            encoded = (len(text.encode("utf-8", "surrogateescape")) for text in texts)
            sizes = np.fromiter(encoded, np.int64, len(texts))
        return cls(data, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.offsets[row] : self.offsets[row + 1]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and self.data == other.data and np.array_equal(self.offsets, other.offsets)

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The names of `rows`, in that order."""
        ends = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
        return [self.data[start:stop] for start, stop in ends]

    def texts(self) -> list[str]:
        """Every name as a string."""
        cuts = itertools.pairwise(self.offsets.tolist())
        if self.data.isascii():  # decoded in one go: twice as fast
            text = self.data.decode("ascii")
            return [text[start:stop] for start, stop in cuts]
        return [self.data[start:stop].decode("utf-8", "surrogateescape") for start, stop in cuts]
