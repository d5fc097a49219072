"""Power loss: which files a disk may hold when the power goes after the k-th call of `os`.

A model of what POSIX promises and no more (Pillai et al., "All file systems are not created equal", OSDI 2014): what
was not synced may be there, or not, or in part, in any order. A file's bytes are safe after its fsync, its name after
the fsync of its folder; a rename happens whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.faults.faulty_os import Call

SECTOR = 512  # bytes that a disk writes whole, at the least; a write may end at any byte all the same


@dataclass
class _Inode:
    """A file's bytes: those that are safe, and the changes since the last fsync."""

    safe: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (size, None)

    def after_power_loss(self, draw: np.random.Generator, kept: float) -> bytes:
        content = bytearray(self.safe)
        order = draw.permutation(len(self.pending)) if kept < 1 else np.arange(len(self.pending))
        for place in order.tolist():
            if draw.random() < kept:
                offset, data = self.pending[place]
                _apply(content, offset, data if data is None else _torn(data, draw, kept))
        return bytes(content)

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.safe, offset, data)
        self.pending = []


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
    else:
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset : offset + len(data)] = data


def _torn(data: bytes, draw: np.random.Generator, kept: float) -> bytes:
    """Half of the writes that arrive are cut: at a sector, or anywhere."""
    if kept == 1 or draw.random() < 0.5:
        return data
    cut = int(draw.integers(len(data) + 1))
    return data[: cut - cut % SECTOR] if len(data) > SECTOR and draw.random() < 0.5 else data[:cut]


class Disk:
    """The files below `root`, as the calls of `os` changed them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._inodes: dict[Path, _Inode] = {}
        self._safe: dict[Path, _Inode] = {}
        self._pending: list[tuple[Path, _Inode | None]] = []  # names given and taken since the folder's fsync
        self._handles: dict[int, tuple[Path, _Inode | None]] = {}
        for path in sorted(root.iterdir()) if root.exists() else []:
            self._safe[path] = self._inodes[path] = _Inode(bytearray(path.read_bytes()))

    def play(self, calls: Sequence[Call]) -> None:
        """Let `calls`, which succeeded, happen."""
        for call in calls:
            getattr(self, f"_{call.name}", lambda *_: None)(call, *call.args)

    def _open(self, call: Call, path: Path, flags: int, *_: int) -> None:
        path = Path(path)
        if flags & os.O_DIRECTORY or self.root not in path.parents:
            self._handles[call.result] = (path, None)
            return
        inode = self._inodes.get(path)
        if inode is None:
            inode = self._inodes[path] = _Inode()
            self._pending.append((path, inode))
        elif flags & os.O_TRUNC:
            inode.pending.append((0, None))
        self._handles[call.result] = (path, inode)

    def _pwrite(self, call: Call, handle: int, data: bytes, offset: int) -> None:
        inode = self._handles[handle][1]
        if inode:
            inode.pending.append((offset, data[: call.result]))

    def _ftruncate(self, _: Call, handle: int, size: int) -> None:
        inode = self._handles[handle][1]
        if inode:
            inode.pending.append((size, None))

    def _fsync(self, _: Call, handle: int) -> None:
        path, inode = self._handles[handle]
        if inode:
            inode.sync()
        else:
            for name, owner in [entry for entry in self._pending if entry[0].parent == path]:
                self._name(self._safe, name, owner)
            self._pending = [entry for entry in self._pending if entry[0].parent != path]

    def _replace(self, _: Call, old: Path, new: Path) -> None:
        inode = self._inodes.pop(Path(old))
        self._inodes[Path(new)] = inode
        self._pending += [(Path(new), inode), (Path(old), None)]

    def _unlink(self, _: Call, path: Path) -> None:
        if self._inodes.pop(Path(path), None):
            self._pending.append((Path(path), None))

    @staticmethod
    def _name(names: dict[Path, _Inode], path: Path, inode: _Inode | None) -> None:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode

    def after_power_loss(self, folder: Path, draw: np.random.Generator, kept: float) -> None:
        """Lay down in `folder` what is left; a change not synced is kept with probability `kept`."""
        names = dict(self._safe)
        for path, inode in self._pending:
            if draw.random() < kept:
                self._name(names, path, inode)
        folder.mkdir()
        for path, inode in names.items():
            (folder / path.name).write_bytes(inode.after_power_loss(draw, kept))
