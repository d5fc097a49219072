"""Reading a store: headers once, rows through plain file reads, every row checked against its CRC.

No HDF5 handle outlives a call, so a `Store` may cross a fork and be read while a writer runs.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import StoreCorrupt
from cache.layout import DONE, FAILED, PENDING, Layout, Rows, read_layout, seal_of

_BLOCK_BYTES = 64 << 20


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
    def ids(self) -> list[str]:
        """(N,) what each row is: an utterance's id, or a text."""
        offsets = self.column("id_offsets")
        data = self.column("id_bytes").tobytes()
        if len(offsets) and (np.any(np.diff(offsets) < 0) or offsets[0] != 0 or offsets[-1] != len(data)):
            raise StoreCorrupt(self.path, "row names out of order", "a store", "Restore it or run with --fresh.")
        ends = offsets.tolist()
        return [data[a:b].decode("utf-8", "surrogateescape") for a, b in itertools.pairwise(ends)]

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
        found = np.zeros(len(self), dtype=bool)
        for block in self._blocks(len(self)):
            chosen = np.arange(block.start, block.stop)
            found[block] = self._match(chosen, self.column("vectors", block.start, block.stop))
        return found

    def _match(self, rows: NDArray[np.int64], vectors: NDArray[Any]) -> NDArray[np.bool_]:
        names = self._names
        states, crcs, digests = (self._mapped(name)[rows] for name in ("state", "crc", "digest"))
        found = np.zeros(len(rows), dtype=bool)
        for i in np.flatnonzero(states != PENDING).tolist():
            row = int(rows[i])
            payload = vectors[i] if states[i] == DONE else np.asarray(self._mapped("reason")[row])
            found[i] = row_crc(row, names[row], int(states[i]), digests[i].data, payload.data) == crcs[i]
        return found

    @cached_property
    def _names(self) -> list[bytes]:
        return [name.encode("utf-8", "surrogateescape") for name in self.ids]

    def _mapped(self, name: str) -> NDArray[Any]:
        extent = self.layout.extents[name]
        if 0 in extent.shape:
            return np.empty(extent.shape, extent.dtype)
        return np.memmap(self.path, dtype=extent.dtype, mode="r", offset=extent.offset, shape=extent.shape)

    def _blocks(self, count: int) -> Iterator[slice]:
        size = max(1, _BLOCK_BYTES // max(1, self.layout.extents["vectors"].row_bytes))
        return (slice(start, min(start + size, count)) for start in range(0, count, size))


def row_crc(row: int, name: bytes, state: int, digest: bytes | memoryview, payload: bytes | memoryview) -> int:
    """The commit record: CRC-32 over the row's number, name, state, source digest and vector (or reason)."""
    crc = zlib.crc32(b"%d:%d:" % (row, state) + name)
    return zlib.crc32(payload, zlib.crc32(digest, crc))


def _text(reason: NDArray[np.uint8]) -> str:
    return reason.tobytes().rstrip(b"\0").decode("utf-8", "replace")
