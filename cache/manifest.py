"""The manifest, N utterances by column, and its CSV; and the names of a store's rows, in one buffer of UTF-8.

The CSV is read and written by hand, a block of rows at a time: millions of rows, without a data frame of objects.
"""

from __future__ import annotations

import csv
import io
import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.disk import write_atomic
from cache.errors import StoreCorrupt


class RowNames:
    """(N,) names. Name i is `data[offsets[i]:offsets[i + 1]]`; bytes that are not UTF-8 are surrogates in a string."""

    def __init__(self, data: bytes, offsets: NDArray[np.int64]) -> None:
        """`offsets` is (N + 1,). Raises ValueError when they do not split `data` into names."""
        if not offsets.size or offsets[0] != 0 or offsets[-1] != len(data) or np.any(np.diff(offsets) < 0):
            raise ValueError("names out of order")
        self.data, self.offsets = data, offsets

    @classmethod
    def of(cls, texts: Sequence[str]) -> RowNames:
        """The names `texts`."""
        data = "".join(texts).encode("utf-8", "surrogateescape")
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        if sizes.sum() != len(data):  # not ASCII: characters are not bytes
            encoded = (len(text.encode("utf-8", "surrogateescape")) for text in texts)
            sizes = np.fromiter(encoded, np.int64, len(texts))
        return cls(data, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.offsets[row] : self.offsets[row + 1]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowNames) and self.data == other.data and np.array_equal(self.offsets, other.offsets)

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The names of `rows`, in that order."""
        ends = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
        return [self.data[start:stop] for start, stop in ends]

    def texts(self) -> list[str]:
        """Every name as a string."""
        cuts = itertools.pairwise(self.offsets.tolist())
        if self.data.isascii():  # decoded in one go: twice as fast
            text = self.data.decode("ascii")
            return [text[start:stop] for start, stop in cuts]
        return [self.data[start:stop].decode("utf-8", "surrogateescape") for start, stop in cuts]


TEXT_COLUMNS = ("id", "audio", "split", "emotion", "speaker", "gender", "intensity", "caption")
LABEL_COLUMNS = ("valence", "arousal", "dominance")
RATING_COLUMNS = ("ratings", "valence_std", "arousal_std", "dominance_std", "votes")  # where the raters are known
TRANSCRIPT = "transcript"  # the last column, where any utterance has one
SPLITS = ("train", "dev", "test", "test1", "test2", "test3")
_CATEGORIES = ("split", "emotion", "speaker", "gender", "intensity", "votes")  # few values on many rows: kept once
_BLOCK_ROWS = 512  # held as lists at once: too few to trigger the garbage collector, which walks all columns


def votes_of(text: str) -> dict[str, int]:
    """Raters by category, of a text like `happy:3|neutral:2`. Raises ValueError where it is none."""
    votes: dict[str, int] = {}
    for part in text.split("|") if text else ():
        name, _, count = part.rpartition(":")
        if not name.strip() or not (count.isascii() and count.isdecimal() and int(count)) or name.strip() in votes:
            raise ValueError(f"votes {text[:60]!r}")
        votes[name.strip()] = int(count)
    return votes


def votes_text(votes: Mapping[str, int]) -> str:
    """`votes` as text, the most first."""
    ordered = sorted(votes.items(), key=lambda item: (-item[1], item[0]))
    return "|".join(f"{name}:{count}" for name, count in ordered)


@dataclass(frozen=True)
class Ratings:
    """What the raters of N utterances said, beside their mean, which is the label. On the 1-7 scale."""

    count: NDArray[np.int64]  # (N,) raters of valence, arousal and dominance; 0 where unknown
    std: NDArray[np.float64]  # (N, 3) over these raters, of a sample (n - 1), as `LABEL_COLUMNS`; NaN where unknown
    votes: list[str]  # raters by category (`votes_of`); "" where unknown

    @classmethod
    def unknown(cls, count: int) -> Ratings:
        """Of `count` utterances whose raters are not known."""
        return cls(np.zeros(count, np.int64), np.full((count, len(LABEL_COLUMNS)), nan), [""] * count)

    def standard_error(self) -> NDArray[np.float64]:
        """(N, 3) of the labels, the raters' means: std / sqrt(n); NaN where unknown."""
        return self.std / np.sqrt(np.where(self.count > 0, self.count, nan))[:, None]

    def take(self, rows: NDArray[np.int64]) -> Ratings:
        """Those of `rows`, in that order."""
        return Ratings(self.count[rows], self.std[rows], [self.votes[row] for row in rows.tolist()])


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
    notes: list[str] = field(default_factory=list, compare=False)  # what the reader did, to be logged
    leaks: list[str] = field(default_factory=list, compare=False)  # what stands in more than one split
    ratings: Ratings | None = None  # None where no rater is known
    transcript: list[str] | None = None  # the words that are spoken, "" where unknown; None where nobody's are read

    def __len__(self) -> int:
        return len(self.id)

    def path(self, row: int) -> Path:
        """The audio file of `row`."""
        return self.root / self.audio[row]

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Row numbers of the utterances in `splits`, ascending."""
        wanted = frozenset(splits)
        return np.flatnonzero(np.fromiter((split in wanted for split in self.split), bool, len(self)))

    def take(self, rows: NDArray[np.int64]) -> Manifest:
        """The utterances of `rows`, in that order."""
        chosen = rows.tolist()
        texts = {name: [getattr(self, name)[row] for row in chosen] for name in TEXT_COLUMNS}
        labels = {name: getattr(self, name)[rows] for name in LABEL_COLUMNS}
        ratings = self.ratings and self.ratings.take(rows)
        words = self.transcript and [self.transcript[row] for row in chosen]
        return replace(self, **texts, **labels, ratings=ratings, transcript=words)  # type: ignore[arg-type]

    def columns(self) -> dict[str, list[str] | NDArray[Any]]:
        """Every column by its name in the CSV; of raters and words where there are any."""
        found: dict[str, list[str] | NDArray[Any]] = {
            name: getattr(self, name) for name in (*TEXT_COLUMNS, *LABEL_COLUMNS)
        }
        if self.ratings is not None:
            values = (self.ratings.count, *self.ratings.std.T, self.ratings.votes)
            found |= dict(zip(RATING_COLUMNS, values, strict=True))
        return found if self.transcript is None else found | {TRANSCRIPT: self.transcript}

    def head(self, count: int) -> Manifest:
        """The first `count` utterances."""
        return self.take(np.arange(min(count, len(self))))


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest` as CSV, whole or not at all. The root is not in it (paths are relative to it)."""
    write_atomic(path, _csv_blocks(manifest))


