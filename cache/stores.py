"""A folder of stores: the manifest, the captions and one HDF5 file a modality; and several folders as one.

stores = stores_named(["stores/msp", "stores/iemocap"])  # each distinct text once
stores = open_stores("stores/wavlm,stores/whisper")      # the same utterances
"""

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
from cache.errors import StoreCorrupt, StoreMismatch, UsageError, required_library
from cache.fingerprint import describe_encoders, differences
from cache.joint import JointStore, SideBySide, joint_captions, joint_manifest, joint_texts
from cache.layers import DEFAULT, LayersChoice, speech_fingerprint
from cache.manifest import LABEL_COLUMNS, Manifest, RowNames, read_manifest
from cache.reader import Store

if TYPE_CHECKING:
    from pandas import DataFrame

MANIFEST, CAPTIONS, CONFIG = "manifest.csv", "captions.jsonl", "config.yaml"
LISTED = (MANIFEST, CAPTIONS, CONFIG, "audio.h5", "acoustic.h5", "text.h5", "words.h5")  # in the folder's digests.json


def stores_digests(folder: Path) -> FileDigests:
    """The digests of a folder of stores."""
    action = "Restore it, or run extract-features again: it rewrites the file, and re-encodes no complete row."
    return FileDigests(folder, "extract-features", action)


class Stores:
    """The files that `extract-features` wrote in `folder`, each read when it is first used."""

    corpus: NDArray[np.int64] | None = None  # (N,) which of `folders` each utterance is from, where they are several

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # of several, the first
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

    def read_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
        """(n, dim) vectors of `texts`, which are among those of the captions, and which of them are done."""
        row_of = {text: row for row, text in enumerate(self.captions.texts())}
        return self.text.read(np.array([row_of[text] for text in texts], dtype=np.int64))

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
            found, expected = f"{len(split)} splits", f"{len(self.manifest)}, one per utterance"
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
            raise StoreCorrupt(path, found, "one row for each of their entries", "Run extract-features again.")


def open_stores(folder: str | Path) -> Stores:
    """Open the stores in `folder` for reading.

    Several folders with commas between them are the same utterances by several speech encoders, their vectors side by
    side. Raises UsageError when there are none, StoreCorrupt where a file is not what its digest in digests.json says.
    """
    if "," in str(folder) and not Path(folder).exists():
        return open_side_by_side(str(folder).split(","))
    folder = Path(folder)
    missing = [name for name in (MANIFEST, CAPTIONS, "audio.h5", "text.h5") if not (folder / name).is_file()]
    if missing:
        found = "not a folder" if folder.exists() else "no such folder"
        action = "Run extract-features first, with --out naming this folder."
        if folder.is_dir():
            *others, last = missing
            found = f"{', '.join(others)} and {last} are missing" if others else f"{last} is missing"
            action = "Run extract-features with this --out, restore what is missing, or pass another folder."
        raise UsageError(folder, found, "a folder of stores", action)
    digests = stores_digests(folder)
    digests.note_unlisted()
    digests.check()
    return Stores(folder)


def open_side_by_side(folders: Sequence[str | Path]) -> Stores:
    """The stores in `folders`, of the same utterances by different speech encoders, as one; texts are the first's.

    Raises UsageError where there are none, or of other utterances, splits or labels.
    """
    parts = [open_stores(folder) for folder in folders]
    for part in parts[1:]:
        refuse_other_utterances(parts[0], part)
    view = copy.copy(parts[0])
    view.folders = (Path(",".join(str(part.folder.resolve()) for part in parts)),)
    view.audio = SideBySide([part.audio for part in parts])
    return view


def refuse_other_utterances(first: Stores, other: Stores) -> None:
    """Raises UsageError where `other` are not of the utterances, splits and labels of `first`."""
    one, two = first.manifest, other.manifest
    labels = all(np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True) for name in LABEL_COLUMNS)
    if one.id != two.id or one.split != two.split or not labels:
        found = f"other utterances, splits or labels than {first.folder} has"
        raise UsageError(other.folder, found, "the same corpus by another encoder", "Extract the same manifest.")


def open_joint(folders: Sequence[str | Path | Stores]) -> Stores:
    """The stores in `folders` as one, for training and all that reads them; of one folder, these.

    Raises UsageError where there are none, or two are the same, StoreMismatch where their encoders differ.
    """
    parts = [each if isinstance(each, Stores) else open_stores(each) for each in folders]
    if len(parts) == 1:
        return parts[0]
    if len({part.folder.resolve() for part in parts}) < len(parts):
        raise UsageError(parts[-1].folder, "given twice", "different folders of stores", "Pass each once.")
    for part in parts[1:]:
        if fields := differences(parts[0].fingerprint(), part.fingerprint()):
            found = describe_encoders(fields, "the first stores have", "these")
            action = "Extract one with the other's encoders; for the same utterances write A,B, or use --encoders."
            raise StoreMismatch(part.folder, found, "the same encoders", action)
    names = _names([part.folder for part in parts])
    counts = [len(part.manifest) for part in parts]
    joint = Stores(parts[0].folder)
    joint.folders = tuple(folder for part in parts for folder in part.folders)
    joint.manifest = joint_manifest([part.manifest for part in parts], names)
    joint.captions = joint_captions([part.captions for part in parts], counts)
    joint.corpus = np.repeat(np.arange(len(parts)), counts)
    row = np.concatenate([np.arange(count) for count in counts])
    over = partial(JointStore, part=joint.corpus, row=row, ids=joint.manifest.id)
    joint.audio = over([part.audio for part in parts])
    for name in ("acoustic", "words"):
        stores = [store for part in parts if (store := getattr(part, name)) is not None]
        setattr(joint, name, over(stores) if len(stores) == len(parts) else None)
    texts_of_parts = [part.captions.texts() for part in parts]
    joint.text = joint_texts(joint.captions.texts(), [part.text for part in parts], texts_of_parts)
    return joint


def stores_named(stores: Stores | str | Path | Sequence[str | Path]) -> Stores:
    """What a function is given as `stores`: these, a folder's, or those of several folders as one."""
    if isinstance(stores, Stores):
        return stores
    return open_joint([stores] if isinstance(stores, str | Path) else list(stores))


def _names(folders: Sequence[Path]) -> list[str]:
    """A name for each, none twice."""
    names: list[str] = []
    for folder in folders:
        name = folder.resolve().name
        names.append(f"{name}-{len(names) + 1}" if name in names else name)
    return names
