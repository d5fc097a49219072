"""Every byte that is written, and every byte of a store that is read: the only module that touches the disk.

A file is written in place (`File`), or whole or not at all (`atomic_file`), by one process per folder (`writer_lock`).
Every failure is one line that names the file. The fault tests replace `os` in this module and let the k-th call fail.
What POSIX has and Windows has not (reads and writes at an offset, syncing a folder, flock) is asked for, not assumed.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import EmotionRankError, StoreLocked, UsageError, one_line

PARTIAL_SUFFIX = ".partial"  # of a file until it is complete
LOCK_NAME = ".writer.lock"
_LOCK_BYTES = 128  # of the holder's process and machine
_LOCKED_BYTE = 1 << 30  # on Windows, where nobody can read a locked byte: far behind the holder's name
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, getattr(errno, "EUCLEAN", errno.EIO))
_NO_RESERVING = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of file systems that do not allocate beforehand


class File:
    """An open file, read and written at byte offsets. `subject` is what its errors name."""

    def __init__(self, path: Path, flags: int, subject: Path | None = None) -> None:
        """Raises EmotionRankError when it cannot be opened with `flags` of `os.open`."""
        self.path, self.subject = path, subject or path
        self._doing = "written" if flags & (os.O_WRONLY | os.O_RDWR) else "read"
        self._place = threading.Lock()  # the file's own place, where it has to be moved to read or write
        for name in ("O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):  # of POSIX, and of Windows
            flags |= getattr(os, name, 0)
        self.handle = self._try(os.open, path, flags, 0o644)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, array: NDArray[Any], offset: int) -> int:
        """Fill the contiguous `array` from `offset` on; returns how many bytes the file had for it."""
        view, filled = array.reshape(-1).view(np.uint8).data, 0
        while filled < len(view) and (count := self._try(self._read_part, view[filled:], offset + filled)):
            filled += count
        return filled

    def _read_part(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.handle, [view], offset)
        with self._place:
            os.lseek(self.handle, offset, os.SEEK_SET)
            part = os.read(self.handle, len(view))
        view[: len(part)] = part
        return len(part)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Put all of `data` at `offset`."""
        count = self._try(self._write_part, data, offset)
        while count < len(data):
            data = data[count:]
            offset += count
            count = self._try(self._write_part, data, offset)

    def _write_part(self, data: bytes | memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.handle, data, offset)
        with self._place:
            os.lseek(self.handle, offset, os.SEEK_SET)
            return os.write(self.handle, data)

    def reserve(self, size: int) -> None:
        """Make the file `size` bytes long and allocate its blocks, so that a full disk shows before the work."""
        self._try(os.ftruncate, self.handle, size)
        if not hasattr(os, "posix_fallocate"):  # macOS, Windows
            return
        try:
            os.posix_fallocate(self.handle, 0, size)
        except OSError as error:
            if error.errno not in _NO_RESERVING:
                raise one_line_failure(self.subject, error, "written", f"{size / 2**20:,.1f} MiB free") from None

    def size(self) -> int:
        """Bytes."""
        return int(self._try(os.fstat, self.handle).st_size)

    def sync(self) -> None:
        """Make what is written survive power loss."""
        self._try(os.fsync, self.handle)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except OSError as error:
            raise one_line_failure(self.subject, error, self._doing) from None


@contextmanager
def atomic_file(path: Path) -> Iterator[File]:
    """A new file that replaces `path` once it is written and safe from power loss, or leaves no trace."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with File(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, subject=path) as file:
            yield file
            file.sync()
        try:
            os.replace(partial, path)
        except OSError as error:
            raise one_line_failure(path, error, "written") from None
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    _sync_folder(path.parent)


def write_atomic(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file from its parts, whole or not at all."""
    offset = 0
    with atomic_file(path) as file:
        for part in parts:
            file.write(part, offset)
            offset += len(part)


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    write_atomic(path, [text.encode("utf-8", "surrogateescape")])


