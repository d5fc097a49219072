"""Which utterances may be hits: of the values asked for, and by default none that the heads were trained on.

A run was trained on the split `train` of the stores that run.json names. A fold has other splits than the manifest, so
its run says in TRAINED_ON which utterances it was trained on. A development set chose the epoch: it is not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.disk import write_text
from cache.manifest import Manifest, read_manifest
from cache.stores import MANIFEST, Stores
from pipeline.core.errors import ManyProblems, StoreCorrupt, UsageError
from pipeline.training.run_folder import TRAIN_AGAIN, Run, text_of

Mask = NDArray[np.bool_]

FIELDS = ("split", "speaker", "emotion")  # of a filter
ALL = "all"  # every split, as a value of a filter
MAX_VALUES_SHOWN = 8  # values of a field in an error message
TRAINED_ON = "trained_on.json"
TRAINED_SPLIT = "train"


@dataclass(frozen=True)
class Filter:
    """Which utterances may be hits: in every field that names values, those with one of these values.

    Without a split, those that the run was not trained on; the split `all` is every one.
    """

    split: Sequence[str] = ()
    speaker: Sequence[str] = ()
    emotion: Sequence[str] = ()


class UtteranceFilter:
    """The fields of N utterances as integer codes, to apply a `Filter` quickly."""

    def __init__(self, manifest: Manifest, trained: Mask | None = None, split: Sequence[str] = ()) -> None:
        """`trained` (N,): the utterances that are found only where a filter names a split, or `split` does."""
        self.trained = np.zeros(len(manifest), dtype=bool) if trained is None else trained
        self.hidden = np.zeros(len(manifest), dtype=bool) if split else self.trained
        self._code_of: dict[str, dict[str, int]] = {}
        self._codes: dict[str, NDArray[np.int64]] = {}  # (N,) each
        for name in FIELDS:
            column = getattr(manifest, name)
            self._code_of[name] = code_of = {value: code for code, value in enumerate(sorted(set(column)))}
            self._codes[name] = np.fromiter(map(code_of.__getitem__, column), np.int64, len(column))

    def allowed(self, among: Filter) -> Mask:
        """(N,) which utterances may be hits. Raises UsageError that names every value that no utterance has."""
        fits = self.fits(among)
        return fits if among.split else fits & ~self.hidden

    def fits(self, among: Filter) -> Mask:
        """(N,) which utterances have the values that `among` names, trained on or not. Raises UsageError likewise."""
        if ALL in among.split:
            among = replace(among, split=())
        self._check_values(among)
        fits = np.ones(len(self.trained), dtype=bool)
        for name, code_of in self._code_of.items():
            if values := getattr(among, name):
                fits &= np.isin(self._codes[name], [code_of[value] for value in values])
        return fits

    def _check_values(self, among: Filter) -> None:
        errors = []
        for name, code_of in self._code_of.items():
            known = [value for value in code_of if value]  # "" is an absent label
            more = f" and {len(known) - MAX_VALUES_SHOWN:,} more" if len(known) > MAX_VALUES_SHOWN else ""
            expected = f"one of {', '.join(known[:MAX_VALUES_SHOWN])}{more}" if known else f"no {name}, none is known"
            for value in getattr(among, name):
                if not value or value not in code_of:
                    close = get_close_matches(value[:60], known, n=1)
                    action = f"Did you mean {close[0]!r}?" if close else "Correct it."
                    errors.append(UsageError(f"{name} {value!r}", "not in the stores", expected, action))
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ManyProblems("the filter", list(map(str, errors)), "Correct these values.")


def write_trained_on(run: Run, view: Stores) -> None:
    """Write which utterances `run` was trained on in `view`, stores with other splits than their manifest's."""
    ids = [view.manifest.id[row] for row in view.manifest.rows(TRAINED_SPLIT).tolist()]
    write_text(run.folder / TRAINED_ON, json.dumps({"data": run.about["data"], "ids": ids}) + "\n")


def trained_on(run: Run, stores: Stores) -> Mask:
    """(N,) which utterances of `stores` the heads of `run` were trained on.

    In other stores than those that run.json names, the utterances of the same id and path of audio. Where those are
    gone, `stores` stand for them. Raises StoreCorrupt.
    """
    about = run.about
    named = [about["stores"]] if isinstance(about["stores"], str) else about["stores"]
    own, searched = [Path(folder) for each in named for folder in each.split(",")], stores.manifest
    there = [folder for folder in own if (folder / MANIFEST).is_file()]
    ids = _ids_of_fold(run, about["data"])
    if stores.folder.resolve() in own or not there:
        return _trained_rows(searched, ids, stores.folder if len(named) > 1 else None)
    seen = set()
    for folder in there:
        manifest = read_manifest(folder / MANIFEST, root=Path())
        trained = _trained_rows(manifest, ids, folder if len(named) > 1 else None)
        seen |= {(manifest.id[row], manifest.audio[row]) for row in np.flatnonzero(trained).tolist()}
    return np.fromiter((key in seen for key in zip(searched.id, searched.audio, strict=True)), bool, len(searched))


def _trained_rows(manifest: Manifest, ids: set[str] | None, corpus: Path | None) -> Mask:
    """(N,) the training split, or in a fold the utterances of `ids`, which one `corpus` of several stands before."""
    names, trained = manifest.split, {TRAINED_SPLIT}
    if ids is not None:
        prefix = f"{corpus.resolve().name}/" if corpus else ""
        names, trained = manifest.id, {name.removeprefix(prefix) for name in ids}
    return np.fromiter((name in trained for name in names), bool, len(manifest))


def _ids_of_fold(run: Run, data: str) -> set[str] | None:
    """The ids of TRAINED_ON; None where there is none, or where the folder was trained again on other data."""
    path = run.folder / TRAINED_ON
    if not path.is_file():
        return None
    try:
        found = json.loads(text_of(path))
        return set(map(str, found["ids"])) if found["data"] == data else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreCorrupt(path, f"cannot be read ({error})", "what compare-methods wrote", TRAIN_AGAIN) from None