def continues(manifest: Manifest, path: Path) -> bool:
    """Whether the file at `path` is the beginning of what `write_manifest` writes: no row of it changed or moved."""
    return b"".join(_csv_blocks(manifest)).startswith(path.read_bytes())


def read_manifest(path: Path, root: Path) -> Manifest:
    """Read what `write_manifest` wrote; a user's manifest is read and validated by stage one.

    Raises StoreCorrupt when the file is missing or was edited into something else: another header, an unknown split, a
    label outside 1-7, an id twice.
    """
    texts: dict[str, list[str]] = {name: [] for name in TEXT_COLUMNS}
    numbers: dict[str, array[float]] = {name: array("d") for name in LABEL_COLUMNS}
    kept: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.reader(file)
            header = next(reader, None) or []
            if header[-1:] == [TRANSCRIPT]:
                texts[TRANSCRIPT] = []
            named = header[: len(header) - (TRANSCRIPT in texts)]
            if named == [*TEXT_COLUMNS, *LABEL_COLUMNS, *RATING_COLUMNS]:
                numbers |= {name: array("d") for name in RATING_COLUMNS[:-1]}
                texts["votes"] = []
            elif named != [*TEXT_COLUMNS, *LABEL_COLUMNS]:
                raise ValueError("another header")
            while rows := list(islice(reader, _BLOCK_ROWS)):
                columns = dict(zip(header, zip(*rows, strict=True), strict=True))
                for name, column in texts.items():
                    values = columns[name]
                    column += map(kept.setdefault, values, values) if name in _CATEGORIES else values
                for name, entries in numbers.items():
                    value_of = {text: float(text) if text else nan for text in set(columns[name])}
                    entries.extend(map(value_of.__getitem__, columns[name]))
        ratings = _read_ratings(texts.pop("votes"), numbers) if "votes" in texts else None
    except (OSError, ValueError, csv.Error) as error:
        raise StoreCorrupt(
            path, f"cannot be read ({error})", "the manifest that extract-features wrote", "Run extract-features again."
        ) from None
    labels = {name: np.array(numbers[name]) for name in LABEL_COLUMNS}
    manifest = Manifest(root, **texts, **labels, ratings=ratings)  # type: ignore[arg-type]
    for row, found, expected in _invalid_entries(manifest):
        raise StoreCorrupt(f"{path}:{row + 2}", found, expected, "Undo the edit, or run extract-features again.")
    return manifest


