"""One name for what corpora name differently: splits, genders, emotions, and the categories that take part (F26)."""

from __future__ import annotations

import difflib
import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from itertools import combinations

import numpy as np

from cache.manifest import SPLITS, Manifest, Ratings, votes_of, votes_text
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import UsageError

_SPLITS = {
    **{name: name for name in SPLITS},
    "training": "train",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
}
GENDERS = {"male": "male", "m": "male", "female": "female", "f": "female", "unknown": "", "": ""}  # as in MSP-Podcast


_BETWEEN_WORDS = re.compile(r"[\s_-]+")
_NEAR_EQUAL = 0.8  # difflib's ratio: suprised and surprised have .94, angry and hungry .55
_MAX_COMPARED = 200  # names: what has more is no list of categories


@cache
def _spellings() -> dict[str, str]:
    table = word_list("labels/spellings")["emotions"]
    return {spelling: name for name, spellings in table.items() for spelling in (name, *spellings)}


@cache
def _missing() -> frozenset[str]:
    return frozenset(word_list("labels/spellings")["missing"])


def one_spelling(emotion: str) -> str:
    """The canonical name of an emotion: by the table configs/labels/spellings.yaml, else in lower case.

    `Happiness`, `HAPPY` and `hap` are happy; case, spaces, hyphens and underscores are no difference.
    """
    plain = _plain(emotion)
    return _spellings().get(plain, plain)


def _plain(name: str) -> str:
    return _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFC", name).casefold()).strip()


def is_missing(value: object) -> bool:
    """Whether a table's value stands for nothing: `nan`, `None`, `NA`, `-`, `?` and the like, or a NaN of JSON."""
    if isinstance(value, str):
        return value.strip().casefold() in _missing()
    return isinstance(value, float) and math.isnan(value)


def with_one_spelling(emotions: Sequence[str]) -> tuple[list[str], list[str]]:
    """(N,) emotions, each under its canonical name; and what was read as one, and what nearly would be, as notes."""
    given = Counter(emotions)
    names = {name: sys.intern(one_spelling(name)) for name in given}
    counts: Counter[str] = Counter()
    for name, count in given.items():
        counts[names[name]] += count
    notes = []
    for kept in sorted(counts):
        spelt = ", ".join(f"{name!r} {given[name]:,}" for name in sorted(given) if names[name] == kept)
        if any(names[name] == kept != name for name in given):
            notes.append(f"emotion {kept}: {counts[kept]:,} utterances ({spelt})")
    return [names[name] for name in emotions], [*notes, *_near_equal(counts)]


def _near_equal(counts: Mapping[str, int]) -> Iterator[str]:
    """Notes on names that are nearly equal and were not read as one, with the setting that makes them one."""
    names = sorted(filter(None, counts))
    if len(names) > _MAX_COMPARED:
        return
    for one, other in combinations(names, 2):
        if difflib.SequenceMatcher(None, one, other).ratio() >= _NEAR_EQUAL:
            less, more = sorted((one, other), key=lambda name: counts[name])
            merging = f"-o corpus.merge='{{{less}: {more}}}'"
            yield (
                f"WARNING: emotions {less!r} ({counts[less]:,}) and {more!r} ({counts[more]:,}) are nearly equal and "
                f"stay two: {merging} makes them one"
            )


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
    known = set(manifest.emotion)
    merge = {_as_known(old, known): _plain(new) if _plain(new) in known else new for old, new in config.merge.items()}
    given = Counter(manifest.emotion)
    _refuse_unknown("corpus.merge", merge, given)
    emotion = [merge.get(name, name) for name in manifest.emotion]
    counts = Counter(emotion)
    wanted = [_as_known(name, set(counts)) for name in config.keep or ()]
    keep = set(counts if config.keep is None else wanted)
    _refuse_unknown("corpus.keep", wanted, counts)
    _refuse_unknown("corpus.merge", merge.values(), keep)
    notes = [*manifest.notes, *(f"{given[old]:,} {old} utterances count as {new}" for old, new in merge.items())]
    dropped = [
        f"{count:,} {name or 'without an emotion'}" for name, count in sorted(counts.items()) if name not in keep
    ]
    kept = np.flatnonzero([name in keep for name in emotion])
    if dropped:
        notes.append(f"kept {len(kept):,} of {len(emotion):,} utterances; dropped {', '.join(dropped)}")
    ratings = _with_merged_votes(manifest.ratings, merge)
    return replace(manifest, emotion=emotion, notes=notes, ratings=ratings).take(kept)


def _with_merged_votes(ratings: Ratings | None, merge: Mapping[str, str]) -> Ratings | None:
    """The same ratings, votes for a category counted as `merge` says."""
    if ratings is None:
        return None
    if unfit := [name for name in merge.values() if "|" in name]:
        raise UsageError("corpus.merge", f"{unfit[0]!r}, with votes by category", "a name without |", "Rename it.")
    merged = {}
    for text in set(ratings.votes):
        counts: Counter[str] = Counter()
        for name, count in votes_of(text).items():
            counts[merge.get(name, name)] += count
        merged[text] = votes_text(counts)
    return Ratings(ratings.count, ratings.std, [merged[text] for text in ratings.votes])


def _as_known(name: str, known: Collection[str]) -> str:
    """`name` as the manifest spells it, where a setting spells it otherwise: `Happiness` is happy."""
    return one_spelling(name) if name not in known and one_spelling(name) in known else name


def _refuse_unknown(setting: str, names: Collection[str], known: Collection[str]) -> None:
    there = sorted(set(known) - {""})
    unknown = [f"{name!r}{closest(name, there)}" for name in names if name not in there]
    if unknown:
        expected = f"one of {', '.join(there)}" if there else "a corpus with emotions"
        raise UsageError(setting, f"unknown {', '.join(unknown)}", expected, "Correct it.")
