"""What a manifest's audio paths say together: those that leave the root, and one file under several ids."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice

from pipeline.corpora.audio_files import AudioFiles

_SHOWN = 3  # pairs of ids


class Escapes:
    """The paths that leave the root, and the folder that would hold all paths if it were the root."""

    def __init__(self) -> None:
        self.count = 0
        self._relative = False  # a path that another root would move
        self._common: str | None = None  # the folder above every absolute path so far

    def see(self, audio: str, whole: str) -> None:
        """Take any path: `audio` as it was given, `whole` as a tidy absolute path."""
        if audio[0] != "/":
            self._relative = True
        elif self._common is None:
            self._common = os.path.dirname(whole)
        elif not whole.startswith(self._common.rstrip("/") + "/"):
            self._common = os.path.commonpath((self._common, whole))

    @property
    def action(self) -> str:
        """What to do about it."""
        allow = "allow them with -o corpus.outside_root=true"
        if self._relative or self._common in (None, "/"):
            return f"Correct these lines, or {allow}."
        return f"Pass --audio-root {self._common}, where all of them lie, or {allow}."


def same_audio(ids: Sequence[str], audio: Sequence[str], split: Sequence[str], files: AudioFiles) -> Iterator[str]:
    """Notes about files that stand under several ids: how many, the first few, and those in different splits."""
    if len(set(audio)) == len(audio) and not any(path[0] in "/." for path in audio):
        return
    whole = [files.whole(path) if path[0] in "/." else path for path in (files.inside(path) or path for path in audio)]
    first: dict[str, int] = {}
    twice = [(first[path], row) for row, path in enumerate(whole) if first.setdefault(path, row) != row]
    leaks = [(one, other) for one, other in twice if split[one] != split[other]]
    for pairs, found in ((twice, "{} utterances are another's audio file"), (leaks, _LEAK)):
        if pairs:
            shown = ", ".join(f"{ids[one]} and {ids[other]}" for one, other in islice(pairs, _SHOWN))
            yield f"{found.format(f'{len(pairs):,}')}: {shown}{', ...' if len(pairs) > _SHOWN else ''}"


_LEAK = "WARNING: {} audio files stand in two splits, so that a test hears what was trained on"
