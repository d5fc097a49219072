"""Writing a store: allocated whole before the first row, then rows in place, each committed by its CRC.

Every dataset is contiguous. HDF5 creates its metadata in memory; this module writes them and HDF5 never touches the
disk. Rows go in place through their byte offsets, so no crash can leave HDF5 metadata half-written (F33), and any plain
h5py opens the file at any instant. Until its CRC matches, a row is pending.

Immutable datasets: `id_bytes`, `id_offsets` (the row's name), `stamp` (the source's size and mtime), `length` (what
batches are sorted by). Mutable, one entry a row: `vectors`, `digest` (BLAKE2b-128 of the source's bytes), `reason`
(UTF-8, why the row failed), `state`, `crc`; of layered rows also `column_crc`, one of each vector.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cache import fingerprint as fingerprints
from cache.digests import DIGESTS
from cache.disk import File, atomic_file, remove_synced
from cache.errors import StoreMismatch
from cache.header import (
    DIGEST_BYTES,
    DONE,
    FAILED,
    FORMAT,
    MIN_HEADER_BYTES,
    REASON_BYTES,
    VERSION,
    Extent,
    Layout,
    dataset_shapes,
    encode_header,
    static_checksum,
)
from cache.layers import Axes
from cache.manifest import RowNames
from cache.reader import Store, committed_bytes, row_crc

_ALIGNMENT = 4096  # bytes, of datasets in the file


@dataclass(frozen=True)
class StoreRows:
    """The rows of a store: N named sources."""

    ids: list[str]
    stamps: NDArray[np.int64]  # (N, 2) size in bytes, mtime in ns (of a transcript, its hash); zeros where the id is it
    lengths: NDArray[np.int64]  # (N,) what batches are sorted by

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class StoreSpec:
    """The store that is wanted."""

    path: Path
    kind: str
    rows: StoreRows
    dim: int
    dtype: str  # "<f4" or "<f2"
    fingerprint: Mapping[str, Any]
    axes: Axes | None = None  # what a row of several vectors holds


def open_for_writing(spec: StoreSpec, digest_of: Callable[[int], bytes | None] = lambda _: None) -> tuple[Store, int]:
    """The store of `spec`, and how many of its rows were reused from one with another manifest.

    A row is reused when its id is the same and its source unchanged: equal size and mtime, or equal size and equal
    content by `digest_of(row)`. Raises StoreMismatch, field by field, when the fingerprints differ.
    """
    if not spec.path.exists():
        with allocate(spec):
            pass
        return Store.open(spec.path), 0
    old = Store.open(spec.path)
    fields = fingerprints.differences(old.fingerprint, spec.fingerprint)
    if (dtype := old.layout.extents["vectors"].dtype.str) != spec.dtype:
        fields.append(fingerprints.Difference("dtype", dtype, spec.dtype))
    fields = fields or fingerprints.differences(*({"axes": a.as_json() if a else {}} for a in (old.axes, spec.axes)))
    if fields:
        hint = f"It holds {old.axes}; choose when training: -o speech.layers=N. " if old.axes and not spec.axes else ""
        found, action = fingerprints.describe_differences(fields), "Choose another --out, or start over with --fresh."
        raise StoreMismatch(spec.path, found, "the settings that the store was made with", hint + action)
    times = [("stamp", spec.rows.stamps), ("length", spec.rows.lengths)]
    if all(np.array_equal(old.column(name), now) for name, now in times) and old.names == RowNames.of(spec.rows.ids):
        return old, 0
    with allocate(spec) as layout:
        reused = _copy_unchanged(old, Store(layout), digest_of)
    return Store.open(spec.path), reused


@contextmanager
def allocate(spec: StoreSpec) -> Iterator[Layout]:
    """A store of pending rows that replaces `spec.path` when the block ends, whole or not at all.

    Until then its rows may be written to the yielded layout. Raises EmotionRankError when the disk is full.
    """
    names = RowNames.of(spec.rows.ids)
    columns: dict[str, NDArray[Any]] = {
        "id_bytes": np.frombuffer(names.data, dtype=np.uint8),
        "id_offsets": names.offsets.astype("<i8", copy=False),
        "stamp": np.ascontiguousarray(spec.rows.stamps, "<i8"),
        "length": np.ascontiguousarray(spec.rows.lengths, "<i8"),
    }
    header_bytes = MIN_HEADER_BYTES
    while header_bytes < 2048 + len(fingerprints.canonical(spec.fingerprint)):
        header_bytes *= 2  # HDF5's user block is a power of two
    image = _MetadataImage()
    extents = _create_datasets(image, spec, len(names.data), header_bytes)
    remove_synced(spec.path.with_name(DIGESTS))  # it lists the header that is replaced
    with atomic_file(spec.path) as file:
        file.reserve(image.size)
        for offset, piece in image.pieces.items():
            file.write(piece, offset)
        for name, column in columns.items():
            file.write(column.reshape(-1).view(np.uint8).data, extents[name].offset)
        checksum = static_checksum(file, extents, header_bytes, image.size)
        fields = {
            "bytes": image.size,
            "datasets": {name: [e.offset, list(e.shape), e.dtype.str] for name, e in extents.items()},
            "fingerprint": spec.fingerprint,
            "kind": spec.kind,
            "seal": checksum,
        } | ({"axes": spec.axes.as_json()} if spec.axes else {})
        header = encode_header(header_bytes, fields)
        file.write(header, 0)
        yield Layout(file.path, spec.kind, dict(spec.fingerprint), extents, image.size, checksum, header, spec.axes)


class _MetadataImage:
    """A file in memory that keeps what HDF5 writes, its metadata, and not the gigabytes between."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}  # by offset
        self.size = 0
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: memoryview) -> int:
        self.pieces[self._position] = bytes(data)
        return len(data)

    def truncate(self, size: int) -> None:
        self.size = size

    def flush(self) -> None:
        """Nothing is buffered."""

    def read(self, _: int) -> bytes:
        raise io.UnsupportedOperation("HDF5 reads what it has written")

    readinto = read


