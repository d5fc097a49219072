"""What Windows lacks of POSIX: stores have the same bytes without it, and one process writes at a time.

Here a POSIX lock of the same byte stands in for msvcrt's; neither Windows nor macOS has run these tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cache import disk
from cache.disk import LOCK_NAME, writer_lock
from cache.errors import EmotionRankError
from tests.cache.stores_of import filled

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import fcntl, os, sys, types
from pathlib import Path
import h5py, numpy

folder = Path(sys.argv[1])
def lock(handle, _, count):
    assert os.lseek(handle, 0, os.SEEK_CUR) > 2**20  # Windows lets nobody read a byte that is locked
    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, count, 0, os.SEEK_CUR)
sys.modules |= {"fcntl": None, "resource": None, "msvcrt": types.SimpleNamespace(LK_NBLCK=2, locking=lock)}
for name in ("preadv", "pwrite", "pread", "posix_fallocate", "O_CLOEXEC", "O_DIRECTORY", "O_ACCMODE", "uname",
             "sched_getaffinity", "sysconf", "sysconf_names"):
    delattr(os, name)

from cache.disk import writer_lock
from cache.errors import StoreLocked
from cache.header import DONE
from tests.cache.stores_of import filled

try:
    with writer_lock(folder):
        store = filled(folder / "audio.h5", failed=(3,))
        print((store.scan() == DONE).sum(), "rows", flush=True)
        sys.stdin.read()
except StoreLocked as error:
    print(f"refused {error}")
"""


def _started(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process without POSIX that has written a store and holds its folder."""
    process = _started(tmp_path / "theirs")
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said == "8 rows\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_store_has_the_same_bytes_and_a_second_writer_is_refused_until_the_first_dies(
    writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    filled(tmp_path / "audio.h5", failed=(3,))
    assert (tmp_path / "theirs/audio.h5").read_bytes() == (tmp_path / "audio.h5").read_bytes()
    assert (tmp_path / "theirs" / LOCK_NAME).read_text().startswith(f"{writer.pid} on ")
    second, _ = _started(tmp_path / "theirs").communicate()
    assert second.startswith("refused ")
    assert f"process {writer.pid} on " in second
    writer.kill()
    writer.wait()
    third, _ = _started(tmp_path / "theirs").communicate()
    assert third == "8 rows\n"


def test_where_nothing_can_lock_no_folder_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with pytest.raises(EmotionRankError) as refused, writer_lock(tmp_path / "new"):
        pytest.fail("written without a lock")
    assert str(refused.value) == (
        f"{tmp_path / 'new'}: this Python has no file locks (neither fcntl nor msvcrt); expected one writer at a time. "
        "Use a Python of Linux, macOS or Windows."
    )


def test_rows_are_read_by_many_threads_where_a_read_moves_the_files_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numbers").write_bytes(np.arange(4000, dtype="<i8").tobytes())
    monkeypatch.delattr(os, "preadv")
    with disk.File(tmp_path / "numbers", os.O_RDONLY) as file, ThreadPoolExecutor(8) as pool:

        def read(start: int) -> bool:
            values = np.empty(10, "<i8")
            return file.read(values, 8 * start) == 80 and bool((values == np.arange(start, start + 10)).all())

        assert all(pool.map(read, range(0, 3990)))
