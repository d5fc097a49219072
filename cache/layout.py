"""The store's file: every dataset contiguous and laid out whole before the first row.

After `lay_out` HDF5 never writes again. Rows go in place through their byte offsets, so no crash can leave HDF5
metadata half-written (F33), and any plain h5py opens the file at any instant.

Immutable datasets: `id_bytes`, `id_offsets` (the row's name), `stamp` (the source's size and mtime), `length`
(the plan's key). Mutable, one entry a row: `vectors`, `digest` (BLAKE2b-128 of the source's bytes), `reason`
(UTF-8, why the row failed), `state`, `crc`. `seal` is the CRC-32 of every byte that is not mutable.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cache import fingerprint as fingerprints
from cache.errors import EmotionRankError, StoreCorrupt
from cache.names import Names

FORMAT = "emotionrankclap-store"
VERSION = 1
REASON_BYTES = 160
DIGEST_BYTES = 16
PENDING, DONE, FAILED = 0, 1, 2
_PIECE_BYTES = 16 << 20
MUTABLE = ("vectors", "digest", "reason", "state", "crc", "seal")


@dataclass(frozen=True)
class Rows:
    """What a store is laid out for: N named sources."""

    ids: list[str]
    stamps: NDArray[np.int64]  # (N, 2) size in bytes, mtime in ns; zeros where the id is the source itself
    lengths: NDArray[np.int64]  # (N,) what the plan sorts by

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Extent:
    """Where one dataset lies in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """A store file's header, read once; no HDF5 handle is kept, so nothing can cross a fork."""

    path: Path
    kind: str
    fingerprint: dict[str, Any]
    extents: Mapping[str, Extent]

    @property
    def rows(self) -> int:
        return self.extents["vectors"].shape[0]

    @property
    def width(self) -> int:
        return self.extents["vectors"].shape[1]


def _datasets(rows: int, id_bytes: int, width: int, dtype: str) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        "id_bytes": ((id_bytes,), "|u1"),
        "id_offsets": ((rows + 1,), "<i8"),
        "stamp": ((rows, 2), "<i8"),
        "length": ((rows,), "<i8"),
        "seal": ((1,), "<u4"),
        "crc": ((rows,), "<u4"),
        "state": ((rows,), "|u1"),
        "digest": ((rows, DIGEST_BYTES), "|u1"),
        "reason": ((rows, REASON_BYTES), "|u1"),
        "vectors": ((rows, width), dtype),
    }


def lay_out(path: Path, kind: str, rows: Rows, *, width: int, dtype: str, fingerprint: Mapping[str, Any]) -> Layout:
    """Create a store of pending rows at `path`, whole or not at all.

    `dtype` is "<f4" or "<f2". Raises EmotionRankError when the disk has no room for all of it.
    """
    partial = path.with_name(path.name + ".partial")
    names = Names.of(rows.ids)
    data: dict[str, NDArray[Any]] = {
        "id_bytes": np.frombuffer(names.data, dtype=np.uint8),
        "id_offsets": names.offsets,
        "stamp": rows.stamps,
        "length": rows.lengths,
    }
    try:
        with h5py.File(
            partial, "w", libver=("earliest", "v110"), alignment_threshold=4096, alignment_interval=4096
        ) as f:
            f.attrs.update({"format": FORMAT, "version": VERSION, "kind": kind})
            f.attrs["fingerprint"] = fingerprints.canonical(fingerprint)
            for name, (shape, kind_of) in _datasets(len(rows), len(data["id_bytes"]), width, dtype).items():
                dataset = _contiguous(f, name, shape, kind_of)
                if name in data and data[name].size:
                    dataset[...] = data[name]
        _reserve(partial)
        layout = read_layout(partial)
        _write_seal(layout)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EmotionRankError(
                path,
                "no room on the disk",
                f"{_size(len(rows), width, dtype)} free",
                "Free space or choose another --out.",
            ) from None
        raise EmotionRankError(path, f"cannot be written ({error})", "a writable folder", "Check --out.") from None
    return read_layout(path)


