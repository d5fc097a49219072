"""Writing rows in place. A row is committed by its CRC: until the CRC matches, the row is pending.

Nothing is ordered against power loss but the CRC itself: whatever part of a row reaches the disk, a row that is not
whole does not match and is encoded again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.disk import File
from cache.header import DIGEST_BYTES, DONE, FAILED, REASON_BYTES
from cache.reader import Store, row_crc
from cache.rounding import Rounding

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
