"""Where a corpus lies: its folder, the first of several files in it, its audio files, and paths that leave the root."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from pipeline.core.config import CorpusConfig
from pipeline.core.errors import UsageError

ENDINGS = (
    ".wav",
    ".flac",
    ".mp3",
    ".ogg",
    ".opus",
    ".aif",
    ".aiff",
    ".au",
    ".sph",
    ".caf",
    ".w64",
    ".m4a",
    ".mp4",
    ".aac",
    ".webm",
)
OTHER_FORM = "another Unicode form"
OTHER_ENDING = "another ending or case"
_DEPTH = 3  # of folders that are looked into for what was unpacked too deep
_SHOWN = 6  # names

_WHERE_TO_POINT = "Pass the corpus folder as --audio-root or set corpus.root."


def corpus_root(config: CorpusConfig) -> Path:
    """The folder the corpus was unpacked to. Raises UsageError when it is not given or not there."""
    if config.root is None:
        found = f"not given for reader {config.reader}"
        raise UsageError("corpus.root", found, "the corpus folder", _WHERE_TO_POINT)
    root = Path(os.path.expanduser(config.root))
    if not os.path.isdir(root):
        raise UsageError(root, "no such folder", "the corpus folder", _WHERE_TO_POINT)
    return root


def first_existing(root: Path, names: Sequence[str], *, what: str) -> Path:
    """The first of `names` under `root` that exists. Raises UsageError that lists every path tried."""
    tried = [root / name for name in names]
    path = next(filter(os.path.exists, tried), None)
    if path is None:
        raise UsageError(
            root, f"no {what}; {_what_is_there(root, names)}", f"one of {', '.join(map(str, tried))}", _WHERE_TO_POINT
        )
    return path


def _what_is_there(root: Path, names: Sequence[str]) -> str:
    """`Labels/Labels/x.csv is there`, where an archive was unpacked into itself; else what the folder holds."""
    wanted = {os.path.basename(name) for name in names}
    for folder, folders, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        found = sorted(wanted.intersection((*folders, *files)))
        if found:
            return f"{os.path.normpath(os.path.join(inside, found[0]))} is there"
        if inside.count(os.sep) + (inside != ".") >= _DEPTH:
            folders.clear()
    listed = sorted(os.listdir(root))
    if not listed:
        return "it is empty"
    return f"in it are {', '.join(listed[:_SHOWN])}{', ...' if len(listed) > _SHOWN else ''}"


def audio_below(root: Path, endings: tuple[str, ...] = ENDINGS) -> list[str]:
    """Every file below `root` with one of `endings`, relative to it, folder by folder in order; hidden ones are not."""
    clips = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        inside = os.path.relpath(folder, root)
        audio = [name for name in names if name.lower().endswith(endings) and not name.startswith(".")]
        clips += [os.path.normpath(os.path.join(inside, name)) for name in sorted(audio)]
    return clips


class AudioFiles:
    """The files under `root`. Symbolic links count as what they lead to; a broken link or a folder is no file.

    A path is judged by its text: a link inside the root may lead anywhere, that is its owner's business.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self._below = self._root.rstrip("/") + "/"
        self._names: dict[str, set[str]] = {}
        self._alike: dict[str, tuple[dict[str, list[str]], dict[str, list[str]]]] = {}

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

    def similar(self, audio: str) -> tuple[str, str] | None:
        """The one file that `audio`, which is not there, can only mean, and what is different; None without such a one.

        A name in another Unicode form (macOS writes `e` and an accent for `é`), or the same stem with another case or
        another ending of audio (`.WAV`, or FLACs made of the WAVs).
        """
        for form in ("NFC", "NFD"):
            if self.holds(other := unicodedata.normalize(form, audio)):
                return other, OTHER_FORM
        folder, slash, name = audio.rpartition("/")
        by_form, by_stem = self._lookalikes(folder if folder or not slash else "/")
        of_form, of_stem = by_form.get(unicodedata.normalize("NFC", name), []), by_stem.get(_stem(name), [])
        if len(of_form) == 1:
            return folder + slash + of_form[0], OTHER_FORM
        return (folder + slash + of_stem[0], OTHER_ENDING) if len(of_stem) == 1 else None

    def _lookalikes(self, folder: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The files of a folder by composed name, and the audio files by stem; made once."""
        if folder not in self._alike:
            by_form: dict[str, list[str]] = {}
            by_stem: dict[str, list[str]] = {}
            for name in sorted(self.names(folder)):
                by_form.setdefault(unicodedata.normalize("NFC", name), []).append(name)
                if name.lower().endswith(ENDINGS):
                    by_stem.setdefault(_stem(name), []).append(name)
            self._alike[folder] = by_form, by_stem
        return self._alike[folder]


def posix_path(audio: str) -> str:
    """A path as POSIX writes it: of a `file://` address its path, of Windows' backslashes slashes."""
    if audio.lower().startswith("file://"):
        return unquote(audio[len("file://") :])
    return audio.replace("\\", "/")


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.splitext(name)[0]).casefold()


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
