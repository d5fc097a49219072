"""Laying out a store's file: every dataset contiguous and in its place before the first row.

HDF5 draws its metadata in memory; this module writes them and HDF5 never touches the disk. Rows go in place through
their byte offsets, so no crash can leave HDF5 metadata half-written (F33), and any plain h5py opens the file at any
instant.

Immutable datasets: `id_bytes`, `id_offsets` (the row's name), `stamp` (the source's size and mtime), `length`
(the plan's key). Mutable, one entry a row: `vectors`, `digest` (BLAKE2b-128 of the source's bytes), `reason`
(UTF-8, why the row failed), `state`, `crc`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cache import fingerprint as fingerprints
from cache.disk import PARTIAL, whole
from cache.header import BLOCK, FORMAT, VERSION, Extent, Layout, datasets, header_checksum, header_of
from cache.manifest import RowNames

_ALIGNMENT = 4096


@dataclass(frozen=True)
class StoreRows:
    """What a store is laid out for: N named sources."""

    ids: list[str]
    stamps: NDArray[np.int64]  # (N, 2) size in bytes, mtime in ns; zeros where the id is the source itself
    lengths: NDArray[np.int64]  # (N,) what the plan sorts by

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class StoreSpec:
    """The store that is wanted."""

    path: Path
    kind: str
    rows: StoreRows
    width: int
    dtype: str  # "<f4" or "<f2"
    fingerprint: Mapping[str, Any]


@contextmanager
def allocate(plan: StoreSpec) -> Iterator[Layout]:
    """A store of pending rows that takes the place of `plan.path` when the block ends, whole or not at all.

    Until then it may be filled where the yielded layout says. Raises EmotionRankError when the disk has no room.
    """
    names = RowNames.of(plan.rows.ids)
    columns: dict[str, NDArray[Any]] = {
        "id_bytes": np.frombuffer(names.data, dtype=np.uint8),
        "id_offsets": names.offsets.astype("<i8", copy=False),
        "stamp": np.ascontiguousarray(plan.rows.stamps, "<i8"),
        "length": np.ascontiguousarray(plan.rows.lengths, "<i8"),
    }
    block = _block_bytes(plan)
    drawing, extents = _drawn(plan, len(names.data), block)
    with whole(plan.path) as file:
        file.reserve(drawing.size)
        for offset, piece in drawing.pieces.items():
            file.write(piece, offset)
        for name, column in columns.items():
            file.write(column.reshape(-1).view(np.uint8).data, extents[name].offset)
        layout = Layout(
            path=plan.path.with_name(plan.path.name + PARTIAL),
            kind=plan.kind,
            fingerprint=dict(plan.fingerprint),
            extents=extents,
            size=drawing.size,
            seal=0,
            block=bytes(block),
        )
        seal = header_checksum(layout, file)
        header = header_of(block, _fields(plan, extents, drawing.size, seal))
        file.write(header, 0)
        yield replace(layout, seal=seal, block=header)


def _fields(plan: StoreSpec, extents: Mapping[str, Extent], size: int, seal: int) -> dict[str, Any]:
    places = {name: [e.offset, list(e.shape), e.dtype.str] for name, e in extents.items()}
    return {"bytes": size, "datasets": places, "fingerprint": plan.fingerprint, "kind": plan.kind, "seal": seal}


def _block_bytes(plan: StoreSpec) -> int:
    """A power of two, as HDF5 wants it, with room for the fingerprint."""
    block = BLOCK
    while block < 2048 + len(fingerprints.canonical(plan.fingerprint)):
        block *= 2
    return block


class _Drawing:
    """A file in memory that keeps what HDF5 writes, its metadata, and not the gigabytes between them."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}  # by offset
        self.size = 0
        self._place = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self.size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def write(self, data: memoryview) -> int:
        self.pieces[self._place] = bytes(data)
        return len(data)

    def truncate(self, size: int) -> None:
        self.size = size

    def flush(self) -> None:
        """Nothing is on its way."""

    def read(self, _: int) -> bytes:
        raise io.UnsupportedOperation("HDF5 wants to read what it has drawn")

    readinto = read


def _drawn(plan: StoreSpec, id_bytes: int, block: int) -> tuple[_Drawing, dict[str, Extent]]:
    """HDF5's metadata and the file's size, and where each dataset lies."""
    drawing = _Drawing()
    with h5py.File(
        drawing,
        "w",
        libver=("earliest", "v110"),
        userblock_size=block,
        alignment_threshold=_ALIGNMENT,
        alignment_interval=_ALIGNMENT,
    ) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "kind": plan.kind})
        file.attrs["fingerprint"] = fingerprints.canonical(plan.fingerprint)
        extents = {
            name: _contiguous(file, name, shape, kind)
            for name, (shape, kind) in datasets(len(plan.rows), id_bytes, plan.width, plan.dtype).items()
        }
    return drawing, extents


def _contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str) -> Extent:
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.CONTIGUOUS)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    create.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space, create)
    return Extent(int(dataset.get_offset() or 0), shape, np.dtype(dtype))