def read_layout(path: Path) -> Layout:
    """Read a store's header. Raises StoreCorrupt, telling apart missing, empty, foreign, other-version and damaged."""
    if not path.is_file():
        raise StoreCorrupt(path, "no such file", "a store", "Run extract-features.")
    if path.stat().st_size == 0:
        raise StoreCorrupt(path, "an empty file", "a store", "Delete it and run extract-features.")
    try:
        with h5py.File(path, "r") as file:
            return _parse(file, path)
    except StoreCorrupt:
        raise
    except Exception as error:  # noqa: BLE001 - h5py raises any type on damaged bytes
        found = " ".join(str(error).split())[:160]
        raise StoreCorrupt(
            path, f"HDF5 cannot read it ({found})", "a store", "Restore it or run with --fresh."
        ) from None


def seal_of(layout: Layout) -> int:
    """CRC-32 of every byte of the file outside the mutable datasets."""
    holes = sorted((e.offset, e.offset + e.nbytes) for name, e in layout.extents.items() if name in MUTABLE)
    crc, position = 0, 0
    with open(layout.path, "rb") as file:
        for start, stop in [*holes, (os.fstat(file.fileno()).st_size, 0)]:
            file.seek(position)
            while piece := file.read(min(_PIECE_BYTES, max(0, start - position))):
                crc = zlib.crc32(piece, crc)
                position += len(piece)
            position = stop
    return crc


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str) -> h5py.Dataset:
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.CONTIGUOUS)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    create.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, create))


def _reserve(path: Path) -> None:
    """Take the disk's blocks now, so that a full disk shows before the first hour of work."""
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        os.fsync(file.fileno())


def _write_seal(layout: Layout) -> None:
    seal = np.uint32(seal_of(layout)).tobytes()
    with open(layout.path, "r+b") as file:
        os.pwrite(file.fileno(), seal, layout.extents["seal"].offset)
        os.fsync(file.fileno())


def _parse(file: h5py.File, path: Path) -> Layout:
    if file.attrs.get("format") != FORMAT:
        raise StoreCorrupt(path, "another kind of HDF5 file", "an emotionrankclap store", "Choose another folder.")
    version = int(file.attrs["version"])
    if version != VERSION:
        raise StoreCorrupt(path, f"store version {version}", f"version {VERSION}", "Use the release that wrote it.")
    extents: dict[str, Extent] = {}
    for name in ("vectors", "id_bytes"):
        extents[name] = _extent(file, name, path)
    rows, width = extents["vectors"].shape
    dtype = extents["vectors"].dtype.str
    if dtype not in ("<f4", "<f2"):
        raise StoreCorrupt(path, f"vectors of type {dtype}", "<f4 or <f2", "Run with --fresh.")
    for name, (shape, kind) in _datasets(rows, extents["id_bytes"].shape[0], width, dtype).items():
        extents[name] = found = _extent(file, name, path)
        if found.shape != shape or found.dtype.str != kind:
            raise StoreCorrupt(
                path, f"{name} is {found.shape} {found.dtype.str}", f"{shape} {kind}", "Run with --fresh."
            )
    size = path.stat().st_size
    end = max(extent.offset + extent.nbytes for extent in extents.values())
    if size < end:
        raise StoreCorrupt(path, f"{size} bytes", f"at least {end} (truncated)", "Restore it or run with --fresh.")
    laid = sorted((e.offset, e.offset + e.nbytes, name) for name, e in extents.items() if e.nbytes)
    for (_, stop, name), (start, _, other) in itertools.pairwise(laid):
        if start < stop:
            raise StoreCorrupt(path, f"{name} and {other} overlap", "each in its place", "Run with --fresh.")
    fields = fingerprints.parse(str(file.attrs["fingerprint"]))
    return Layout(path=path, kind=str(file.attrs["kind"]), fingerprint=fields, extents=extents)


def _extent(file: h5py.File, name: str, path: Path) -> Extent:
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):  # an external or soft link is never followed
        raise StoreCorrupt(path, f"{name} is missing or a link", "a dataset of its own", "Run with --fresh.")
    dataset = file[name]
    create = dataset.id.get_create_plist()
    if create.get_layout() != h5py.h5d.CONTIGUOUS or create.get_external_count() or create.get_nfilters():
        raise StoreCorrupt(path, f"{name} is not stored in place", "one contiguous block", "Run with --fresh.")
    offset = dataset.id.get_offset()
    return Extent(offset=int(offset or 0), shape=tuple(dataset.shape), dtype=dataset.dtype)


def _size(rows: int, width: int, dtype: str) -> str:
    return f"{rows * (width * np.dtype(dtype).itemsize + REASON_BYTES + 64) / 2**30:.1f} GiB"
