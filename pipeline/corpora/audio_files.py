"""Which audio files exist, asked of the file system once per folder and not once per utterance."""

from __future__ import annotations

import os
from pathlib import Path


class AudioFiles:
    """The files under `root`. Symbolic links count as what they lead to; a broken link or a folder is no file.

    A path is judged by its text: a link inside the root may lead anywhere, that is its owner's business.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self._below = self._root.rstrip("/") + "/"
        self._names: dict[str, set[str]] = {}

    def inside(self, audio: str) -> str | None:
        """`audio` as a tidy path relative to the root; None when it leaves the root."""
        if "/." not in audio and "//" not in audio:  # nearly every path; normpath costs ten times as much
            if audio[0] not in "/.":
                return audio
            if audio.startswith(self._below):
                return audio[len(self._below) :] or "."
        whole = self.whole(audio)
        return whole[len(self._below) :] or "." if (whole + "/").startswith(self._below) else None

    def whole(self, audio: str) -> str:
        """`audio` as a tidy absolute path."""
        if audio[0] == "/":
            tidy = "/." not in audio and "//" not in audio
            return audio if tidy else os.path.normpath("/" + audio.lstrip("/"))
        return os.path.normpath(self._below + audio)

    def holds(self, audio: str) -> bool:
        """Whether `audio`, relative to the root or absolute, is a file."""
        folder, slash, name = audio.rpartition("/")
        return name in self.names(folder if folder or not slash else "/")

    def names(self, folder: str) -> set[str]:
        """Names of the files in `folder`, relative to the root or absolute; none when it is not there."""
        known = self._names.get(folder)
        if known is None:
            known = self._names[folder] = _listed(os.path.join(self._root, folder))
        return known


def _listed(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is_file(entry)}
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return set()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a loop of links, which costs no other file its place
        return False
