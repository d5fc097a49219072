"""Ray on this machine, for the tests: a cluster of their own, the processes in it, and a path that holds up its reader.

A gate in a clip's place holds the one actor that reads it there, so that a test can kill exactly that one.
"""

from __future__ import annotations

import logging
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
    return [pid for pid, name in descendants(root).items() if name.startswith("ray::RemoteEncoder")]


def of_ray(root: int) -> list[str]:
    """Command lines of the processes of Ray that `root` started."""
    commands = descendants(root).values()
    return [command for command in commands if "/ray/" in " ".join(command.split()[:3]) or command.startswith("ray::")]


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


class Gate(type(Path())):  # type: ignore[misc]
    """A clip's path that holds up the actor which opens it, until the gate is opened."""

    def __fspath__(self) -> str:
        path = str(self)
        if Path("/proc/self/cmdline").read_bytes().startswith(b"ray::"):
            Path(f"{path}.held-{os.getpid()}").touch()
            while not os.path.exists(f"{path}.open"):
                time.sleep(0.01)
        return path


class WarningPath(type(Path())):  # type: ignore[misc]
    """A clip's path that makes the actor which opens it log a warning."""

    def __fspath__(self) -> str:
        if Path("/proc/self/cmdline").read_bytes().startswith(b"ray::"):
            logging.getLogger("pipeline.extraction").warning("not enough memory")
        return str(self)


def open_gate(clip: Path) -> None:
    """Let go of whoever is held, and of all who come."""
    Path(f"{clip}.open").touch()


def holding(clip: Path) -> list[int]:
    """The processes that the gate in the place of `clip` holds."""
    held = (int(path.name.rpartition("-")[2]) for path in clip.parent.glob(f"{clip.name}.held-*"))
    return [pid for pid in held if _alive(pid)]


def kill(pids: list[int]) -> None:
    """Kill `pids` and wait until they are gone."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        return b"Z" not in Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
