"""Where a corpus lies: its root, its files and its label scale, or an error that says where they were looked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import CorpusConfig
from pipeline.errors import UsageError

Scale = tuple[float, float]
_WHERE_TO_POINT = "Pass the corpus folder as --audio-root or set corpus.root."


def corpus_root(config: CorpusConfig) -> Path:
    """The folder the corpus was unpacked to. Raises UsageError when it is not given or not there."""
    if config.root is None:
        raise UsageError("corpus.root", f"not given for reader {config.reader}", "the corpus folder", _WHERE_TO_POINT)
    root = Path(os.path.expanduser(config.root))
    if not os.path.isdir(root):
        raise UsageError(root, "no such folder", "the corpus folder", _WHERE_TO_POINT)
    return root


def first_existing(root: Path, names: Sequence[str], *, what: str) -> Path:
    """The first of `names` under `root` that exists. Raises UsageError that lists every path tried."""
    tried = [root / name for name in names]
    for path in tried:
        if os.path.exists(path):
            return path
    looked = ", ".join(str(path) for path in tried)
    raise UsageError(root, f"no {what}", f"one of {looked}", _WHERE_TO_POINT)


def corpus_scale(config: CorpusConfig, own: Scale) -> Scale:
    """The corpus's `own` label scale. Raises UsageError when the config explicitly says another."""
    if config.scale is not None and config.scale != own:
        found = f"{config.scale[0]:g} to {config.scale[1]:g}"
        action = f"Leave it out or set -o corpus.scale=[{own[0]:g},{own[1]:g}]."
        raise UsageError("corpus.scale", found, f"{own[0]:g} to {own[1]:g}, the scale of {config.reader}", action)
    return own
