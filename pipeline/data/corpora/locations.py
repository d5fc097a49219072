"""Where a corpus lies: the folder it was unpacked to, and the first of several files or folders in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.config import CorpusConfig
from pipeline.core.errors import UsageError

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
        raise UsageError(root, f"no {what}", f"one of {', '.join(map(str, tried))}", _WHERE_TO_POINT)
    return path
