"""Cross-validation folds in which no speaker is on both sides (F26): by session for IEMOCAP, by speaker for the rest.

The development set of a fold is what the next fold tests, so it is made of training speakers' data and never of the
fold's test speakers. It serves to pick an epoch or a setting, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.manifest import Manifest
from pipeline.core.errors import UsageError

_Rows = NDArray[np.int64]
MIN_FOLDS = 3
_PARTS = "one to test, one for development, one to train on"
_SESSION = re.compile(r"Ses\d\d")  # of the speaker Ses01F, or the turn Ses01F_impro01_F000 (F31)


class Fold(NamedTuple):
    """Manifest rows of one fold, ascending; the three parts are disjoint and together are the whole manifest."""

    name: str
    train: _Rows
    dev: _Rows
    test: _Rows

    def splits(self) -> list[str]:
        """(N,) train, dev or test for each manifest row."""
        split = np.empty(sum(map(len, (self.train, self.dev, self.test))), dtype=object)
        split[self.train], split[self.dev], split[self.test] = "train", "dev", "test"
        return list(split)


def session_folds(manifest: Manifest) -> list[Fold]:
    """Leave one session out (F26): fold k tests session k, develops on the next one (the last: on the first).

    A session is both its speakers with all their dialogues. It is read from the speaker, or from the id where there is
    none. Raises UsageError for an utterance without one, or fewer than three sessions.
    """
    matches = [_SESSION.match(speaker or name) for speaker, name in zip(manifest.speaker, manifest.id, strict=True)]
    without = [manifest.id[row] for row, match in enumerate(matches) if match is None]
    if without:
        raise UsageError(
            "--folds session",
            f"{len(without)} utterances have no session, the first {without[0]}",
            "speakers or ids such as Ses01F, as in IEMOCAP",
            "Use --folds speaker for another corpus.",
        )
    names, part = np.unique([match[0] for match in matches if match], return_inverse=True)
    _refuse_few("--folds session", len(names), "sessions")
    return _folds(names.tolist(), part)


def speaker_folds(manifest: Manifest, *, folds: int, seed: int = 0) -> list[Fold]:
    """`folds` folds of whole speakers, as equal in utterances as taking the largest speaker first makes them.

    Every utterance is tested once. `seed` decides between speakers of equal size. Raises UsageError for utterances
    without a speaker (they might be anyone's, a test speaker's too), fewer speakers than folds, or fewer than three
    folds.
    """
    if folds < MIN_FOLDS:
        action = f"Use --folds {MIN_FOLDS} or more, or leave --folds out."
        raise UsageError(f"--folds {folds}", "too few folds", f"at least {MIN_FOLDS}: {_PARTS}", action)
    _refuse_unknown(manifest)
    speakers, speaker_of, sizes = np.unique(
        np.array(manifest.speaker, dtype=object), return_inverse=True, return_counts=True
    )
    _refuse_few(f"--folds {folds}", len(speakers), "speakers")
    if len(speakers) < folds:
        found, expected = f"the corpus has {len(speakers)} speakers", f"at most {len(speakers)} folds"
        raise UsageError(f"--folds {folds}", found, expected, "Lower --folds.")
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    filled = np.zeros(folds, dtype=np.int64)
    fold_of = np.empty(len(sizes), dtype=np.int64)
    for speaker in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:  # the largest left, to the emptiest fold
        fold_of[speaker] = filled.argmin()
        filled[fold_of[speaker]] += sizes[speaker]
    return _folds(_numbered(folds), fold_of[speaker_of])


def leave_one_speaker_out(manifest: Manifest) -> list[Fold]:
    """A fold for each speaker, in the order of their names; fold k develops on the next speaker (the last: the first).

    Folds are numbered, since a speaker's name may be no name of a folder. Raises UsageError for utterances without a
    speaker, or fewer than three speakers.
    """
    _refuse_unknown(manifest)
    names, part = np.unique(np.array(manifest.speaker, dtype=object), return_inverse=True)
    _refuse_few("--folds speaker", len(names), "speakers")
    return _folds(_numbered(len(names)), part)


def resampling_ratio(folds: Sequence[Fold]) -> float:
    """n_test / n_train over all folds; the development rows count on neither side."""
    return sum(len(fold.test) for fold in folds) / sum(len(fold.train) for fold in folds)


def _numbered(folds: int) -> list[str]:
    digits = len(str(folds))
    return [f"fold{k:0{digits}}" for k in range(1, folds + 1)]


def _refuse_unknown(manifest: Manifest) -> None:
    unknown = manifest.speaker.count("")
    if unknown:
        raise UsageError(
            "folds by speaker",
            f"{unknown} of {len(manifest)} utterances have no speaker",
            "one for each, since an unknown speaker may be one that is tested",
            "Give each a speaker in the manifest, or leave those utterances out of it.",
        )


def _folds(names: Sequence[str], part: _Rows) -> list[Fold]:
    """Fold k tests the rows of part k and develops on those of the next part."""
    folds = []
    for test, name in enumerate(names):
        dev = (test + 1) % len(names)
        train = np.flatnonzero((part != test) & (part != dev))
        folds.append(Fold(name, train, np.flatnonzero(part == dev), np.flatnonzero(part == test)))
    return folds


def _refuse_few(subject: str, count: int, what: str) -> None:
    if count < MIN_FOLDS:
        found, expected = f"the corpus has {count} {what}", f"at least {MIN_FOLDS}: {_PARTS}"
        raise UsageError(subject, found, expected, "Leave --folds out, which uses the manifest's own splits.")
