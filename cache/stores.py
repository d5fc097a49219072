"""A folder of stores: the manifest, the captions and one HDF5 file a modality."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions, read_captions
from cache.digests import FileDigests
from cache.errors import StoreCorrupt, UsageError, required_library
from cache.layers import DEFAULT, LayersChoice, speech_fingerprint
from cache.manifest import Manifest, RowNames, read_manifest
from cache.reader import Store

if TYPE_CHECKING:
    from pandas import DataFrame

MANIFEST, CAPTIONS, CONFIG = "manifest.csv", "captions.jsonl", "config.yaml"
LISTED = (MANIFEST, CAPTIONS, CONFIG, "audio.h5", "acoustic.h5", "text.h5", "words.h5")  # in the folder's digests.json


def stores_digests(folder: Path) -> FileDigests:
    """The digests of a folder of stores."""
    action = "Run extract-features again: it writes it anew, and encodes no row twice."
    return FileDigests(folder, "extract-features", action)


class Stores:
    """The files that `extract-features` wrote in `folder`, each read when it is first used."""

    corpus: NDArray[np.int64] | None = None  # (N,) which of `folders` each utterance is from, where they are several

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # of several (`cache.joint`), the first
        self.folders: tuple[Path, ...] = (folder,)
        self._captions = lru_cache(1)(partial(read_captions, folder / CAPTIONS))  # once, for every view of these stores

    def __str__(self) -> str:
        return " + ".join(map(str, self.folders))

    @cached_property
    def manifest(self) -> Manifest:
        """Row i of `audio` is utterance i of it; `root` is the folder of the audio as it was at extraction."""
        return read_manifest(self.folder / MANIFEST, root=Path())

    @cached_property
    def captions(self) -> Captions:
        """Row j of `text` is `captions.texts()[j]`."""
        return self._captions()

    @cached_property
    def audio(self) -> Store:
        """One row an utterance, of which `read` gives the encoder's default vector, or what `selected` chose.

        Raises StoreCorrupt when its rows are not the manifest's.
        """
        return self._open_matching(self.folder / "audio.h5", self.manifest.id).selected()

    @cached_property
    def text(self) -> Store:
        """One row a distinct text, likewise. Its first read raises StoreCorrupt when its rows are not the captions'."""
        store = Store.open(self.folder / "text.h5")
        store.check = lambda names: self._require_same(store.path, names, self.captions.texts())  # read when rows are
        return store.selected()

    @cached_property
    def acoustic(self) -> Store | None:
        """One row an utterance, of acoustic features; None where none were extracted."""
        path = self.folder / "acoustic.h5"
        return self._open_matching(path, self.manifest.id) if path.is_file() else None

    @cached_property
    def words(self) -> Store | None:
        """One row an utterance, of its transcript; failed where it has none. None where no transcripts were read."""
        path = self.folder / "words.h5"
        known = self.manifest.transcript is not None and path.is_file()
        return self._open_matching(path, self.manifest.id).selected() if known else None

    def speech(self, *splits: str) -> NDArray[np.floating[Any]]:
        """(n, dim) vectors of the done utterances of `splits` (of all, when none is named), in manifest order."""
        rows = self.manifest.rows(*splits) if splits else np.arange(len(self.manifest))
        values, done = self.audio.read(rows)
        return values[done]

    def table(self, *splits: str) -> DataFrame:
        """A pandas DataFrame of the utterances of `speech(*splits)`, a row each, in the same order.

            table = open_stores("stores/mine").table("test")    # row, id, audio, split, emotion, ..., valence, ...

        `row` is that of the manifest. Raises UsageError without pandas.
        """
        pandas = required_library("pandas", "pandas", "a table of the stores")
        rows = self.manifest.rows(*splits) if splits else np.arange(len(self.manifest))
        rows = rows[self.audio.done(rows)]
        return pandas.DataFrame({"row": rows, **self.manifest.take(rows).columns()})

    def with_splits(self, split: Sequence[str], captions: Captions | None = None) -> Stores:
        """The same stores, opened once, with other splits: `split` is (N,), one of `SPLITS` for each manifest row.

        `captions` are those planned anew for these splits (`pipeline.data.captions.folds`); without them the stores'
        own stay. The folder is not changed. Raises UsageError for another number of rows, or captions of other texts.
        """
        if len(split) != len(self.manifest):
            found, expected = f"{len(split)} splits", f"{len(self.manifest)}, one an utterance"
            raise UsageError(self.folder, found, expected, "Pass the splits of this manifest.")
        if captions is not None and captions.texts() != self.captions.texts():
            found, expected = "captions of other texts", "the texts of these stores, in the order of text.h5"
            raise UsageError(self.folder, found, expected, "Plan the captions of these stores.")
        opened = self.captions, self.audio, self.text, self.acoustic, self.words  # once, for all views
        view = copy.copy(self)
        view.manifest = replace(self.manifest, split=list(split))
        view.captions = opened[0] if captions is None else captions
        return view

    def selected(
        self, speech: tuple[LayersChoice, str] = (DEFAULT, DEFAULT), text: tuple[LayersChoice, str] = (DEFAULT, DEFAULT)
    ) -> Stores:
        """The same stores, of which `audio` and `text` give the layers and the pooling chosen, (layers, pooling).

            stores.selected(speech=(7, "mean")).speech("test1")    # (n, 1024)

        Raises UsageError for what their rows do not hold.
        """
        chosen = self.audio.selected(*speech), self.text.selected(*text)
        view = copy.copy(self)  # after that: with the manifest and the captions, which are read once
        view.audio, view.text = chosen
        return view

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprints of the two encoders, for the vectors that are chosen."""
        audio = dict(self.audio.fingerprint)
        audio["encoder"] = speech_fingerprint(audio["encoder"], self.audio.axes, self.audio.selection)
        return {"audio": audio, "text": self.text.fingerprint}

    def _open_matching(self, path: Path, ids: list[str]) -> Store:
        store = Store.open(path)
        self._require_same(path, store.names, ids)
        store.ids = ids  # the same strings, held once
        return store

    def _require_same(self, path: Path, names: RowNames, expected: list[str]) -> None:
        try:
            same = names == RowNames.of(expected)
        except UnicodeEncodeError:  # half a character, which JSON can hold and no store does
            same = False
        if not same:
            found = "other rows than the folder's manifest and captions"
            raise StoreCorrupt(path, found, "one row each", "Run extract-features again.")


def open_stores(folder: str | Path) -> Stores:
    """Open the stores in `folder` for reading.

    Several folders with commas between them are the same utterances by several speech encoders, their vectors side by
    side (`cache.joint`). Raises UsageError when there are none, StoreCorrupt where a file is not what its digest in
    digests.json says.
    """
    if "," in str(folder) and not Path(folder).exists():
        from cache.joint import open_side_by_side

        return open_side_by_side(str(folder).split(","))
    folder = Path(folder)
    missing = [name for name in (MANIFEST, CAPTIONS, "audio.h5", "text.h5") if not (folder / name).is_file()]
    if missing:
        found = "not a folder" if folder.exists() else "no such folder"
        if folder.is_dir():
            found = f"no {' and no '.join(missing)}"
        action = "Run extract-features first, with --out naming this folder."
        raise UsageError(folder, found, "a folder of stores", action)
    digests = stores_digests(folder)
    digests.note_unlisted()
    digests.check()
    return Stores(folder)