def remove(path: Path) -> None:
    """Delete a file, if there is one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise one_line_failure(path, error, "deleted") from None


def remove_synced(path: Path) -> None:
    """Delete a file, if there is one, so that it stays deleted after power loss."""
    if path.exists():
        remove(path)
        _sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Delete a folder with all that is in it, if there is one."""
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        raise one_line_failure(folder, error, "deleted") from None


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it where they do not exist, so that they survive power loss."""
    if not folder.is_dir():
        make_folder(folder.parent)
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not folder.is_dir():  # else another process made it first
                raise UsageError(folder, "a file", "a folder, new or existing", "Choose another path.") from None
        except OSError as error:
            raise one_line_failure(folder, error, "made") from None
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make a change of names in `folder` survive power loss, where the system can sync a folder."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with File(folder, os.O_RDONLY | os.O_DIRECTORY) as handle:
        handle.sync()


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for writing, and delete the unfinished files of a writer that was killed.

    The lock is the kernel's, so it ends with its process and is never stale. Not filelock: it does not record who holds
    a kernel lock, and the fault tests would not see its calls. Raises StoreLocked, naming the process that holds it.
    """
    make_folder(folder)
    with File(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, subject=folder) as file:
        try:
            _take_lock(file)
        except OSError:
            text = np.empty(_LOCK_BYTES, np.uint8)
            holder = text[: file.read(text, 0)].tobytes().decode("ascii", "replace").strip() or "unknown"
            found = f"process {holder} is writing here"
            raise StoreLocked(folder, found, "one writer", "Wait for it to end, or stop it.") from None
        file.write(f"{os.getpid()} on {platform.node()}\n".encode().ljust(_LOCK_BYTES), 0)
        for path in sorted(folder.glob(f"*{PARTIAL_SUFFIX}")):
            remove(path)
        yield


def _take_lock(file: File) -> None:
    """Lock an open file until it is closed: by flock, on Windows one byte of it. OSError where another holds it."""
    with suppress(ImportError):
        fcntl = import_module("fcntl")
        fcntl.flock(file.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    try:
        msvcrt = import_module("msvcrt")
    except ImportError:
        found, expected = "this Python has no file locks (neither fcntl nor msvcrt)", "one writer at a time"
        action = "Use a Python of Linux, macOS or Windows."
        raise EmotionRankError(file.subject, found, expected, action) from None
    os.lseek(file.handle, _LOCKED_BYTE, os.SEEK_SET)
    msvcrt.locking(file.handle, msvcrt.LK_NBLCK, 1)


@contextmanager
def translate_os_errors(subject: Path) -> Iterator[None]:
    """Turn what the operating system refuses in the block, to other libraries too, into one line (exit 1).

    An OSError without its number is a library's own (a shared library that does not load, a model that is not found).
    It is raised as it is.
    """
    try:
        yield
    except BrokenPipeError:  # of a terminal, not of a disk
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise one_line_failure(error.filename or subject, error, "read or written") from None


def one_line_failure(subject: object, error: OSError, doing: str, room: str = "room") -> EmotionRankError:
    """The error for a failed call of the operating system: one line with what to do. Only a disk's is called so."""
    number = error.errno or 0  # of the system; below 0 a resolver's, 0 or none a library's
    reason = os.strerror(number) if number > 0 else one_line(str(error)).strip()[:200] or "no reason given"
    found = f"cannot be {doing} ({reason})"
    if error.errno in _NO_SPACE:
        return EmotionRankError(subject, found, room, "Free space and run it again; what is finished is kept.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EmotionRankError(subject, found, "permission", "Check who owns it, or choose another folder.")
    if error.errno in _DISK:
        return EmotionRankError(subject, found, "a disk that works", "Check the disk and run it again.")
    return EmotionRankError(subject, found, "no error of the operating system", "Remove its cause and run again.")
