"""One writer a folder. The lock is the kernel's, so it goes with its process and is never stale."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.errors import EmotionRankError, StoreLocked

NAME = ".writer.lock"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold `folder` for writing. Raises StoreLocked, naming the process that holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        found = f"cannot be written ({os.strerror(error.errno or 0)})"
        raise EmotionRankError(folder, found, "a writable folder", "Check --out.") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(handle, 64, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreLocked(
                folder, f"process {holder} is writing here", "one writer", "Wait for it to end, or stop it."
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
