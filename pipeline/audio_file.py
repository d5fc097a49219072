"""An audio file as bytes: opened only where it is a regular file, stamped, and hashed a piece at a time."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PIECE_BYTES = 1 << 20
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@contextmanager
def opened(path: str | Path) -> Iterator[int]:
    """A handle of the regular file `path`. Raises OSError, ValueError for a path that no file can have.

    What is no file is never read: a pipe is waited for, a device may have no end, and neither can be read twice.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(0, "a folder, not a file")
        if not stat.S_ISREG(mode):
            raise OSError(0, f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")
        yield handle
    finally:
        os.close(handle)


def stamp_of(found: os.stat_result) -> tuple[int, int]:
    """(bytes, nanoseconds of the last change): what tells a file from what it was before. Both fit in 64 bits."""
    return found.st_size, max(-(1 << 63), min(found.st_mtime_ns, (1 << 63) - 1))


def digest_of(data: bytes) -> bytes:
    """BLAKE2b-128, the identity of a source's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def bytes_of(handle: int, size: int) -> bytes:
    """The first `size` bytes, or those that are there: a file that grows has no end."""
    parts = []
    while size > 0 and (part := os.read(handle, size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def digest_of_file(handle: int, size: int) -> bytes:
    """`digest_of` the first `size` bytes, a piece of them in memory."""
    digest = hashlib.blake2b(digest_size=16)
    while size > 0 and (part := os.read(handle, min(size, _PIECE_BYTES))):
        digest.update(part)
        size -= len(part)
    return digest.digest()
