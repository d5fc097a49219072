"""One name for what corpora name differently: splits, genders, and the emotion categories that take part (F26)."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from cache.manifest import SPLITS, Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import UsageError

_SPLITS = {
    **{name: name for name in SPLITS},
    "training": "train",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
}
GENDERS = {"male": "male", "m": "male", "female": "female", "f": "female", "unknown": "", "": ""}


def canonical_split(name: str) -> str | None:
    """The manifest's name of a split, whatever its case: `Development` is dev. None when it is no split."""
    return _SPLITS.get(name.lower())


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the name in `known` that is nearest, or nothing when none is near."""
    return _closest(name[:60], tuple(known))


@lru_cache(maxsize=1024)  # the same slip stands on every row
def _closest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def with_categories(manifest: Manifest, config: CorpusConfig) -> Manifest:
    """The utterances of `config.keep` (all, where it is None), emotions renamed by `config.merge`; order is kept.

    Labels stay as they are; the notes say how many utterances were merged and left out. Raises UsageError for a
    category that no utterance has, and for merging into one that is not kept.
    """
    if not config.merge and config.keep is None:
        return manifest
    given = Counter(manifest.emotion)
    _refuse_unknown("corpus.merge", config.merge, given)
    emotion = [config.merge.get(name, name) for name in manifest.emotion]
    counts = Counter(emotion)
    keep = set(counts if config.keep is None else config.keep)
    _refuse_unknown("corpus.keep", config.keep or (), counts)
    _refuse_unknown("corpus.merge", config.merge.values(), keep)
    notes = [*manifest.notes, *(f"{given[old]:,} {old} utterances count as {new}" for old, new in config.merge.items())]
    dropped = [
        f"{count:,} {name or 'without an emotion'}" for name, count in sorted(counts.items()) if name not in keep
    ]
    kept = np.flatnonzero([name in keep for name in emotion])
    if dropped:
        notes.append(f"kept {len(kept):,} of {len(emotion):,} utterances; dropped {', '.join(dropped)}")
    return replace(manifest, emotion=emotion, notes=notes).take(kept)


def _refuse_unknown(setting: str, names: Collection[str], known: Collection[str]) -> None:
    there = sorted(set(known) - {""})
    unknown = [f"{name!r}{closest(name, there)}" for name in names if name not in there]
    if unknown:
        expected = f"one of {', '.join(there)}" if there else "a corpus with emotions"
        raise UsageError(setting, f"unknown {', '.join(unknown)}", expected, "Correct it.")