def _create_datasets(image: _MetadataImage, spec: StoreSpec, id_bytes: int, header_bytes: int) -> dict[str, Extent]:
    """Let HDF5 write the metadata of an empty store into `image`; returns where each dataset lies."""
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.CONTIGUOUS)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    create.set_obj_track_times(False)
    extents = {}
    with h5py.File(
        image,
        "w",
        libver=("earliest", "v110"),
        userblock_size=header_bytes,
        alignment_threshold=_ALIGNMENT,
        alignment_interval=_ALIGNMENT,
    ) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "kind": spec.kind})
        file.attrs["fingerprint"] = fingerprints.canonical(spec.fingerprint)
        for name, (shape, dtype) in dataset_shapes(len(spec.rows), id_bytes, spec.dim, spec.dtype, spec.axes).items():
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype), logical=True)
            dataset = h5py.h5d.create(file.id, name.encode(), kind, space, create)
            extents[name] = Extent(int(dataset.get_offset() or 0), shape, np.dtype(dtype))
    return extents


@dataclass
class Rounding:
    """What a float16 store's rows lost against the float32 vectors they came from."""

    rows: int = 0
    largest_error: float = 0.0  # of any number
    largest_value: float = 0.0
    least_cosine: float = 1.0  # between a vector and what is stored of it

    def add(self, exact: NDArray[np.floating[Any]], stored: NDArray[np.floating[Any]], starts: list[int]) -> None:
        """Count (dim,) `exact`, which is kept as `stored`; its columns begin at `starts`."""
        x, y = exact.astype(np.float64), stored.astype(np.float64)
        self.rows += 1
        self.largest_error = max(self.largest_error, float(np.abs(x - y).max()))
        self.largest_value = max(self.largest_value, float(np.abs(x).max()))
        xy, xx, yy = (np.add.reduceat(each, starts) for each in (x * y, x * x, y * y))
        cosines = np.divide(xy, np.sqrt(xx * yy), out=np.ones_like(xy), where=yy > 0)
        self.least_cosine = min(self.least_cosine, float(cosines.min()))

    def __str__(self) -> str:
        return (
            f"float16 of {self.rows:,} rows: cosine at least {self.least_cosine:.8f}, largest difference "
            f"{self.largest_error:.1e} of values up to {self.largest_value:.1e}"
        )


