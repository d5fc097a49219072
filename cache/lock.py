"""One writer a folder. The lock is the kernel's, so it goes with its process and is never stale."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cache.disk import File, make_folder, remove_partial
from cache.errors import StoreLocked

NAME = ".writer.lock"
_HOLDER_BYTES = 128


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for writing, and delete what a writer before was killed over.

    Raises StoreLocked, naming the process that holds it.
    """
    make_folder(folder)
    with File(folder / NAME, os.O_RDWR | os.O_CREAT, subject=folder) as file:
        try:
            fcntl.flock(file.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            found = f"process {_holder(file)} is writing here"
            raise StoreLocked(folder, found, "one writer", "Wait for it to end, or stop it.") from None
        file.write(f"{os.getpid()} on {os.uname().nodename}\n".encode().ljust(_HOLDER_BYTES), 0)
        remove_partial(folder)
        yield


def _holder(file: File) -> str:
    text = np.empty(_HOLDER_BYTES, np.uint8)
    return text[: file.read(text, 0)].tobytes().decode("ascii", "replace").strip() or "unknown"
