"""A store's own header: what it is and where each dataset lies, under a checksum, ahead of HDF5's.

It fills HDF5's user block, the bytes at the front of a file that HDF5 leaves to others:

    emotionrankclap-store 5D1F03AA 4096 2
    {"bytes":...,"datasets":{"vectors":[OFFSET,[N,WIDTH],"<f4"],...},"fingerprint":{...},"kind":"audio","seal":...}

then zeros. The first line gives the CRC-32 of all that follows it in the block, the block's size and the format's
version; it is the same in every version. `seal` is the CRC-32 of every other byte that never changes. Reading a store
needs nothing else, so that no byte of a damaged or foreign file reaches the HDF5 library.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import fingerprint as fingerprints
from cache.disk import File
from cache.errors import StoreCorrupt

FORMAT = "emotionrankclap-store"
VERSION = 2
REASON_BYTES = 160
DIGEST_BYTES = 16
PENDING, DONE, FAILED = 0, 1, 2
MUTABLE = ("vectors", "digest", "reason", "state", "crc")
BLOCK = 4096  # the smallest header
_LINE = re.compile(rb"%s ([0-9A-F]{8}) ([0-9]{1,8}) ([0-9]{1,8})\n" % FORMAT.encode())
LINE_BYTES = 64  # enough for the first line, and so to know a file again
_CRC_STOP = len(FORMAT) + 9
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PIECE_BYTES = 16 << 20


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
    """A store file's header, read once; no handle is kept, so nothing can cross a fork."""

    path: Path
    kind: str
    fingerprint: dict[str, Any]
    extents: Mapping[str, Extent]
    size: int  # bytes of the file
    seal: int
    block: bytes  # the header as it lies in the file

    @property
    def rows(self) -> int:
        return self.extents["vectors"].shape[0]

    @property
    def width(self) -> int:
        return self.extents["vectors"].shape[1]


def datasets(rows: int, id_bytes: int, width: int, dtype: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every dataset of a store of `rows` rows whose names take `id_bytes` bytes."""
    return {
        "id_bytes": ((id_bytes,), "|u1"),
        "id_offsets": ((rows + 1,), "<i8"),
        "stamp": ((rows, 2), "<i8"),
        "length": ((rows,), "<i8"),
        "crc": ((rows,), "<u4"),
        "state": ((rows,), "|u1"),
        "digest": ((rows, DIGEST_BYTES), "|u1"),
        "reason": ((rows, REASON_BYTES), "|u1"),
        "vectors": ((rows, width), dtype),
    }


def header_of(block: int, fields: Mapping[str, Any]) -> bytes:
    """The header of `block` bytes that says `fields`: bytes, datasets, fingerprint, kind and seal."""
    rest = f" {block} {VERSION}\n{fingerprints.canonical(fields)}\n".encode()
    rest = rest.ljust(block - _CRC_STOP, b"\0")
    return f"{FORMAT} {zlib.crc32(rest):08X}".encode() + rest


def read_layout(path: Path) -> Layout:
    """Read a store's header. Raises StoreCorrupt, telling apart missing, empty, foreign, other-version and damaged."""
    if not path.is_file():
        found = "not a file" if path.exists() else "no such file"
        raise StoreCorrupt(path, found, "a store", "Run extract-features.")
    with File(path, os.O_RDONLY) as file:
        size = file.size()
        block = _block(file, path)
    try:
        fields = json.loads(block[block.index(b"\n") :].rstrip(b"\0"))
        layout = Layout(
            path=path,
            kind=str(fields["kind"]),
            fingerprint=dict(fields["fingerprint"]),
            extents={name: _extent(*place) for name, place in fields["datasets"].items()},
            size=int(fields["bytes"]),
            seal=int(fields["seal"]),
            block=block,
        )
        _check_places(layout)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        found = f"its header says what no store says ({type(error).__name__}: {error})"[:200]
        raise StoreCorrupt(path, found, "a store", "Restore it or run with --fresh.") from None
    if size != layout.size:
        how = "truncated" if size < layout.size else "something was added"
        raise StoreCorrupt(path, f"{size} bytes ({how})", str(layout.size), "Restore it or run with --fresh.")
    return layout


def header_checksum(layout: Layout, file: File) -> int:
    """CRC-32 of every byte outside the header and the mutable datasets."""
    holes = sorted((e.offset, e.offset + e.nbytes) for name, e in layout.extents.items() if name in MUTABLE)
    crc, position = 0, len(layout.block)
    for start, stop in [*holes, (layout.size, layout.size)]:
        for piece in _pieces(file, position, start):
            crc = zlib.crc32(piece, crc)
        position = stop
    return crc


def _pieces(file: File, start: int, stop: int) -> Iterator[memoryview]:
    for place in range(start, stop, _PIECE_BYTES):
        piece = np.empty(min(_PIECE_BYTES, stop - place), np.uint8)
        yield piece[: file.read(piece, place)].data


def _block(file: File, path: Path) -> bytes:
    """The bytes of the header, which match their checksum."""
    first = np.zeros(LINE_BYTES, np.uint8)
    if not file.read(first, 0):
        raise StoreCorrupt(path, "an empty file", "a store", "Delete it and run extract-features.")
    line = _LINE.match(first.tobytes())
    if line is None:
        raise _foreign(path, first.tobytes())
    crc, size, version = int(line[1], 16), int(line[2]), int(line[3])
    block = np.empty(size, np.uint8)
    if file.read(block, 0) < size:
        raise StoreCorrupt(path, "ends within its header (truncated)", "a store", "Restore it or run with --fresh.")
    if zlib.crc32(block[_CRC_STOP:].data) != crc:
        raise StoreCorrupt(path, "its header was changed", "the bytes laid out", "Restore it or run with --fresh.")
    if version != VERSION:
        raise StoreCorrupt(path, f"store version {version}", f"version {VERSION}", "Use the release that wrote it.")
    return block.tobytes()


def _foreign(path: Path, first: bytes) -> StoreCorrupt:
    if first.startswith(_HDF5):
        found = "another kind of HDF5 file, or a store of version 1"
    elif first.startswith(FORMAT.encode()):
        found = "its header was changed"
    else:
        found = "another kind of file"
    return StoreCorrupt(path, found, "an emotionrankclap store", "Restore it, or choose another folder.")


def _extent(offset: int, shape: list[int], dtype: str) -> Extent:
    return Extent(int(offset), tuple(int(length) for length in shape), np.dtype(str(dtype)))


def _check_places(layout: Layout) -> None:
    """Raises ValueError unless every dataset is what it must be, in a place of its own within the file."""
    vectors = layout.extents["vectors"]
    rows, width = vectors.shape
    if vectors.dtype.str not in ("<f4", "<f2"):
        raise ValueError(f"vectors of type {vectors.dtype.str}")
    wanted = datasets(rows, layout.extents["id_bytes"].shape[0], width, vectors.dtype.str)
    found = {name: (extent.shape, extent.dtype.str) for name, extent in layout.extents.items()}
    if found != wanted:
        raise ValueError(f"datasets {found}")
    places = sorted((e.offset, e.offset + e.nbytes) for e in layout.extents.values() if e.nbytes)
    edges = [(0, len(layout.block)), *places, (layout.size, layout.size)]
    if any(length < 0 for extent in layout.extents.values() for length in extent.shape):
        raise ValueError("less than no rows")
    if any(stop > start for (_, stop), (start, _) in itertools.pairwise(edges)):
        raise ValueError("datasets overlap")
