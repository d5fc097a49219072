"""Which audio files exist, asked of the file system once per folder and not once per utterance."""

from __future__ import annotations

import os
from pathlib import Path


class AudioFiles:
    """The files under `root`. Symbolic links count as what they lead to; a broken link or a folder is no file."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self._names: dict[str, set[str]] = {}

    def inside(self, audio: str) -> str | None:
        """`audio` as a tidy path relative to the root; None when it leaves the root.

        The path is judged by its text: a link inside the root may lead anywhere, that is its owner's business.
        """
        if audio[0] not in "/." and "/." not in audio and "//" not in audio:
            return audio  # nearly every path; normpath costs ten times as much
        whole = os.path.normpath(os.path.join(self._root, audio))
        tidy = os.path.relpath(whole, self._root)
        return None if tidy == ".." or tidy.startswith("../") else tidy

    def holds(self, audio: str) -> bool:
        """Whether `audio`, relative to the root, is a file."""
        folder, _, name = audio.rpartition("/")
        return name in self.names(folder)

    def names(self, folder: str) -> set[str]:
        """Names of the files in `folder`, relative to the root; none when it is not there."""
        known = self._names.get(folder)
        if known is None:
            known = self._names[folder] = _listed(os.path.join(self._root, folder))
        return known


def _listed(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return set()
