"""Acted corpora whose labels are their file names: RAVDESS, EmoDB, CREMA-D, TESS (naming.py).

Every .wav and .flac under the root is a clip of the corpus, in the order of its path, and a name that does not fit is
an error. What is clearly no part of it is passed over: hidden files and folders (`._x.wav`, `.git`) and `__MACOSX`.
Links to folders are not followed. A folder that holds another's clips again, as in some mirrors of TESS, is one error,
however many clips it holds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cache.manifest import Manifest
from pipeline.config import CorpusConfig
from pipeline.corpora.builder import ManifestBuilder
from pipeline.corpora.circumplex import NOMINAL_SCALE, NOTE, nominal
from pipeline.corpora.naming import NAMINGS, Naming
from pipeline.corpora.places import corpus_root, corpus_scale
from pipeline.errors import UsageError

_ENDINGS = (".wav", ".flac")


def read_acted(config: CorpusConfig) -> Manifest:
    """The clips under `config.root`, with nominal valence and arousal (circumplex.py) and speaker-disjoint splits.

    Raises ManyProblems with every name that does not fit the convention and every folder that is another's copy,
    UsageError when there is no clip at all.
    """
    root, naming = corpus_root(config), NAMINGS[config.reader]
    scale = corpus_scale(config, NOMINAL_SCALE)
    builder = ManifestBuilder(root, scale, missing_audio=config.missing_audio, source=root)
    clips = sorted(_clips(root))
    if not clips:
        found = f"no {' or '.join(_ENDINGS)} file in it or below"
        raise UsageError(root, found, f"{naming.name}, as in {naming.example}", "Pass another --audio-root.")
    once = _without_copies(builder, root, clips)
    unused = sum(not _add(builder, root / clip, clip, naming) for clip in once)
    dropped = [f"dropped {unused:,} clips of {naming.unused}"] if unused else []
    return builder.build([*dropped, NOTE])


def _add(builder: ManifestBuilder, file: Path, clip: str, naming: Naming) -> bool:
    """Add one clip or the problem with its name; False when it is none of the speech."""
    match = naming.pattern.fullmatch(file.stem)
    if match is None:
        builder.problem(0, file, f"no name of {naming.name}; expected one like {naming.example}")
        return True
    labels = naming.read(match)
    if labels is None:
        return False
    valence, arousal = nominal(str(labels["emotion"]), str(labels.get("intensity", "")))
    builder.add(0, file, id=file.stem, audio=clip, valence=valence, arousal=arousal, **labels)
    return True


def _without_copies(builder: ManifestBuilder, root: Path, clips: list[str]) -> list[str]:
    """The clips that lie in no other folder too; each pair of folders that share clips is a problem."""
    first: dict[str, Path] = {}  # by name without ending
    shared: Counter[tuple[str, str]] = Counter()
    once = []
    for clip in clips:
        path = Path(clip)
        known = first.setdefault(path.stem, path)
        if known.parent == path.parent:
            once.append(clip)
        else:
            shared[_copied(known.parent.parts, path.parent.parts)] += 1
    for (one, other), count in shared.items():
        found = f"{count:,} of its clips lie in {root / one} too"
        builder.problem(0, root / other, f"{found}; expected each clip once (pass one copy as --audio-root)")
    return once


def _copied(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, str]:
    """Two folders that share a clip, less what their paths end alike in; an outer folder before what is inside it."""
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    first, second = sorted(("/".join(one), "/".join(other)))
    return first, second


def _clips(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        inside = os.path.relpath(folder, root)
        for name in names:
            if name.lower().endswith(_ENDINGS) and not name.startswith("."):
                yield os.path.normpath(os.path.join(inside, name))
