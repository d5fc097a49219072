"""A store's header: what it is and where each dataset is, under a checksum, ahead of HDF5's.

It fills HDF5's user block, the bytes at the front of a file that HDF5 leaves to others:

    emotionrankclap-store 5D1F03AA 4096 2
    {"bytes":...,"datasets":{"vectors":[OFFSET,[N,DIM],"<f4"],...},"fingerprint":{...},"kind":"audio","seal":...}

then zeros. The first line gives the CRC-32 of all that follows it in the header, the header's size and the format's
version; it is the same in every version. Rows of several vectors make a store of version 3, which has "axes" as well
(layers.py). `seal` is the CRC-32 of every other byte that never changes. Reading a store needs nothing else, so that no
byte of a corrupt or foreign file reaches the HDF5 library.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import fingerprint as fingerprints
from cache.disk import File
from cache.errors import StoreCorrupt
from cache.layers import Axes

FORMAT = "emotionrankclap-store"
VERSION = 2  # of rows of one vector; it is also in the fingerprint of every store
LAYERED_VERSION = 3  # of rows of several vectors (layers.py)
REASON_BYTES = 160
DIGEST_BYTES = 16
PENDING, DONE, FAILED = 0, 1, 2
MUTABLE_DATASETS = ("vectors", "digest", "reason", "state", "crc", "column_crc")
MIN_HEADER_BYTES = 4096
FIRST_LINE_BYTES = 64  # enough for the first line, and so to recognise a file
_FIRST_LINE = re.compile(rb"%s ([0-9A-F]{8}) ([0-9]{1,8}) ([0-9]{1,8})\n" % FORMAT.encode())
_AFTER_CRC = len(FORMAT) + 9  # where the bytes begin that the header's CRC covers
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK_BYTES = 16 << 20
RESTORE = "Restore it from a backup, or run extract-features --fresh."


@dataclass(frozen=True)
class Extent:
    """Where one dataset is in the file."""

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
    """A store file's header, read once; no handle is kept, so nothing can cross a fork."""

    path: Path
    kind: str
    fingerprint: dict[str, Any]
    extents: Mapping[str, Extent]
    size: int  # bytes of the file
    checksum: int  # of every byte that never changes, outside the header
    header: bytes  # its bytes
    axes: Axes | None = None  # what a row of several vectors holds


