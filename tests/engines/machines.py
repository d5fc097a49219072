"""Ray on this machine, for the tests: a cluster of their own, the processes in it, and a file that holds up its reader.

A named pipe in a clip's place is read by one actor and holds it there, so that a test can kill exactly that one.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache.header import PENDING
from cache.stores import open_stores


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Ray's files under a short path (a socket's may have 107 bytes), and out of any other cluster's way."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")  # `Cluster` knows no tokens; and none is written into the home folder
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    shutil.rmtree(folder, ignore_errors=True)


def descendants(root: int) -> dict[int, str]:
    """Processes that `root` started, directly or not, and their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            pass  # it has ended
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: names[pid] for pid in found - {root}}


def actors(root: int) -> list[int]:
    """The processes of actors in clusters that `root` started."""
    return [pid for pid, name in descendants(root).items() if name.startswith("ray::RemoteWork")]


def of_ray(root: int) -> list[str]:
    """Command lines of the processes of Ray that `root` started."""
    return [name for name in descendants(root).values() if "/ray/" in name or name.startswith("ray::")]


def until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for `condition`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def committed(out: Path) -> int:
    """Rows of speech that are done or failed in the stores `out`."""
    try:
        return int((open_stores(out).audio.scan() != PENDING).sum())
    except Exception:  # noqa: BLE001 - not laid out yet
        return 0


def holding(path: Path) -> list[int]:
    """Let in whoever waits at the pipe `path`; their processes, which then wait for data that never comes."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # nobody there yet
        return []
    _kept.append(handle)
    for _ in range(100):
        if found := _readers(path):
            return found
        time.sleep(0.01)
    return []  # killed at the door


def kill(pids: list[int]) -> None:
    """Kill `pids` and wait until their files are closed."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not _open_files(pid))


def close_pipes() -> None:
    """Close the ends that `holding` kept open."""
    while _kept:
        os.close(_kept.pop())


_kept: list[int] = []


def _readers(path: Path) -> list[int]:
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if pid != os.getpid() and str(path) in _open_files(pid)]


def _open_files(pid: int) -> list[str]:
    try:
        return [os.readlink(f"/proc/{pid}/fd/{link}") for link in os.listdir(f"/proc/{pid}/fd")]
    except OSError:  # it has ended
        return []