def _read_ratings(votes: list[str], numbers: Mapping[str, array[float]]) -> Ratings:
    """The columns of `RATING_COLUMNS`. Raises ValueError for what `write_manifest` never writes."""
    count, *std = (np.nan_to_num(numbers[name], nan=0) for name in RATING_COLUMNS[:-1])
    if not np.all((count >= 0) & (count < 2**31) & (count == np.floor(count))):
        raise ValueError("ratings that are not a count")
    if not all(np.all((column >= 0) & np.isfinite(column)) for column in std):
        raise ValueError("a std below 0 or without end")
    for text in set(votes):
        votes_of(text)
    stds = [np.array(numbers[name]) for name in RATING_COLUMNS[1:-1]]
    return Ratings(count.astype(np.int64), np.stack(stds, axis=1), votes)


def _invalid_entries(manifest: Manifest) -> Iterator[tuple[int, str, str]]:
    """What `write_manifest` never writes: (row, found, expected)."""
    for name in sorted(set(manifest.split) - set(SPLITS)):
        yield manifest.split.index(name), f"split {name[:60]!r}", ", ".join(SPLITS)
    for name in LABEL_COLUMNS:
        column: NDArray[np.float64] = getattr(manifest, name)
        for row in np.flatnonzero(~(np.isnan(column) | ((column >= 1) & (column <= 7)))).tolist():
            yield row, f"{name} {column[row]:g}", "a label from 1 to 7, or nothing"
    if len(set(manifest.id)) < len(manifest):
        seen: dict[str, int] = {}
        row = next(row for row, name in enumerate(manifest.id) if seen.setdefault(name, row) != row)
        first = seen[manifest.id[row]] + 2
        yield row, f"id {manifest.id[row][:60]!r}, already at line {first}", "each id once"


def _csv_blocks(manifest: Manifest) -> Iterator[bytes]:
    """The CSV, a block of rows at a time."""
    columns = manifest.columns()
    block = io.StringIO()
    writer = csv.writer(block, lineterminator="\n")
    writer.writerow(columns)
    for start in range(0, len(manifest), _BLOCK_ROWS):
        cells = [_cells(column[start : start + _BLOCK_ROWS]) for column in columns.values()]
        writer.writerows(zip(*cells, strict=True))
        yield block.getvalue().encode("utf-8", "surrogateescape")
        block.seek(0)
        block.truncate()
    yield block.getvalue().encode("utf-8", "surrogateescape")


def _cells(values: list[str] | NDArray[Any]) -> list[str]:
    """A column as text, empty for NaN and for a count of 0; each of the few distinct numbers is formatted once."""
    if isinstance(values, list):
        return values
    distinct, indices = np.unique(values, return_inverse=True)
    unknown = np.isnan(distinct) if values.dtype.kind == "f" else distinct == 0
    texts = ["" if none else repr(value) for value, none in zip(distinct.tolist(), unknown.tolist(), strict=True)]
    return [texts[index] for index in indices.tolist()]
