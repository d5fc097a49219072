"""The utterances of a folder of stores as a run's heads embed them, kept in RUN/search for the next search.

A file is safetensors: `rows` (n,) int64 and `vectors` (n, dim) float32. Its metadata says what they were made of, the
heads and every row of the store, and holds a CRC-32. A file of other heads or stores, or whose bytes changed, is
rebuilt, with a line in the log. It may be deleted at any time; where none can be written, a search does without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.disk import File, write_atomic, writer_lock
from cache.fingerprint import canonical
from cache.header import DONE
from cache.reader import Store
from cache.stores import Stores
from pipeline.core.errors import EmotionRankError
from pipeline.training.heads import Heads, one_line_reason
from pipeline.training.run_folder import SEARCH_FOLDER, Run

log = logging.getLogger(__name__)

MIN_ROWS = 2**13  # fewer are projected as fast as they are read
_MAX_HEADER_BYTES = 2**20
Embedded = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows (n,) ascending, unit vectors (n, dim)


@dataclass(frozen=True)
class KeptFile:
    """What a file holds, whose bytes are as they were written."""

    identity: str
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]


def path_of(run: Run, stores: Stores) -> Path:
    """The file of the speech vectors of `stores` in `run`."""
    named = ",".join(str(folder.resolve()) for folder in stores.folders)
    name = hashlib.blake2b(named.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return run.folder / SEARCH_FOLDER / f"{name}.safetensors"


def read_kept(path: Path) -> KeptFile | None:
    """What the file holds; None where there is none, or it cannot be read or is corrupt, which is logged."""
    try:
        if not path.is_file():
            return None
        with File(path, os.O_RDONLY) as file:
            header = _read_header(file)
            rows = np.empty(header.count, np.int64)
            # torch's memory: numpy asks the kernel for huge pages, which it may search for longer than all else takes
            vectors: NDArray[np.float32] = torch.empty(header.count, header.dim).numpy()
            file.read(rows, len(header.encoded))
            file.read(vectors, len(header.encoded) + rows.nbytes)
        if header.checksum != _checksum(rows, vectors):
            raise ValueError("its bytes do not match their checksum")
        if len(rows) and not (rows[0] >= 0 and (np.diff(rows) > 0).all()):
            raise ValueError("rows out of order")
    except (EmotionRankError, OSError) as error:  # of another account, or a failing disk
        log.info(f"{path}: the search index cannot be read ({_reason(error)}); it is rebuilt")
        return None
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError, RuntimeError) as error:
        log.warning(f"{path}: the search index is corrupt ({one_line_reason(error)}); it is rebuilt")
        return None
    return KeptFile(header.identity, rows, vectors)


@dataclass(frozen=True)
class KeptIndex:
    """The file of one folder of stores in a RUN, and the identity of what it has to hold."""

    path: Path
    store: Store
    heads: Heads
    device: torch.device
    identity: str

    @classmethod
    def of(cls, run: Run, stores: Stores, heads: Heads, device: torch.device) -> KeptIndex:
        """That of `heads` of `run` and the speech vectors of `stores`."""
        return cls(path_of(run, stores), stores.audio, heads, device, identity_of(stores.audio, heads, device))

    @property
    def wanted(self) -> bool:
        """Whether a file is of use and could be written."""
        return len(self.store) >= MIN_ROWS and os.access(self.path.parents[1], os.W_OK)

    def of_these(self, kept: KeptFile | None) -> Embedded | None:
        """What was read, if it is of these heads and rows; None where it is not, which is logged."""
        if kept is None or len(self.store) < MIN_ROWS:
            return None
        if kept.identity != self.identity:
            log.info(f"{self.path}: the search index belongs to other heads or rows; it is rebuilt")
            return None
        known = not len(kept.rows) or kept.rows[-1] < len(self.store)
        if not known or kept.vectors.shape[1] != self.heads.audio.out_features:
            found = "its rows or dimension do not fit the store and the heads"
            log.warning(f"{self.path}: the search index is corrupt ({found}); it is rebuilt")
            return None
        return kept.rows, kept.vectors

    def write(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Keep what was projected, unless the store changed meanwhile or holds rows that only now are corrupt.

        Where the file cannot be written, or another process writes it, a line says so.
        """
        absent = np.setdiff1d(np.flatnonzero(self.store.column("state") == DONE), rows, assume_unique=True)
        same = self.identity == identity_of(self.store, self.heads, self.device)
        if not same or not self.store.done(absent).all():
            return
        header = _Header(self.identity, len(rows), vectors.shape[1], _checksum(rows, vectors))
        try:
            with writer_lock(self.path.parent):
                write_atomic(self.path, [header.encoded, _bytes_of(rows), _bytes_of(vectors)])
        except (EmotionRankError, OSError) as error:
            log.info(f"{self.path}: the search index could not be saved ({_reason(error)})")


@dataclass(frozen=True)
class _Header:
    identity: str
    count: int
    dim: int
    checksum: int

    @property
    def encoded(self) -> bytes:
        """The length and the header of a safetensors file."""
        end = 8 * self.count
        tree = {
            "__metadata__": {"identity": self.identity, "checksum": str(self.checksum)},
            "rows": {"dtype": "I64", "shape": [self.count], "data_offsets": [0, end]},
            "vectors": {
                "dtype": "F32",
                "shape": [self.count, self.dim],
                "data_offsets": [end, end + 4 * self.count * self.dim],
            },
        }
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.encoded) + self.count * (8 + 4 * self.dim)


def _read_header(file: File) -> _Header:
    """Raises ValueError, KeyError or TypeError for anything but what `_Header.encoded` gives."""
    length = np.zeros(1, "<u8")
    file.read(length, 0)
    text = np.zeros(min(int(length[0]), _MAX_HEADER_BYTES, file.size()), np.uint8)
    file.read(text, 8)
    tree = json.loads(text.tobytes())
    metadata, (count, dim) = tree["__metadata__"], tree["vectors"]["shape"]
    header = _Header(str(metadata["identity"]), int(count), int(dim), int(metadata["checksum"]))
    if header.encoded != length.tobytes() + text.tobytes() or header.size != file.size():
        raise ValueError("its header is not as it was written")
    return header


def identity_of(store: Store, heads: Heads, device: torch.device) -> str:
    """Identifies what an index is made of: the heads, and each row's checksum, which covers its vector and state."""
    digest = hashlib.blake2b(digest_size=16)
    described = {
        "encoder": store.fingerprint,
        "columns": store.selection.columns,
        "activation": heads.activation,
        "made_by": [device.type, torch.__version__],
    }
    digest.update(canonical(described).encode())
    for name, tensor in sorted(heads.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for name in ("state", "crc"):
        digest.update(np.ascontiguousarray(store.column(name)).data)
    return digest.hexdigest()


def _reason(error: EmotionRankError | OSError) -> str:
    return error.found if isinstance(error, EmotionRankError) else one_line_reason(error)


def _checksum(rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> int:
    return zlib.crc32(_bytes_of(vectors), zlib.crc32(_bytes_of(rows)))


def _bytes_of(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
