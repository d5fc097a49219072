"""Where a corpus lies: the folder it was unpacked to, and the first of several files or folders in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.config import CorpusConfig
from pipeline.core.errors import UsageError

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
