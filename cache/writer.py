"""Writing rows in place, and opening a store to write: new, resumed, or with the rows of an earlier manifest.

A row is committed by its CRC: until the CRC matches, the row is pending.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import fingerprint as fingerprints
from cache.allocation import StoreRows, StoreSpec, allocate
from cache.disk import File
from cache.errors import StoreMismatch
from cache.header import DIGEST_BYTES, DONE, FAILED, REASON_BYTES
from cache.manifest import RowNames
from cache.reader import Store, block_rows, row_crc


@dataclass
class Rounding:
    """What a float16 store's rows lost against the float32 vectors they came from."""

    rows: int = 0
    largest_error: float = 0.0  # of any number
    largest_value: float = 0.0
    least_cosine: float = 1.0  # between a vector and what is stored of it

    def add(self, exact: NDArray[np.floating[Any]], stored: NDArray[np.floating[Any]]) -> None:
        """Take (width,) `exact` into account, of which `stored` is kept."""
        x, y = exact.astype(np.float64), stored.astype(np.float64)
        self.rows += 1
        self.largest_error = max(self.largest_error, float(np.abs(x - y).max()))
        self.largest_value = max(self.largest_value, float(np.abs(x).max()))
        self.least_cosine = min(self.least_cosine, float(x @ y / np.sqrt((x @ x) * (y @ y))))

    def __str__(self) -> str:
        return (
            f"float16 of {self.rows:,} rows: cosine at least {self.least_cosine:.8f}, largest difference "
            f"{self.largest_error:.1e} of values up to {self.largest_value:.1e}"
        )


_NO_REASON = bytes(REASON_BYTES)


