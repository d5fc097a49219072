"""Every byte that is written, and every byte of a store that is read: the only place that touches the disk.

A file is written in place (`File`) or whole or not at all (`whole`). Every failure is one line that names the file.
The fault tests stand in for `os` here and let the k-th call fail.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import EmotionRankError, UsageError

PARTIAL = ".partial"  # what a file is called until it is whole
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # file systems that take no blocks beforehand


class File:
    """An open file, read and written at byte offsets. `subject` is what its errors name."""

    def __init__(self, path: Path, flags: int, subject: Path | None = None) -> None:
        """Raises EmotionRankError when it cannot be opened with `flags` of `os.open`."""
        self.subject = path if subject is None else subject
        self._doing = "read" if flags & os.O_ACCMODE == os.O_RDONLY else "written"
        self.handle = self._try(os.open, path, flags | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, array: NDArray[Any], offset: int) -> int:
        """Fill the contiguous `array` from `offset` on; returns how many bytes the file had for it."""
        view, filled = array.reshape(-1).view(np.uint8).data, 0
        while filled < len(view) and (count := self._try(os.preadv, self.handle, [view[filled:]], offset + filled)):
            filled += count
        return filled

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Put all of `data` at `offset`."""
        count = self._try(os.pwrite, self.handle, data, offset)
        while count < len(data):
            data = data[count:]
            offset += count
            count = self._try(os.pwrite, self.handle, data, offset)

    def reserve(self, size: int) -> None:
        """Make the file `size` bytes long and take the disk's blocks, so that a full disk shows before the work."""
        self._try(os.ftruncate, self.handle, size)
        try:
            os.posix_fallocate(self.handle, 0, size)
        except OSError as error:
            if error.errno not in _NO_RESERVE:
                raise failed(self.subject, error, "written", f"{size / 2**20:,.1f} MiB free") from None

    def size(self) -> int:
        """Bytes."""
        return int(self._try(os.fstat, self.handle).st_size)

    def sync(self) -> None:
        """Make what is written survive power loss."""
        self._try(os.fsync, self.handle)

    def close(self) -> None:
        """Let go of the file; doing it again is nothing."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        return _tried(self.subject, self._doing, call, *args)


@contextmanager
def whole(path: Path) -> Iterator[File]:
    """A new file that takes the place of `path` once it is written and safe from power loss, or leaves no trace."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with File(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, subject=path) as file:
            yield file
            file.sync()
        _tried(path, "written", os.replace, partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    _sync_folder(path.parent)


def write_atomic(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file from its parts, whole or not at all."""
    offset = 0
    with whole(path) as file:
        for part in parts:
            file.write(part, offset)
            offset += len(part)


def remove(path: Path) -> None:
    """Delete a file; one that is not there is as good."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise failed(path, error, "deleted") from None


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    write_atomic(path, [text.encode("utf-8", "surrogateescape")])


def remove_partial(folder: Path) -> None:
    """Delete what writers that were killed left unfinished in `folder`."""
    for path in sorted(folder.glob(f"*{PARTIAL}")):
        remove(path)


def remove_tree(folder: Path) -> None:
    """Delete a folder with all that is in it; one that is not there is as good."""
    if folder.is_dir():
        _tried(folder, "deleted", shutil.rmtree, folder)


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it, where they are not there yet, so that power loss does not take them."""
    if not folder.is_dir():
        make_folder(folder.parent)
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not folder.is_dir():  # else somebody was quicker
                raise UsageError(folder, "not a folder", "one", "Choose another.") from None
        except OSError as error:
            raise failed(folder, error, "made") from None
        _sync_folder(folder.parent)


@contextmanager
def translate_os_errors(subject: Path) -> Iterator[None]:
    """Whatever the operating system refuses within, other libraries' calls too, becomes one line (exit 1)."""
    try:
        yield
    except BrokenPipeError:  # of a terminal, not of a disk
        raise
    except OSError as error:
        raise failed(error.filename or subject, error, "read or written") from None


def failed(subject: object, error: OSError, doing: str, room: str = "room") -> EmotionRankError:
    """One line for a failure of the operating system."""
    found = f"cannot be {doing} ({os.strerror(error.errno or errno.EIO)})"
    if error.errno in _NO_ROOM:
        return EmotionRankError(subject, found, room, "Free space and run it again; what is finished is kept.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EmotionRankError(subject, found, "permission", "Check who owns it, or choose another folder.")
    return EmotionRankError(subject, found, "a disk that works", "Check the disk and run it again.")


def _sync_folder(folder: Path) -> None:
    """Make a change of names in `folder` survive power loss."""
    with File(folder, os.O_RDONLY | os.O_DIRECTORY) as handle:
        handle.sync()


def _tried(subject: Path, doing: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return call(*args, **options)
    except OSError as error:
        raise failed(subject, error, doing) from None
