"""Where a study is kept: in a database, or in a journal in the sweep's folder.

The journal is Optuna's, a JSON object a line, each with a checksum that it continues:

    {"op_code":4,"worker_id":"...",...,"chain":"5D1F03AA"}

`chain` is the CRC-32 of the line before it in the file, its own `chain` included, and of the line's rest; so a changed,
lost, doubled or moved line is found, but where another program wrote it. A file that was cut is as it was at an earlier
instant, and is gone on with.
"""

from __future__ import annotations

import json
import operator
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from pipeline.core.errors import StoreCorrupt

HEARTBEAT_SECONDS, GRACE_SECONDS = 60, 300  # between signs of life of a trial; without one it has no worker
_BLOCK_BYTES = 2**16
_MARK = b',"chain":"'
_END = b'"}\n'


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """The database at `url`; without one the file `journal`, which processes on machines with a shared disk append to.

    Raises ValueError where that is no file.
    """
    if url:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # signs of life are called experimental
            return RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True},  # a connection from before a restart is replaced
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
    if journal.exists() and not journal.is_file():  # a pipe would be waited for
        raise ValueError("not a file")
    return JournalStorage(_ChainedJournal(str(journal), lock_obj=JournalFileSymlinkLock(str(journal))))


class _ChainedJournal(JournalFileBackend):
    """Optuna's, with checksums; and a line that was cut short by a crash is removed before the next is written."""

    def __init__(self, file_path: str, lock_obj: JournalFileSymlinkLock) -> None:
        super().__init__(file_path, lock_obj)
        self._read_to = [(0, b"")]  # where each log begins that was read, and the chain before it

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The logs from this number on. Raises StoreCorrupt for a line that is not as it was written."""
        number = min(log_number_from, len(self._read_to) - 1)
        offset, chain = self._read_to[number]
        with open(self._file_path, "rb") as file:
            end = _bytes_of_whole_lines(file)  # what others append while this reads is read the next time
            file.seek(offset)
            while offset < end:
                line = file.readline()
                try:
                    log, chain = _parse(line, chain)
                except (ValueError, RecursionError) as error:
                    found = f"line {number + 1} is corrupt ({str(error)[:80]})"
                    action = "Restore it, or use --fresh."
                    raise StoreCorrupt(self._file_path, found, "what sweep-heads wrote", action) from None
                offset, number = offset + len(line), number + 1
                if number == len(self._read_to):
                    self._read_to.append((offset, chain))
                if number > log_number_from:
                    yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._lock.acquire()
        try:
            with open(self._file_path, "rb+") as file:
                end = _bytes_of_whole_lines(file)
                file.truncate(end)
                chain, lines = _last_chain(file, end), []
                for log in logs:
                    text = json.dumps(log, separators=(",", ":")).encode()[:-1]
                    chain = b"%08X" % zlib.crc32(text, zlib.crc32(chain))
                    lines.append(text + _MARK + chain + _END)
                file.seek(end)
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        finally:
            self._lock.release()


def _parse(line: bytes, before: bytes) -> tuple[dict[str, Any], bytes]:
    """The log of a line and its chain, after a line whose chain is `before`. Raises ValueError.

    A line of another program, or of a release that wrote none, has none.
    """
    text, mark, chain = line.removesuffix(_END).rpartition(_MARK)
    if not mark:
        tail = line[-len(_MARK) - 8 - len(_END) :]
        if sum(map(operator.eq, tail, _MARK)) > len(_MARK) - 3:
            raise ValueError("a changed checksum")
        log = json.loads(line)
    else:
        if not line.endswith(_END) or chain != b"%08X" % zlib.crc32(text, zlib.crc32(before)):
            raise ValueError("another checksum")
        log = json.loads(text + b"}")
    if not isinstance(log, dict):
        raise ValueError(f"a {type(log).__name__}")
    return log, chain if mark else b""


def _last_chain(file: BinaryIO, end: int) -> bytes:
    """The chain of the last line of a file of `end` bytes, which ends with a line; empty where it has none."""
    file.seek(max(0, end - len(_MARK) - 8 - len(_END)))
    tail = file.read(end).removesuffix(_END)
    return tail[-8:] if tail.startswith(_MARK) else b""


def _bytes_of_whole_lines(file: BinaryIO) -> int:
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        block = file.read(end - start)
        if b"\n" in block:
            return start + block.rindex(b"\n") + 1
        end = start
    return 0
