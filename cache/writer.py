"""Writing rows in place. A row is committed by its CRC: until the CRC matches, the row is pending.

Nothing is ordered against power loss but the CRC itself: whatever part of a row reaches the disk, a row that is not
whole does not match and is encoded again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import EmotionRankError
from cache.layout import DIGEST_BYTES, DONE, FAILED, REASON_BYTES
from cache.reader import Store, row_crc


class StoreWriter:
    """Writes rows of one store through byte offsets; the caller holds the folder's lock (`cache.lock`)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._extents = store.layout.extents
        self._names = store.names
        self._handle = os.open(store.path, os.O_RDWR)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def commit(self, row: int, vector: NDArray[np.floating[Any]], digest: bytes) -> str | None:
        """Store (width,) `vector` as done; a zero or non-finite one is stored as failed, and the reason returned."""
        with np.errstate(over="ignore"):  # float16 overflow shows as inf below
            vector = np.ascontiguousarray(vector, dtype=self._extents["vectors"].dtype)
        if vector.shape != (self.store.width,):
            raise ValueError(f"row {row}: a vector of shape {vector.shape}, expected ({self.store.width},)")
        if not np.isfinite(vector).all():
            return self.fail(row, "the encoder returned a non-finite vector", digest)
        if not vector.any():
            return self.fail(row, "the encoder returned a zero vector", digest)
        self._write(row, DONE, digest, vector.tobytes(), "vectors")
        return None

    def fail(self, row: int, reason: str, digest: bytes = bytes(DIGEST_BYTES)) -> str:
        """Store `row` as failed with `reason`, cut to 160 bytes of UTF-8."""
        text = reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore").encode()
        self._write(row, FAILED, digest, text.ljust(REASON_BYTES, b"\0"), "reason")
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
        """Make `rows` pending again, as if never written (their vectors are not: only failed rows are reset)."""
        for row in rows:
            for name in ("state", "crc", "digest", "reason"):
                self._put(name, row, bytes(self._extents[name].row_bytes))

    def sync(self) -> None:
        """Make every row written so far survive power loss."""
        try:
            os.fdatasync(self._handle)
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _write(self, row: int, state: int, digest: bytes, payload: bytes, where: str) -> None:
        self._put(where, row, payload)
        self._put("digest", row, digest)
        self._put("state", row, bytes([state]))
        crc = row_crc(row, self._names[row], state, digest, payload)
        self._put("crc", row, crc.to_bytes(4, "little"))

    def _put(self, name: str, row: int, data: bytes | memoryview) -> None:
        extent = self._extents[name]
        try:
            written = os.pwrite(self._handle, data, extent.offset + row * extent.row_bytes)
            if written != len(data):
                raise OSError(errno.ENOSPC, "short write")
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> EmotionRankError:
        return EmotionRankError(
            self.store.path,
            f"cannot be written ({os.strerror(error.errno or 0)})",
            "room and permission to write",
            "Free space or mend the disk, then run it again; finished rows are kept.",
        )