class StoreWriter:
    """Writes rows of one store through byte offsets; the caller holds the folder's `writer_lock`."""

    def __init__(self, store: Store) -> None:
        self.store, self.rounding = store, Rounding()
        self._extents = store.layout.extents
        self._names = store.names
        self._starts = [0, *itertools.accumulate(store.axes.sizes[:-1] if store.axes else ())]  # of the columns
        self._payload = [name for name in ("vectors", "column_crc", "reason") if name in store.layout.extents]
        self._file = File(store.path, os.O_RDWR)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self, row: int, vector: NDArray[np.floating[Any]], digest: bytes) -> str | None:
        """Store (dim,) `vector` as done; a zero or non-finite one is stored as failed, and the reason returned."""
        exact, dtype, shape = vector, self._extents["vectors"].dtype, self._extents["vectors"].shape[1:]
        with np.errstate(over="ignore"):  # float16 overflow shows as inf below
            vector = np.ascontiguousarray(exact, dtype=dtype)
        if vector.shape != shape:
            raise ValueError(f"row {row}: a vector of shape {vector.shape}, expected {shape}, all that a row holds")
        if not np.isfinite(vector).all():
            return self.fail(row, "the encoder returned a non-finite vector", digest)
        if not vector.any():
            return self.fail(row, "the encoder returned a zero vector", digest)
        if dtype == np.float16:
            self.rounding.add(exact, vector, self._starts)
        self._write_row(row, DONE, digest, vector.tobytes())
        return None

    def fail(self, row: int, reason: str, digest: bytes = bytes(DIGEST_BYTES)) -> str:
        """Store `row` as failed with `reason`, cut to 160 bytes of UTF-8."""
        text = reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore").encode()
        self._write_row(row, FAILED, digest, text.ljust(REASON_BYTES, b"\0"))
        return reason

    def _write_row(self, row: int, state: int, digest: bytes, payload: bytes) -> None:
        """Write every entry of a row, its CRC last: `payload` is the vector of a done row, the reason of a failed one.

        The other of the two becomes zeros, whatever an interrupted write left there.
        """
        payload_name, zeroed = ("vectors", "reason") if state == DONE else ("reason", "vectors")
        entries = {payload_name: payload, zeroed: bytes(self._extents[zeroed].row_bytes)}
        committed = bytes(committed_bytes(payload, self.store.column_bytes)) if state == DONE else payload
        entries["column_crc"] = committed if state == DONE else bytes(4 * len(self.store.column_bytes))
        for name in self._payload:
            self._write(name, row, entries[name])
        self._write("digest", row, digest)
        self._write("state", row, bytes([state]))
        self._write("crc", row, row_crc(row, self._names[row], state, digest, committed).to_bytes(4, "little"))

    def copy(self, row: int, vectors: NDArray[np.floating[Any]], digests: NDArray[np.uint8]) -> None:
        """Store (n, dim) `vectors` and (n, 16) `digests`, which are done rows of a store like this, from `row` on."""
        rows = np.arange(row, row + len(vectors))
        committed = [committed_bytes(vector.data, self.store.column_bytes) for vector in vectors.view(np.uint8)]
        parts = zip(rows.tolist(), self._names.take(rows), digests, committed, strict=True)
        crcs = [row_crc(i, name, DONE, digest.data, over) for i, name, digest, over in parts]
        self._write("vectors", row, vectors.view(np.uint8).reshape(-1).data)
        if "column_crc" in self._extents:
            self._write("column_crc", row, b"".join(committed))
        self._write("digest", row, digests.tobytes())
        self._write("state", row, bytes([DONE]) * len(vectors))
        self._write("crc", row, np.array(crcs, "<u4").tobytes())

    def reset(self, rows: Sequence[int]) -> None:
        """Make `rows` pending again, as if never written."""
        for row in rows:
            for name in ("crc", "state", "digest", *self._payload):
                self._write(name, row, bytes(self._extents[name].row_bytes))

    def sync(self) -> None:
        """Make every row written so far survive power loss."""
        self._file.sync()

    def close(self) -> None:
        """Close the file; rows that are not synced are left to the operating system."""
        self._file.close()

    def _write(self, name: str, row: int, data: bytes | memoryview) -> None:
        extent = self._extents[name]
        self._file.write(data, extent.offset + row * extent.row_bytes)


def _copy_unchanged(old: Store, new: Store, digest_of: Callable[[int], bytes | None]) -> int:
    """Copy every unchanged row, in the order of `old`, a block of it in memory at a time; returns how many."""
    states = old.scan()
    reasons, digests = old.reasons(states), old.column("digest")
    new_rows, old_rows = _unchanged_rows(old, new, states, digest_of)
    reused = 0
    with StoreWriter(new) as writer:
        for block in old.blocks(len(new_rows)):
            to, source = new_rows[block], old_rows[block]
            values, done = old.read(source)  # checked once more: what has changed since the scan stays pending
            for run in _consecutive(to[done]):
                writer.copy(int(to[done][run.start]), values[done][run], digests[source[done]][run])
            failed = states[source] == FAILED
            for i in np.flatnonzero(failed).tolist():
                writer.fail(int(to[i]), reasons[int(source[i])], digests[source[i]].tobytes())
            reused += int(np.count_nonzero(done | failed))
    return reused


def _unchanged_rows(
    old: Store, new: Store, states: NDArray[np.uint8], digest_of: Callable[[int], bytes | None]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of `new` whose source is unchanged and which row of `old` each was, ascending there."""
    row_of = {name: row for row, name in enumerate(old.ids)}
    old_rows = np.array([row_of.get(name, -1) for name in new.ids], dtype=np.int64)
    rows = np.flatnonzero(old_rows >= 0)
    rows = rows[np.isin(states[old_rows[rows]], (DONE, FAILED))]
    digests = old.column("digest")[old_rows[rows]]
    before, now = old.column("stamp")[old_rows[rows]], new.column("stamp")[rows]
    same = (before == now).all(axis=1)
    for i in np.flatnonzero(~same & (before[:, 0] == now[:, 0]) & digests.any(axis=1)).tolist():
        same[i] = digest_of(int(rows[i])) == digests[i].tobytes()
    rows = rows[same][np.argsort(old_rows[rows[same]], kind="stable")]
    return rows, old_rows[rows]


def _consecutive(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Cut rows (n,) into runs of consecutive ones."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    ends = [0, *cuts.tolist(), len(rows)] if len(rows) else []
    return itertools.starmap(slice, itertools.pairwise(ends))