def dataset_shapes(
    rows: int, id_bytes: int, dim: int, dtype: str, axes: Axes | None = None
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every dataset of a store of `rows` rows whose names take `id_bytes` bytes."""
    layered = {} if axes is None else {"column_crc": ((rows, axes.columns), "<u4")}
    return layered | {
        "id_bytes": ((id_bytes,), "|u1"),
        "id_offsets": ((rows + 1,), "<i8"),
        "stamp": ((rows, 2), "<i8"),
        "length": ((rows,), "<i8"),
        "crc": ((rows,), "<u4"),
        "state": ((rows,), "|u1"),
        "digest": ((rows, DIGEST_BYTES), "|u1"),
        "reason": ((rows, REASON_BYTES), "|u1"),
        "vectors": ((rows, dim), dtype),
    }


def encode_header(size: int, fields: Mapping[str, Any]) -> bytes:
    """The header of `size` bytes that holds `fields`: bytes, datasets, fingerprint, kind, seal, and axes if it has any.

    A store without axes is one of version 2, byte for byte.
    """
    version = LAYERED_VERSION if "axes" in fields else VERSION
    rest = f" {size} {version}\n{fingerprints.canonical(fields)}\n".encode()
    rest = rest.ljust(size - _AFTER_CRC, b"\0")
    return f"{FORMAT} {zlib.crc32(rest):08X}".encode() + rest


def read_layout(path: Path) -> Layout:
    """Read a store's header. Raises StoreCorrupt, telling apart missing, empty, foreign, other-version and changed."""
    if not path.is_file():
        found = "not a file" if path.exists() else "no such file"
        raise StoreCorrupt(path, found, "a store", "Run extract-features first.")
    with File(path, os.O_RDONLY) as file:
        size = file.size()
        header = _read_header(file)
    try:
        fields = json.loads(header[header.index(b"\n") :].rstrip(b"\0"))
        extents = {
            name: Extent(int(offset), tuple(int(length) for length in shape), np.dtype(str(dtype)))
            for name, (offset, shape, dtype) in fields["datasets"].items()
        }
        fingerprint, checksum = dict(fields["fingerprint"]), int(fields["seal"])
        axes = Axes.parse(fields["axes"]) if _version(header) == LAYERED_VERSION else None
        layout = Layout(path, str(fields["kind"]), fingerprint, extents, int(fields["bytes"]), checksum, header, axes)
        _check_extents(layout)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        found = f"its header is not that of any store ({type(error).__name__}: {error})"[:200]
        raise StoreCorrupt(path, found, "a store", RESTORE) from None
    if size != layout.size:
        how = "truncated" if size < layout.size else "bytes were added to it"
        raise StoreCorrupt(path, f"{how}, {size:,} bytes", f"{layout.size:,} bytes", RESTORE)
    return layout


def _read_header(file: File) -> bytes:
    """The bytes of the header, which match their checksum."""
    first = np.zeros(FIRST_LINE_BYTES, np.uint8)
    if not file.read(first, 0):
        raise StoreCorrupt(file.path, "an empty file", "a store", "Delete it and run extract-features again.")
    line = _FIRST_LINE.match(first.tobytes())
    if line is None:
        found = "another kind of file"
        if first.tobytes().startswith(_HDF5_SIGNATURE):
            found = "another kind of HDF5 file, or a store of version 1"
        elif first.tobytes().startswith(FORMAT.encode()):
            found = "its header was changed"
        raise StoreCorrupt(file.path, found, "an emotionrankclap store", "Restore it, or choose another folder.")
    crc, size, version = int(line[1], 16), int(line[2]), int(line[3])
    header = np.empty(size, np.uint8)
    if file.read(header, 0) < size:
        raise StoreCorrupt(file.path, "truncated: it ends within its header", "a store", RESTORE)
    if zlib.crc32(header[_AFTER_CRC:].data) != crc:
        raise StoreCorrupt(file.path, "its header was changed", "the bytes first written", RESTORE)
    if version not in (VERSION, LAYERED_VERSION):
        expected, action = f"version {VERSION} or {LAYERED_VERSION}", "Use the release that wrote it."
        raise StoreCorrupt(file.path, f"store version {version}", expected, action)
    return header.tobytes()


def _version(header: bytes) -> int:
    line = _FIRST_LINE.match(header)
    return int(line[3]) if line else 0


def _check_extents(layout: Layout) -> None:
    """Raises ValueError unless every dataset has its shape and type, and a place of its own within the file."""
    vectors = layout.extents["vectors"]
    rows, dim = vectors.shape
    if vectors.dtype.str not in ("<f4", "<f2"):
        raise ValueError(f"vectors of type {vectors.dtype.str}")
    if layout.axes and sum(layout.axes.sizes) != dim:
        raise ValueError(f"rows of {dim} numbers that hold {layout.axes}")
    expected = dataset_shapes(rows, layout.extents["id_bytes"].shape[0], dim, vectors.dtype.str, layout.axes)
    found = {name: (extent.shape, extent.dtype.str) for name, extent in layout.extents.items()}
    if found != expected:
        raise ValueError(f"datasets {found}")
    if any(length < 0 for extent in layout.extents.values() for length in extent.shape):
        raise ValueError("a negative number of rows")
    places = sorted((e.offset, e.offset + e.nbytes) for e in layout.extents.values() if e.nbytes)
    edges = [(0, len(layout.header)), *places, (layout.size, layout.size)]
    if any(stop > start for (_, stop), (start, _) in itertools.pairwise(edges)):
        raise ValueError("datasets overlap")


def static_checksum(file: File, extents: Mapping[str, Extent], header_bytes: int, size: int) -> int:
    """CRC-32 of every byte outside the header and the mutable datasets."""
    mutable = sorted((e.offset, e.offset + e.nbytes) for name, e in extents.items() if name in MUTABLE_DATASETS)
    crc, position = 0, header_bytes
    for start, stop in [*mutable, (size, size)]:
        for offset in range(position, start, _CHUNK_BYTES):
            chunk = np.empty(min(_CHUNK_BYTES, start - offset), np.uint8)
            crc = zlib.crc32(chunk[: file.read(chunk, offset)].data, crc)
        position = stop
    return crc
