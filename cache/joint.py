"""Several stores read as one: rows after each other (other utterances), or side by side (other encoders' vectors).

`cache.stores` opens them by their folders. Of several corpora ids and speakers get the name of their folder, so that
no two share one. Labels are on 1-7 in every store.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.captions import Caption, Captions
from cache.errors import UsageError
from cache.header import DONE
from cache.layers import DEFAULT, WEIGHTED, LayersChoice, Selection, speech_fingerprint
from cache.manifest import LABEL_COLUMNS, TEXT_COLUMNS, Manifest, Ratings
from cache.reader import Store


class JointStore(Store):
    """Rows of several stores of one encoder: row i is row `row[i]` of `parts[part[i]]`. Read as a `Store` is."""

    def __init__(self, parts: Sequence[Store], part: NDArray[np.int64], row: NDArray[np.int64], ids: list[str]) -> None:
        self.parts, self._part, self._row, self.ids = parts, part, row, ids
        first, self.rows = parts[0], len(part)
        self.path, self.fingerprint = first.path, first.fingerprint
        self.dim, self.selection = first.dim, first.selection
        self.axes = first.axes if all(each.axes == first.axes for each in parts) else None
        if self.axes is None and first.axes:  # a layer that lies alone in another part
            encoder = speech_fingerprint(first.fingerprint["encoder"], first.axes, first.selection)
            self.fingerprint = first.fingerprint | {"encoder": encoder}

    def selected(self, layers: LayersChoice = DEFAULT, pooling: str = DEFAULT) -> JointStore:
        """The same rows, of each of which `read` gives the columns chosen. Raises UsageError."""
        return JointStore([each.selected(layers, pooling) for each in self.parts], self._part, self._row, self.ids)

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
        """As `Store.read`, in float32."""
        values, done = np.empty((len(rows), self.dim), np.float32), np.zeros(len(rows), dtype=bool)
        for number, store in enumerate(self.parts):
            places = np.flatnonzero(self._part[rows] == number)
            if len(places):
                values[places], done[places] = store.read(self._row[rows[places]])
        return values, done

    def scan(self) -> NDArray[np.uint8]:
        """As `Store.scan`."""
        return self._gathered([store.scan() for store in self.parts])

    def column(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Entries of one dataset that has one a row."""
        return self._gathered([store.column(name) for store in self.parts])[start:stop]

    def _gathered(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """(N, ...) of each part's rows -> of these rows."""
        first = np.cumsum([0, *map(len, values[:-1])])
        return np.concatenate(values)[first[self._part] + self._row]


class SideBySide(Store):
    """One row an utterance: the vectors of several stores of the same utterances, one after the other."""

    def __init__(self, parts: Sequence[Store]) -> None:
        self.parts, first = parts, parts[0]
        self.path, self.rows, self.ids, self.axes = first.path, first.rows, first.ids, None
        self.dim = sum(each.dim for each in parts)
        self.selection = Selection((0,), self.dim)
        encoders = [speech_fingerprint(each.fingerprint["encoder"], each.axes, each.selection) for each in parts]
        self.fingerprint = first.fingerprint | {"encoder": {"encoder": "side by side", "parts": encoders}}

    def selected(self, layers: LayersChoice = DEFAULT, pooling: str = DEFAULT) -> SideBySide:
        """The same layers and pooling of each. Raises UsageError, also for weighted layers."""
        if layers == WEIGHTED:
            raise UsageError("speech.layers", "weighted, with several encoders", "numbers of layers", "List layers.")
        return SideBySide([each.selected(layers, pooling) for each in self.parts])

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
        """As `Store.read`; done are the rows that are done in all."""
        read = [each.read(rows) for each in self.parts]
        done = np.all([found for _, found in read], axis=0)
        values = np.concatenate([part.astype(np.float32, copy=False) for part, _ in read], axis=1)
        values[~done] = 0
        return values, done

    def scan(self) -> NDArray[np.uint8]:
        """As `Store.scan`: a row that is not done in all is as the first says that has it otherwise."""
        states = np.stack([each.scan() for each in self.parts])
        return np.where(
            (states == DONE).all(0), DONE, np.take_along_axis(states, (states != DONE).argmax(0)[None], 0)[0]
        )

    def column(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Entries of one dataset, of the first; of `crc` those of all, as one number a row."""
        columns = [each.column(name, start, stop) for each in self.parts]
        return np.bitwise_xor.reduce(columns) if name == "crc" else columns[0]


def joint_manifest(parts: Sequence[Manifest], names: Sequence[str]) -> Manifest:
    """The utterances of all `parts`, one part after the other; ids and speakers begin with the `names` of theirs."""
    texts = {name: [value for part in parts for value in getattr(part, name)] for name in TEXT_COLUMNS}
    of_row = [name for name, part in zip(names, parts, strict=True) for _ in range(len(part))]
    for column in ("id", "speaker"):
        texts[column] = [f"{name}/{value}" if value else "" for name, value in zip(of_row, texts[column], strict=True)]
    labels = {name: np.concatenate([getattr(part, name) for part in parts]) for name in LABEL_COLUMNS}
    ratings = None
    if any(part.ratings for part in parts):
        each = [part.ratings or Ratings.unknown(len(part)) for part in parts]
        votes = [text for one in each for text in one.votes]
        ratings = Ratings(np.concatenate([one.count for one in each]), np.concatenate([one.std for one in each]), votes)
    spoken = [text for part in parts for text in part.transcript or [""] * len(part)]
    transcript = spoken if any(part.transcript is not None for part in parts) else None
    return replace(parts[0], **texts, **labels, ratings=ratings, transcript=transcript)  # type: ignore[arg-type]


def joint_captions(parts: Sequence[Captions], counts: Sequence[int]) -> Captions:
    """The captions of all `parts`, which have `counts` utterances, and each prompt once."""
    first = np.cumsum([0, *counts[:-1]]).tolist()
    captions = [
        Caption(each.style, each.text, array("q", (row + start for row in each.rows)))
        for part, start in zip(parts, first, strict=True)
        for each in part.captions
    ]
    prompts, classes, grid = (
        dict.fromkeys(record for part in parts for record in getattr(part, name))
        for name in ("prompts", "classes", "grid")
    )
    return Captions.of(captions, prompts, classes, grid)


def joint_texts(texts: list[str], parts: Sequence[Store], texts_of_parts: Sequence[list[str]]) -> JointStore:
    """Each of `texts` as the row of the first part that has it; row j of a part is the j-th of its texts."""
    place: dict[str, tuple[int, int]] = {}
    for number, known in reversed(list(enumerate(texts_of_parts))):
        place |= {text: (number, row) for row, text in enumerate(known)}
    where = np.array([place[text] for text in texts], dtype=np.int64)
    return JointStore(parts, where[:, 0], where[:, 1], texts)
