"""Which utterances a search may find: by split, speaker and emotion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.manifest import Manifest
from cache.reader import Store
from pipeline.core.errors import UsageError
from pipeline.core.progress import Meter
from pipeline.data.corpora.label_names import closest

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


class UtteranceFilter:
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


Vectors = NDArray[np.float32]
_ROWS = 8192  # of a store projected at once: what they take comes and goes beside the index
_TOGETHER = 16  # vectors asked in one product: their similarities take 10 MB at 150,000 rows


@dataclass(frozen=True)
class NearestNeighbours:
    """Rows of a store as heads embed them, normalised once; rows without a vector or a direction are not here."""

    rows: Rows  # (n,) ascending
    vectors: Vectors  # (n, width) of length 1

    def nearest(self, asked: Vectors, top: int, allowed: Mask | None = None) -> list[list[tuple[int, float]]]:
        """The `top` rows nearest to each of `asked` (q, width), as (row, cosine): nearest first, of equals the lower.

        `allowed` (N,) says which rows of the store may be hits. The products are float32, the cosines and the order
        float64, so they do not depend on what else is asked or how many cores there are. A vector without a direction
        has no hits. Raises UsageError for a `top` below 1.
        """
        if top < 1:
            raise UsageError(f"top {top}", "no hits asked for", "1 or more", "Ask for more.")
        places = np.arange(len(self.rows)) if allowed is None else np.flatnonzero(allowed[self.rows])
        if not len(places):
            return [[] for _ in asked]
        found = []
        for start in range(0, len(asked), _TOGETHER):
            part = asked[start : start + _TOGETHER]
            rough = part @ self.vectors.T  # (q, n)
            found += [self._best(one, near[places], places, top) for one, near in zip(part, rough, strict=True)]
        return found

    def _best(self, asked: Vectors, rough: Vectors, places: Rows, top: int) -> list[tuple[int, float]]:
        if not is_normalised(asked[None])[0]:
            return []
        if top < len(places):
            # a float32 product of unit vectors is wrong by width * 2^-24 at most, of this row and of the top-th
            least = np.partition(rough, -top)[-top] - 2 * (len(asked) + 2) * np.float32(2**-24)
            places = places[rough >= least]
        exact = self._cosines(asked.astype(np.float64), places)
        order = np.argsort(-exact, kind="stable")[:top]
        return list(zip(self.rows[places[order]].tolist(), exact[order].tolist(), strict=True))

    def _cosines(self, asked: NDArray[np.float64], places: Rows) -> NDArray[np.float64]:
        """(m,) float64; each is summed by itself, so that equal rows are equal to the last bit."""
        parts = (places[start : start + _ROWS] for start in range(0, len(places), _ROWS))
        return np.concatenate([(self.vectors[part] * asked).sum(axis=1) for part in parts])


def embed_rows(store: Store, rows: Rows, embed: Callable[[Tensor], Vectors]) -> NearestNeighbours:
    """The done ones of `rows`, ascending, by `embed` ((n, width of the store) -> (n, width)), a block at a time."""
    kept = np.zeros(len(rows), dtype=bool)
    vectors, filled = np.empty((0, 0), np.float32), 0
    with Meter("load", len(rows), unit="rows") as meter:
        for start in range(0, len(rows), _ROWS):
            read, done = store.read(rows[start : start + _ROWS])
            block = embed(torch.from_numpy(read.astype(np.float32, copy=False)))
            if not start:  # whole: parts joined at the end would take twice the memory
                vectors = np.empty((len(rows), block.shape[1]), np.float32)
            usable = kept[start : start + _ROWS] = done & is_normalised(block)
            vectors[filled : (filled := filled + int(usable.sum()))] = block[usable]
            meter.advance(len(read))
    return NearestNeighbours(rows[kept], vectors[:filled])


def is_normalised(vectors: Vectors) -> Mask:
    """(n,) which rows have a direction: heads give zeros where no unit fires (F7), and NaN for what overflows."""
    return np.asarray(np.isclose(np.einsum("nw,nw->n", vectors, vectors), 1, atol=0.01))
