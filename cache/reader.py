"""Reading a store: its header once, rows through plain file reads, every row checked against its CRC.

Of a layered row the columns that are chosen are read, and checked: each against its own CRC, and these, all of them,
against the row's. No handle outlives a call, so a `Store` may cross a fork and be read while a writer runs.
"""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.disk import File
from cache.errors import StoreCorrupt
from cache.header import (
    DIGEST_BYTES,
    DONE,
    FAILED,
    FIRST_LINE_BYTES,
    PENDING,
    RESTORE,
    Layout,
    read_layout,
    static_checksum,
)
from cache.layers import DEFAULT, LayersChoice, Selection, select
from cache.manifest import RowNames

_BLOCK_BYTES = 16 << 20  # of vectors held in memory at once
_FLOAT_BYTES = 4  # of a number, where a store of float16 has two
_GAP_BYTES = 1 << 20  # rows within so much of the file are read in one piece
_SLICE_READERS = 16  # threads that read parts of rows: a disk answers many at once
_SLICE_ROWS = 1024  # that one of them reads in a row


class Store:
    """One store file, e.g. `audio.h5`: N rows of `dim` floats, each done, failed or pending.

    Of layered rows `selected` reads some columns: `dim` is then the size of what is chosen.
    """

    check: Callable[[RowNames], None] | None = None  # of the rows' names, called before the first row is read

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.path, self.fingerprint, self.axes = layout.path, layout.fingerprint, layout.axes
        self.rows, whole = layout.extents["vectors"].shape
        sizes = layout.axes.sizes if layout.axes else []
        self.column_bytes = [size * layout.extents["vectors"].dtype.itemsize for size in sizes]  # of layered rows
        self._select(Selection(tuple(range(max(1, len(sizes)))), whole))

    def _select(self, selection: Selection) -> None:
        self.selection, self.dim = selection, selection.dim
        self._spans = selection.spans(self.axes.sizes if self.axes else [self.dim])

    def selected(self, layers: LayersChoice = DEFAULT, pooling: str = DEFAULT) -> Store:
        """The same rows, of which `read` gives the columns chosen. Raises UsageError for what they do not hold."""
        whole = self.layout.extents["vectors"].shape[1]
        store = copy.copy(self)
        store._select(select(self.axes, layers, pooling, subject=self.path, dim=whole))
        return store

    @classmethod
    def open(cls, path: Path) -> Store:
        """Raises StoreCorrupt when `path` is not a store of this version."""
        return cls(read_layout(path))

    def __len__(self) -> int:
        return self.rows

    @cached_property
    def names(self) -> RowNames:
        """(N,) what each row is: an utterance's id, or a text. Raises StoreCorrupt for bad offsets, or as `check`."""
        try:
            names = RowNames(self.column("id_bytes").tobytes(), self.column("id_offsets"))
        except ValueError:
            found = "row names out of order"
            raise StoreCorrupt(self.path, found, "a store", RESTORE) from None
        if self.check is not None:
            self.check(names)
        return names

    @cached_property
    def ids(self) -> list[str]:
        """`names` as strings."""
        return self.names.texts()

    def column(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Entries `start:stop` of one dataset, read from the file in one piece."""
        return self._read_runs(name, [(start, self.layout.extents[name].shape[0] if stop is None else stop)])

    def scan(self) -> NDArray[np.uint8]:
        """(N,) DONE, FAILED or PENDING. A row whose CRC does not match its bytes is pending."""
        states = self.column("state")
        return np.where(self._committed(states), states, PENDING).astype(np.uint8)

    def inconsistent_rows(self) -> NDArray[np.int64]:
        """Rows that are neither committed nor untouched: half-written when a run was killed, or corrupt.

        They are pending for `scan`. Every byte is checked: a done row has no reason, a failed one no vector.
        """
        states = self.column("state")
        found = (states != PENDING) & ~self._committed(states)
        found |= (states == PENDING) & (self.column("crc") != 0)
        owners_of = {"vectors": (DONE,), "column_crc": (DONE,), "reason": (FAILED,), "digest": (DONE, FAILED)}
        for block in self.blocks(len(self)):
            for name, owners in owners_of.items():
                if name not in self.layout.extents:
                    continue
                must_be_zero = np.flatnonzero(~np.isin(states[block], owners))
                if must_be_zero.size:
                    entries = self.column(name, block.start, block.stop)[must_be_zero]
                    found[block.start + must_be_zero] |= entries.view(np.uint8).any(axis=1)
        return np.flatnonzero(found)

    def checksum_matches(self) -> bool:
        """Whether every byte outside the rows is as it was when the store was allocated."""
        layout = self.layout
        with self._opened() as file:
            return static_checksum(file, layout.extents, len(layout.header), layout.size) == layout.checksum

    def reasons(self, states: NDArray[np.uint8]) -> dict[int, str]:
        """Why each failed row failed."""
        rows = np.flatnonzero(states == FAILED)
        texts = [bytes(reason).rstrip(b"\0").decode("utf-8", "replace") for reason in self._take("reason", rows)]
        return dict(zip(rows.tolist(), texts, strict=True))

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
        """Vectors (len(rows), dim) and which of them are done; no other row is read. Rows not done are zero.

        Every row is checked against its CRC on the way.
        """
        dtype = self.layout.extents["vectors"].dtype
        values = np.empty((len(rows), self.dim), dtype)
        done = np.zeros(len(rows), dtype=bool)
        for block in self.blocks(len(rows), self.dim * dtype.itemsize):
            chosen = rows[block]
            states = self._take("state", chosen)
            self._take_columns(chosen, values[block])
            done[block] = self._crc_matches(chosen, states, values[block], self.selection.columns) & (states == DONE)
        values[~done] = 0
        return values, done

    def done(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `rows` `read` finds done, without keeping more than a block of vectors."""
        found = [self.read(rows[block])[1] for block in self.blocks(len(rows), _FLOAT_BYTES * self.dim)]
        return np.concatenate(found) if found else np.zeros(0, dtype=bool)

    def _committed(self, states: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """(N,) which rows of `states` are not pending and match their CRC. Where all are pending, no vector is read."""
        committed = np.zeros(len(self), dtype=bool)
        written = [block for block in self.blocks(len(self)) if states[block].any()]
        with ThreadPoolExecutor(1) as pool:  # reads the next block while one is checked

            def start_reading(blocks: list[slice]) -> list[Future[NDArray[Any]]]:
                return [pool.submit(self.column, "vectors", block.start, block.stop) for block in blocks]

            coming = start_reading(written[:1])
            for i, block in enumerate(written):
                vectors = coming.pop().result()
                coming = start_reading(written[i + 1 : i + 2])
                committed[block] = self._crc_matches(np.arange(block.start, block.stop), states[block], vectors)
        return committed

    def _crc_matches(
        self,
        rows: NDArray[np.int64],
        states: NDArray[np.uint8],
        vectors: NDArray[Any],
        columns: tuple[int, ...] | None = None,
    ) -> NDArray[np.bool_]:
        """(n,) which of `rows`, of `states` (n,) and `vectors` (n, dim), are not pending and match their CRC.

        `vectors` are the `columns` named, or all.
        """
        crcs = self._take("crc", rows)
        written = np.flatnonzero(states != PENDING)
        failed = written[states[written] != DONE]  # the CRC of a failed row is over its reason
        reasons = dict(zip(failed.tolist(), map(bytes, self._take("reason", rows[failed])), strict=True))
        digests = self._take("digest", rows).tobytes()
        payload = vectors.view(np.uint8).reshape(len(rows), -1)
        matches = np.zeros(len(rows), dtype=bool)
        if self.axes:
            of_columns = self._take("column_crc", rows)
            whole = self._columns_match(payload, of_columns, columns, np.flatnonzero(states == DONE))
            payload = of_columns.view(np.uint8).reshape(len(rows), -1)
        data, size = payload.reshape(-1).data, payload.shape[1]
        names = self.names.take(rows[written])
        entries = zip(written.tolist(), rows[written].tolist(), states[written].tolist(), names, strict=True)
        matches[written] = crcs[written] == [
            row_crc(
                row,
                name,
                state,
                digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES],
                data[i * size : (i + 1) * size] if state == DONE else reasons[i],
            )
            for i, row, state, name in entries
        ]
        return matches & whole if self.axes else matches

    def _columns_match(
        self,
        payload: NDArray[np.uint8],
        of_columns: NDArray[Any],
        columns: tuple[int, ...] | None,
        done: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """(n,) whether the `columns` in `payload` (n, bytes) match their CRCs (n, C); True where not `done`."""
        matches, start = np.ones(len(payload), dtype=bool), 0
        for column in range(len(self.column_bytes)) if columns is None else columns:
            stop = start + self.column_bytes[column]
            found = [zlib.crc32(entry.data) for entry in payload[done, start:stop]]
            matches[done] &= of_columns[done, column] == found
            start = stop
        return matches

    @contextmanager
    def _opened(self) -> Iterator[File]:
        """The file. Raises StoreCorrupt when it is no longer the one whose header was read."""
        with File(self.path, os.O_RDONLY) as file:
            first = np.empty(FIRST_LINE_BYTES, np.uint8)
            if file.read(first, 0) < len(first) or first.tobytes() != self.layout.header[: len(first)]:
                raise StoreCorrupt(self.path, "replaced since it was opened", "the same file", "Open the stores again.")
            yield file

    def _read_runs(self, name: str, runs: list[tuple[int, int]]) -> NDArray[Any]:
        """Entries `start:stop` of each run of one dataset, one after the other."""
        extent, filled = self.layout.extents[name], 0
        values = np.empty((sum(stop - start for start, stop in runs), *extent.shape[1:]), extent.dtype)
        with self._opened() as file:
            for start, stop in runs:
                entries = values[filled : filled + stop - start]
                if file.read(entries, extent.offset + start * extent.row_bytes) < entries.nbytes:
                    raise self._ends_early(name)
                filled += stop - start
        return values

    def _take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Entries `rows` of one dataset: in one piece where they lie near each other, else run by run."""
        extent = self.layout.extents[name]
        if not len(rows):
            return np.empty((0, *extent.shape[1:]), extent.dtype)
        low, high = int(rows.min()), int(rows.max()) + 1
        if low < 0 or high > len(self):
            raise IndexError(f"rows {low} to {high - 1} of {len(self)}")
        if (high - low) * extent.row_bytes <= max(_GAP_BYTES, 2 * len(rows) * extent.row_bytes):
            return self.column(name, low, high)[rows - low]
        first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        last = np.append(first[1:], len(rows)) - 1
        return self._read_runs(name, list(zip(rows[first].tolist(), (rows[last] + 1).tolist(), strict=True)))

    def _take_columns(self, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Fill `values` (n, dim) with the chosen columns of `rows`: in one piece a span and row, or of whole rows."""
        extent = self.layout.extents["vectors"]
        if 2 * self.dim >= extent.shape[1]:
            whole = self._take("vectors", rows)
            np.concatenate([whole[:, span.start : span.stop] for span in self._spans], axis=1, out=values)
            return
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        with self._opened() as file, ThreadPoolExecutor(_SLICE_READERS) as pool:
            filled = 0
            for span in self._spans:
                starts = extent.offset + rows * extent.row_bytes + span.start * extent.dtype.itemsize
                piece = values[:, filled : filled + len(span)]

                def read_part(part: slice, piece: NDArray[Any] = piece, starts: NDArray[np.int64] = starts) -> None:
                    for entry, start in zip(piece[part], starts[part].tolist(), strict=True):
                        if file.read(entry, start) < entry.nbytes:
                            raise self._ends_early("vectors")

                parts = [slice(first, first + _SLICE_ROWS) for first in range(0, len(rows), _SLICE_ROWS)]
                list(pool.map(read_part, parts) if len(parts) > 1 else map(read_part, parts))  # raises what a part does
                filled += len(span)

    def _ends_early(self, name: str) -> StoreCorrupt:
        return StoreCorrupt(self.path, f"{name} ends early", "a complete file", RESTORE)

    def blocks(self, count: int, row_bytes: int | None = None) -> list[slice]:
        """Slices of `count` rows whose vectors, `row_bytes` each or whole rows, are held in memory at once."""
        size = max(1, _BLOCK_BYTES // max(1, row_bytes or self.layout.extents["vectors"].row_bytes))
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def committed_bytes(vector: bytes | memoryview, column_bytes: list[int]) -> bytes | memoryview:
    """What the CRC of a done row is over: its vector; of a layered row, the CRC-32 of each column, 4 bytes each."""
    if not column_bytes:
        return vector
    crcs, start = [], 0
    for size in column_bytes:
        crcs.append(zlib.crc32(vector[start : start + size]).to_bytes(4, "little"))
        start += size
    return b"".join(crcs)


def row_crc(row: int, name: bytes, state: int, digest: bytes | memoryview, payload: bytes | memoryview) -> int:
    """The commit record: CRC-32 over the row's number, name, state, source digest and `committed_bytes` (or reason)."""
    return zlib.crc32(payload, zlib.crc32(b"%d:%d:" % (row, state) + name + digest))