class StoreWriter:
    """Writes rows of one store through byte offsets; the caller holds the folder's lock (`cache.lock`)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._extents = store.layout.extents
        self._names = store.names
        self._no_vector = bytes(self._extents["vectors"].row_bytes)
        self._file = File(store.path, os.O_RDWR)
        self.rounding = Rounding()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def commit(self, row: int, vector: NDArray[np.floating[Any]], digest: bytes) -> str | None:
        """Store (width,) `vector` as done; a zero or non-finite one is stored as failed, and the reason returned."""
        exact, dtype = vector, self._extents["vectors"].dtype
        with np.errstate(over="ignore"):  # float16 overflow shows as inf below
            vector = np.ascontiguousarray(exact, dtype=dtype)
        if vector.shape != (self.store.width,):
            raise ValueError(f"row {row}: a vector of shape {vector.shape}, expected ({self.store.width},)")
        if not np.isfinite(vector).all():
            return self.fail(row, "the encoder returned a non-finite vector", digest)
        if not vector.any():
            return self.fail(row, "the encoder returned a zero vector", digest)
        if dtype == np.float16:
            self.rounding.add(exact, vector)
        payload = vector.tobytes()
        self._write(row, DONE, digest, payload, vector=payload, reason=_NO_REASON)
        return None

    def fail(self, row: int, reason: str, digest: bytes = bytes(DIGEST_BYTES)) -> str:
        """Store `row` as failed with `reason`, cut to 160 bytes of UTF-8."""
        text = reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore").encode()
        payload = text.ljust(REASON_BYTES, b"\0")
        self._write(row, FAILED, digest, payload, vector=self._no_vector, reason=payload)
        return reason

    def copy(self, row: int, vectors: NDArray[np.floating[Any]], digests: NDArray[np.uint8]) -> None:
        """Store (n, width) `vectors` and (n, 16) `digests`, which were rows done in a like store, from `row` on."""
        rows = np.arange(row, row + len(vectors))
        parts = zip(rows.tolist(), self._names.take(rows), digests, vectors.view(np.uint8), strict=True)
        crcs = [row_crc(i, name, DONE, digest.data, vector.data) for i, name, digest, vector in parts]
        self._put("vectors", row, vectors.view(np.uint8).reshape(-1).data)
        self._put("digest", row, digests.tobytes())
        self._put("state", row, bytes([DONE]) * len(vectors))
        self._put("crc", row, np.array(crcs, "<u4").tobytes())

    def reset(self, rows: Sequence[int]) -> None:
        """Make `rows` pending again, as if never written."""
        for row in rows:
            for name in ("crc", "state", "digest", "reason", "vectors"):
                self._put(name, row, bytes(self._extents[name].row_bytes))

    def sync(self) -> None:
        """Make every row written so far survive power loss."""
        self._file.sync()

    def close(self) -> None:
        """Let go of the file; rows not synced are left to the operating system."""
        self._file.close()

    def _write(self, row: int, state: int, digest: bytes, payload: bytes, *, vector: bytes, reason: bytes) -> None:
        """The whole row: a vector and no reason or a reason and no vector, whatever an interrupted write left there."""
        self._put("vectors", row, vector)
        self._put("reason", row, reason)
        self._put("digest", row, digest)
        self._put("state", row, bytes([state]))
        crc = row_crc(row, self._names[row], state, digest, payload)
        self._put("crc", row, crc.to_bytes(4, "little"))

    def _put(self, name: str, row: int, data: bytes | memoryview) -> None:
        extent = self._extents[name]
        self._file.write(data, extent.offset + row * extent.row_bytes)


def open_for_writing(plan: StoreSpec, digest_of: Callable[[int], bytes | None] = lambda _: None) -> tuple[Store, int]:
    """The store of `plan` and how many of its rows were carried over from one with another manifest.

    A row is carried over when its id is the same and its source unchanged: equal size and mtime, or equal size and
    equal content by `digest_of(row)`. Raises StoreMismatch, field by field, when the fingerprints differ.
    """
    if not plan.path.exists():
        with allocate(plan):
            pass
        return Store.open(plan.path), 0
    old = Store.open(plan.path)
    fields = fingerprints.differences(old.fingerprint, plan.fingerprint)
    if old.layout.extents["vectors"].dtype.str != plan.dtype:
        fields.append(fingerprints.Difference("dtype", old.layout.extents["vectors"].dtype.str, plan.dtype))
    if fields:
        raise StoreMismatch(
            plan.path,
            fingerprints.describe_differences(fields),
            "the same fingerprint",
            "Choose another --out, or --fresh to start over.",
        )
    if _same(old, plan.rows):
        return old, 0
    with allocate(plan) as layout:
        carried = _carry(old, Store(layout), digest_of)
    return Store.open(plan.path), carried


def _same(old: Store, new: StoreRows) -> bool:
    return (
        np.array_equal(old.column("stamp"), new.stamps)
        and np.array_equal(old.column("length"), new.lengths)
        and old.names == RowNames.of(new.ids)
    )


def _carry(old: Store, new: Store, digest_of: Callable[[int], bytes | None]) -> int:
    """Copy every unchanged row, in the order of `old`, a block of it in memory at a time."""
    states = old.scan()
    reasons, digests = old.reasons(states), old.column("digest")
    rows, before = _unchanged(old, new, states, digest_of)
    step, carried = block_rows(old), 0
    with StoreWriter(new) as writer:
        for start in range(0, len(rows), step):
            row, was = rows[start : start + step], before[start : start + step]
            values, done = old.read(was)  # checked once more: what has changed since the scan stays pending
            for run in _runs(row[done]):
                writer.copy(int(row[done][run.start]), values[done][run], digests[was[done]][run])
            for i in np.flatnonzero(states[was] == FAILED).tolist():
                writer.fail(int(row[i]), reasons[int(was[i])], digests[was[i]].tobytes())
            carried += int(np.count_nonzero(done | (states[was] == FAILED)))
    return carried


def _runs(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Cut rows (n,) into runs that lie side by side."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    ends = [0, *cuts.tolist(), len(rows)] if len(rows) else []
    return itertools.starmap(slice, itertools.pairwise(ends))


def _unchanged(
    old: Store, new: Store, states: NDArray[np.uint8], digest_of: Callable[[int], bytes | None]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of `new` to carry over and what each was in `old`, ascending there."""
    row_of = {name: row for row, name in enumerate(old.ids)}
    before = np.array([row_of.get(name, -1) for name in new.ids], dtype=np.int64)
    rows = np.flatnonzero(before >= 0)
    rows = rows[np.isin(states[before[rows]], (DONE, FAILED))]
    was, now, digests = old.column("stamp")[before[rows]], new.column("stamp")[rows], old.column("digest")[before[rows]]
    same = (was == now).all(axis=1)
    for i in np.flatnonzero(~same & (was[:, 0] == now[:, 0]) & digests.any(axis=1)).tolist():
        same[i] = digest_of(int(rows[i])) == digests[i].tobytes()
    rows = rows[same]
    rows = rows[np.argsort(before[rows], kind="stable")]
    return rows, before[rows]
