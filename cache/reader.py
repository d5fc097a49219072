"""Reading a store: its header once, rows through plain file reads, every row checked against its CRC.

No handle outlives a call, so a `Store` may cross a fork and be read while a writer runs.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
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
    Layout,
    read_layout,
    static_checksum,
)
from cache.manifest import RowNames

_BLOCK_BYTES = 16 << 20  # of vectors held in memory at once
_GAP_BYTES = 1 << 20  # rows within so much of the file are read in one piece


class Store:
    """One store file, e.g. `audio.h5`: N rows of `dim` floats, each done, failed or pending."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.path, self.fingerprint = layout.path, layout.fingerprint
        self.rows, self.dim = layout.extents["vectors"].shape

    @classmethod
    def open(cls, path: Path) -> Store:
        """Raises StoreCorrupt when `path` is not a store of this version."""
        return cls(read_layout(path))

    def __len__(self) -> int:
        return self.rows

    @cached_property
    def names(self) -> RowNames:
        """(N,) what each row is: an utterance's id, or a text. Raises StoreCorrupt for invalid offsets."""
        try:
            return RowNames(self.column("id_bytes").tobytes(), self.column("id_offsets"))
        except ValueError:
            found = "row names out of order"
            raise StoreCorrupt(self.path, found, "a store", "Restore it or run with --fresh.") from None

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
        for block in self.blocks(len(self)):
            for name, owners in (("vectors", (DONE,)), ("reason", (FAILED,)), ("digest", (DONE, FAILED))):
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
        values = np.empty((len(rows), self.dim), self.layout.extents["vectors"].dtype)
        done = np.zeros(len(rows), dtype=bool)
        for block in self.blocks(len(rows)):
            chosen = rows[block]
            states = self._take("state", chosen)
            values[block] = self._take("vectors", chosen)
            done[block] = self._crc_matches(chosen, states, values[block]) & (states == DONE)
        values[~done] = 0
        return values, done

    def done(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `rows` `read` finds done, without keeping more than a block of vectors."""
        found = [self.read(rows[block])[1] for block in self.blocks(len(rows))]
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
        self, rows: NDArray[np.int64], states: NDArray[np.uint8], vectors: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """(n,) which of `rows`, of `states` (n,) and `vectors` (n, dim), are not pending and match their CRC."""
        crcs = self._take("crc", rows)
        written = np.flatnonzero(states != PENDING)
        failed = written[states[written] != DONE]  # the CRC of a failed row is over its reason
        reasons = dict(zip(failed.tolist(), map(bytes, self._take("reason", rows[failed])), strict=True))
        digests = self._take("digest", rows).tobytes()
        payload, size = vectors.view(np.uint8).reshape(-1).data, self.layout.extents["vectors"].row_bytes
        names = self.names.take(rows[written])
        entries = zip(written.tolist(), rows[written].tolist(), states[written].tolist(), names, strict=True)
        matches = np.zeros(len(rows), dtype=bool)
        matches[written] = crcs[written] == [
            row_crc(
                row,
                name,
                state,
                digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES],
                payload[i * size : (i + 1) * size] if state == DONE else reasons[i],
            )
            for i, row, state, name in entries
        ]
        return matches

    @contextmanager
    def _opened(self) -> Iterator[File]:
        """The file. Raises StoreCorrupt when it is no longer the one whose header was read."""
        with File(self.path, os.O_RDONLY) as file:
            first = np.empty(FIRST_LINE_BYTES, np.uint8)
            if file.read(first, 0) < len(first) or first.tobytes() != self.layout.header[: len(first)]:
                raise StoreCorrupt(self.path, "another file than was opened", "the same", "Open the stores again.")
            yield file

    def _read_runs(self, name: str, runs: list[tuple[int, int]]) -> NDArray[Any]:
        """Entries `start:stop` of each run of one dataset, one after the other."""
        extent, filled = self.layout.extents[name], 0
        values = np.empty((sum(stop - start for start, stop in runs), *extent.shape[1:]), extent.dtype)
        with self._opened() as file:
            for start, stop in runs:
                entries = values[filled : filled + stop - start]
                if file.read(entries, extent.offset + start * extent.row_bytes) < entries.nbytes:
                    found, action = f"{name} ends early", "Restore it or run with --fresh."
                    raise StoreCorrupt(self.path, found, "a whole file", action)
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

    def blocks(self, count: int) -> list[slice]:
        """Slices of `count` rows whose vectors are held in memory at once."""
        size = max(1, _BLOCK_BYTES // max(1, self.layout.extents["vectors"].row_bytes))
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def row_crc(row: int, name: bytes, state: int, digest: bytes | memoryview, payload: bytes | memoryview) -> int:
    """The commit record: CRC-32 over the row's number, name, state, source digest and vector (or reason)."""
    return zlib.crc32(payload, zlib.crc32(b"%d:%d:" % (row, state) + name + digest))
