"""Which utterances a search may find: by split, speaker and emotion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.manifest import Manifest
from pipeline.corpora.spelling import closest
from pipeline.errors import UsageError

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
_FIELDS = ("split", "speaker", "emotion")
_NAMED = 8  # values of a field that an error lists


@dataclass(frozen=True)
class Filter:
    """Which utterances may be hits: those of any of the values named, in every field that names some."""

    split: Sequence[str] = ()
    speaker: Sequence[str] = ()
    emotion: Sequence[str] = ()


class Columns:
    """The fields of N utterances that a `Filter` speaks of, as numbers."""

    def __init__(self, manifest: Manifest) -> None:
        self._code_of: dict[str, dict[str, int]] = {}
        self._codes: dict[str, Rows] = {}  # (N,) each
        for name in _FIELDS:
            column = getattr(manifest, name)
            self._code_of[name] = code_of = {value: code for code, value in enumerate(sorted(set(column)))}
            self._codes[name] = np.fromiter(map(code_of.__getitem__, column), np.int64, len(column))

    def allowed(self, among: Filter) -> Mask:
        """(N,) which utterances fit. Raises UsageError that names every value that no utterance has."""
        self._refuse_unknown(among)
        fits = np.ones(len(self._codes["split"]), dtype=bool)
        for name, code_of in self._code_of.items():
            if wanted := getattr(among, name):
                chosen = np.zeros(len(code_of), dtype=bool)
                chosen[[code_of[value] for value in wanted]] = True
                fits &= chosen[self._codes[name]]
        return fits

    def _refuse_unknown(self, among: Filter) -> None:
        unknown: dict[str, str] = {}
        for name, code_of in self._code_of.items():
            known = [value for value in code_of if value]  # absent is "", which is no name
            wrong = [value for value in getattr(among, name) if not value or value not in code_of]
            if slips := [f"{name} {value!r}{closest(value, known)}" for value in wrong]:
                more = f" and {len(known) - _NAMED:,} more" if len(known) > _NAMED else ""
                unknown[", ".join(slips)] = f"{name} one of {', '.join(known[:_NAMED]) or '(none is known)'}{more}"
        if unknown:
            raise UsageError("the filter", f"unknown {'; '.join(unknown)}", "; ".join(unknown.values()), "Correct it.")
