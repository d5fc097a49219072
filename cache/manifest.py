"""The manifest: row i of every store is utterance i of this table, for ever.

Held by column, so that two million rows fit in memory; stored as plain CSV (`manifest.csv` in the stores'
folder), which is itself a manifest that `extract-features` reads.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import StoreCorrupt

TEXT_COLUMNS = ("id", "audio", "split", "emotion", "speaker", "gender", "intensity", "caption")
LABEL_COLUMNS = ("valence", "arousal", "dominance")
SPLITS = ("train", "dev", "test", "test1", "test2", "test3")


@dataclass(frozen=True)
class Manifest:
    """N utterances by column. Absent text is `""`, an absent label NaN. Labels are on the 1-7 scale (F10).

    `audio` paths are relative to `root` (or absolute); `split` is one of `SPLITS`.
    """

    root: Path
    id: list[str]
    audio: list[str]
    split: list[str]
    valence: NDArray[np.float64]  # (N,) 1 negative .. 7 positive
    arousal: NDArray[np.float64]  # (N,) 1 calm .. 7 active
    dominance: NDArray[np.float64]  # (N,) 1 weak .. 7 strong
    emotion: list[str]
    speaker: list[str]
    gender: list[str]
    intensity: list[str]
    caption: list[str]
    notes: list[str] = field(default_factory=list, compare=False)  # what the reader did, to be said aloud

    def __len__(self) -> int:
        return len(self.id)

    def path(self, row: int) -> Path:
        """Where the audio of `row` lies."""
        return self.root / self.audio[row]

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Row numbers of the utterances in `splits`, ascending."""
        return np.flatnonzero(np.isin(np.asarray(self.split), splits))

    def take(self, rows: NDArray[np.int64]) -> Manifest:
        """The utterances of `rows`, in that order."""
        chosen = rows.tolist()
        texts = {name: [getattr(self, name)[row] for row in chosen] for name in TEXT_COLUMNS}
        labels = {name: getattr(self, name)[rows] for name in LABEL_COLUMNS}
        return replace(self, **texts, **labels)  # type: ignore[arg-type]

    def head(self, count: int) -> Manifest:
        """The first `count` utterances."""
        return self.take(np.arange(min(count, len(self))))


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest` as CSV, whole or not at all. The root is not in it (paths are relative to it)."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*TEXT_COLUMNS, *LABEL_COLUMNS))
        texts = [getattr(manifest, name) for name in TEXT_COLUMNS]
        labels = [_printed(getattr(manifest, name)) for name in LABEL_COLUMNS]
        writer.writerows(zip(*texts, *labels, strict=True))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_manifest(path: Path, root: Path) -> Manifest:
    """Read what `write_manifest` wrote (stage one validates foreign manifests; this file is our own).

    Raises StoreCorrupt when the file is missing or was edited into something else.
    """
    columns: dict[str, list[str]] = {name: [] for name in (*TEXT_COLUMNS, *LABEL_COLUMNS)}
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.reader(file)
            if next(reader, None) != list(columns):
                raise ValueError("another header")
            for name, values in zip(columns, zip(*reader, strict=True), strict=False):
                columns[name] = list(values)
        labels = {name: np.array([float(v) if v else np.nan for v in columns.pop(name)]) for name in LABEL_COLUMNS}
    except (OSError, ValueError) as error:
        raise StoreCorrupt(
            path, f"cannot be read ({error})", "the manifest that extract-features wrote", "Run extract-features again."
        ) from None
    return Manifest(root=root, **columns, **labels)  # type: ignore[arg-type]


def _printed(values: NDArray[np.float64]) -> Iterator[str]:
    return ("" if np.isnan(value) else repr(float(value)) for value in values)
