"""Reading a store: headers once, rows through plain file reads, every row checked against its CRC.

No HDF5 handle outlives a call, so a `Store` may cross a fork and be read while a writer runs.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import StoreCorrupt
from cache.layout import DIGEST_BYTES, DONE, FAILED, PENDING, Layout, Rows, read_layout, seal_of
from cache.names import Names

_BLOCK_BYTES = 16 << 20


class Store:
    """One store file, e.g. `audio.h5`: N rows of `width` floats, each done, failed or pending."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @classmethod
    def open(cls, path: Path) -> Store:
        """Raises StoreCorrupt when `path` is no store of this version."""
        return cls(read_layout(path))

    def __len__(self) -> int:
        return self.layout.rows

    @property
    def path(self) -> Path:
        return self.layout.path

    @property
    def width(self) -> int:
        return self.layout.width

    @property
    def fingerprint(self) -> dict[str, Any]:
        return self.layout.fingerprint

    @cached_property
    def names(self) -> Names:
        """(N,) what each row is: an utterance's id, or a text. Raises StoreCorrupt for offsets that are none."""
        try:
            return Names(self.column("id_bytes").tobytes(), self.column("id_offsets"))
        except ValueError:
            found = "row names out of order"
            raise StoreCorrupt(self.path, found, "a store", "Restore it or run with --fresh.") from None

    @cached_property
    def ids(self) -> list[str]:
        """`names` as strings."""
        return self.names.texts()

    @property
    def rows(self) -> Rows:
        """What the store was laid out for."""
        return Rows(self.ids, self.column("stamp"), self.column("length"))

    def column(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Entries `start:stop` of one dataset, read from the file in one piece."""
        extent = self.layout.extents[name]
        stop = extent.shape[0] if stop is None else stop
        shape = (stop - start, *extent.shape[1:])
        if 0 in shape:
            return np.empty(shape, extent.dtype)
        offset = extent.offset + start * extent.row_bytes
        count = int(np.prod(shape, dtype=np.int64))
        with open(self.path, "rb") as file:
            values = np.fromfile(file, dtype=extent.dtype, count=count, offset=offset)
        if values.size != count:
            raise StoreCorrupt(self.path, f"{name} ends early", f"{count} values", "Restore it or run with --fresh.")
        return values.reshape(shape)

    def scan(self) -> NDArray[np.uint8]:
        """(N,) DONE, FAILED or PENDING. A row whose CRC does not match its bytes is pending."""
        return np.where(self._matches(), self.column("state"), PENDING).astype(np.uint8)

    def damaged(self) -> NDArray[np.int64]:
        """Rows that say they are done or failed, but whose bytes do not match their CRC."""
        return np.flatnonzero((self.column("state") != PENDING) & ~self._matches())

    def header_intact(self) -> bool:
        """Whether every byte outside the rows is as it was laid out."""
        return int(self.column("seal")[0]) == seal_of(self.layout)

    def reasons(self, states: NDArray[np.uint8]) -> dict[int, str]:
        """Why each failed row failed."""
        texts = self._mapped("reason")
        return {int(row): _text(texts[row]) for row in np.flatnonzero(states == FAILED)}

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
        """Vectors (len(rows), width) and which of them are done; no other row is touched. Not-done rows are zero.

        Every row is checked against its CRC on the way.
        """
        values = np.empty((len(rows), self.width), self.layout.extents["vectors"].dtype)
        done = np.zeros(len(rows), dtype=bool)
        for block in self._blocks(len(rows)):
            chosen = rows[block]
            values[block] = self._mapped("vectors")[chosen]
            done[block] = self._match(chosen, values[block]) & (self._mapped("state")[chosen] == DONE)
        values[~done] = 0
        return values, done

    def done(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `rows` `read` would find done; their vectors are read and let go, a block at a time."""
        found = [self.read(rows[block])[1] for block in self._blocks(len(rows))]
        return np.concatenate(found) if found else np.zeros(0, dtype=bool)

    def _matches(self) -> NDArray[np.bool_]:
        """(N,) which rows are not pending and match their CRC. Where all are pending, no vector is read."""
        states = self.column("state")
        written = [block for block in self._blocks(len(self)) if states[block].any()]
        found = np.zeros(len(self), dtype=bool)
        for block, vectors in self._vectors_of(written):
            found[block] = self._match(np.arange(block.start, block.stop), vectors)
        return found

    def _vectors_of(self, blocks: list[slice]) -> Iterator[tuple[slice, NDArray[Any]]]:
        """The vectors of each block of rows; the next is read while one is in hand."""
        ahead: deque[Future[NDArray[Any]]] = deque()
        with ThreadPoolExecutor(1) as reader:
            for place, block in enumerate(blocks):
                for coming in blocks[place + len(ahead) : place + 2]:
                    ahead.append(reader.submit(self.column, "vectors", coming.start, coming.stop))
                yield block, ahead.popleft().result()

    def _match(self, rows: NDArray[np.int64], vectors: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) which of `rows`, whose vectors are (n, width), are not pending and match their CRC."""
        states, crcs = self._mapped("state")[rows], self._mapped("crc")[rows]
        written = np.flatnonzero(states != PENDING)
        told = written[states[written] != DONE]  # the CRC of a row that failed is over its reason
        reasons = dict(zip(told.tolist(), map(bytes, self._mapped("reason")[rows[told]]), strict=True))
        digests = self._mapped("digest")[rows].tobytes()
        payload, size = vectors.view(np.uint8).reshape(-1).data, self.layout.extents["vectors"].row_bytes
        names = self.names.take(rows[written])
        where = zip(written.tolist(), rows[written].tolist(), states[written].tolist(), names, strict=True)
        found = np.zeros(len(rows), dtype=bool)
        found[written] = crcs[written] == [
            row_crc(
                row,
                name,
                state,
                digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES],
                payload[i * size : (i + 1) * size] if state == DONE else reasons[i],
            )
            for i, row, state, name in where
        ]
        return found

    def _mapped(self, name: str) -> NDArray[Any]:
        extent = self.layout.extents[name]
        if 0 in extent.shape:
            return np.empty(extent.shape, extent.dtype)
        return np.memmap(self.path, dtype=extent.dtype, mode="r", offset=extent.offset, shape=extent.shape)

    def _blocks(self, count: int) -> Iterator[slice]:
        size = block_rows(self)
        return (slice(start, min(start + size, count)) for start in range(0, count, size))


def block_rows(store: Store) -> int:
    """How many rows are held in memory at once."""
    return max(1, _BLOCK_BYTES // max(1, store.layout.extents["vectors"].row_bytes))


def row_crc(row: int, name: bytes, state: int, digest: bytes | memoryview, payload: bytes | memoryview) -> int:
    """The commit record: CRC-32 over the row's number, name, state, source digest and vector (or reason)."""
    return zlib.crc32(payload, zlib.crc32(b"%d:%d:" % (row, state) + name + digest))


def _text(reason: NDArray[np.uint8]) -> str:
    return reason.tobytes().rstrip(b"\0").decode("utf-8", "replace")
