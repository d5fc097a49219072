"""Captions: which texts describe which utterances, and which prompts ask for them.

`captions.jsonl` in the stores' folder has one line per (style, use, text). Row j of `text.h5` is the j-th distinct
text of that file, so the texts are their own index. In memory they are columns; a record is made of an item on access.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from cache.disk import write_atomic
from cache.errors import StoreCorrupt

CLASS_TEMPLATE = "this person is feeling {emotion}."  # of the class prompts that recognition asks; none trains on them
_BLOCK_LINES = 512  # written at once
_ACTION = "Run extract-features again."


class Caption(NamedTuple):
    """One text of one style and the utterances (manifest rows) it describes."""

    style: str
    text: str
    rows: array[int]


class Prompt(NamedTuple):
    """One text that asks for a point of the valence-arousal plane; `variant` counts its paraphrases.

    `dominance` is known of rated words alone, and of none in stores of before.
    """

    style: str
    text: str
    valence: float
    arousal: float
    variant: int
    dominance: float | None = None


class ClassPrompt(NamedTuple):
    """One text that asks for an emotion category, from a template such as "this person is feeling {emotion}."."""

    template: str
    text: str
    emotion: str


class GridText(NamedTuple):
    """One text of a style's training wording and the point of the valence-arousal plane that it describes."""

    style: str
    text: str
    valence: float
    arousal: float
    variant: int


_Record = TypeVar("_Record", Caption, Prompt, ClassPrompt, GridText)


@dataclass(frozen=True)
class Columns(Sequence[_Record], Generic[_Record]):
    """A column for each field of `record`, all of one length; item i is made a record when it is asked for."""

    record: type[_Record]
    columns: dict[str, list[Any]]

    @classmethod
    def of(cls, record: type[_Record], *columns: list[Any]) -> Columns[_Record]:
        """From a column for each of the record's fields, in their order; from none it is empty."""
        columns = columns or tuple([] for _ in record._fields)
        return cls(record, dict(zip(record._fields, columns, strict=True)))

    def of_style(self, style: str) -> Columns[_Record]:
        """Only the items of `style`."""
        chosen = [each == style for each in self.columns["style"]]
        return replace(self, columns={name: list(compress(column, chosen)) for name, column in self.columns.items()})

    def __add__(self, other: Columns[_Record]) -> Columns[_Record]:
        return replace(self, columns={name: column + other.columns[name] for name, column in self.columns.items()})

    def __len__(self) -> int:
        return len(self.columns["text"])

    def __iter__(self) -> Iterator[_Record]:
        return map(self.record, *self.columns.values())

    @overload
    def __getitem__(self, index: int) -> _Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[_Record]: ...
    def __getitem__(self, index: int | slice) -> _Record | list[_Record]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        return self.record(*(column[index] for column in self.columns.values()))


@dataclass(frozen=True)
class Links:
    """The captions of each utterance: text rows `text[offsets[i]:offsets[i + 1]]` describe utterance i."""

    offsets: NDArray[np.int64]  # (N + 1,)
    text: NDArray[np.int64]  # (M,) rows of text.h5


@dataclass(frozen=True)
class Captions:
    """Every caption, prompt and whole-grammar text of a folder of stores."""

    captions: Columns[Caption] = field(default_factory=lambda: Columns.of(Caption))
    prompts: Columns[Prompt] = field(default_factory=lambda: Columns.of(Prompt))
    classes: Columns[ClassPrompt] = field(default_factory=lambda: Columns.of(ClassPrompt))
    grid: Columns[GridText] = field(default_factory=lambda: Columns.of(GridText))
    source: Path | None = field(default=None, compare=False)  # the file they were read from
    order: tuple[str, ...] | None = field(default=None, compare=False)  # rows of text.h5, of captions planned anew
    notes: tuple[str, ...] = field(default=(), compare=False)  # what was left out of them and why

    @classmethod
    def of(
        cls,
        captions: Iterable[Caption] = (),
        prompts: Iterable[Prompt] = (),
        classes: Iterable[ClassPrompt] = (),
        grid: Iterable[GridText] = (),
    ) -> Captions:
        """From records; the rows of a caption may be any sequence of integers."""
        as_arrays = [Caption(style, text, array("q", rows)) for style, text, rows in captions]
        return cls(
            Columns.of(Caption, *map(list, zip(*as_arrays, strict=True))),
            Columns.of(Prompt, *map(list, zip(*prompts, strict=True))),
            Columns.of(ClassPrompt, *map(list, zip(*classes, strict=True))),
            Columns.of(GridText, *map(list, zip(*grid, strict=True))),
        )

    def __add__(self, other: Captions) -> Captions:
        return Captions(
            self.captions + other.captions,
            self.prompts + other.prompts,
            self.classes + other.classes,
            self.grid + other.grid,
        )

    def texts(self) -> list[str]:
        """The distinct texts, in order of first appearance or in `order`: row j of `text.h5` is `texts()[j]`."""
        if self.order is not None:
            return list(self.order)
        parts = (self.captions, self.prompts, self.classes, self.grid)
        return list(dict.fromkeys(chain.from_iterable(part.columns["text"] for part in parts)))

    def styles(self) -> list[str]:
        """The caption styles present."""
        return list(dict.fromkeys(self.captions.columns["style"]))

    def links(self, style: str, utterances: int) -> Links:
        """The captions of `style` by utterance, each utterance's in order of appearance.

        Raises StoreCorrupt for a caption of a row that is not among `utterances`.
        """
        row_of = {text: row for row, text in enumerate(self.texts())}
        chosen = self.captions.of_style(style).columns
        rows: list[array[int]] = chosen["rows"]
        owner = np.concatenate([np.asarray(each) for each in rows] or [np.empty(0, np.int64)])
        outside = owner[(owner < 0) | (owner >= utterances)]
        if outside.size:
            raise StoreCorrupt(
                self.source or "captions",
                f"a caption of style {style} describes row {outside[0]}",
                f"rows of the manifest, 0 to {utterances - 1}",
                _ACTION,
            )
        text = np.repeat(np.array([row_of[text] for text in chosen["text"]], dtype=np.int64), list(map(len, rows)))
        order = np.argsort(owner, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=utterances))])
        return Links(offsets=offsets.astype(np.int64), text=text[order])


def write_captions_file(captions: Captions, path: Path) -> None:
    """Write `captions` as JSONL, whole or not at all."""
    encode = json.JSONEncoder(ensure_ascii=False, default=list).encode  # `list` for the array of rows
    lines = (
        encode({"use": use, **{name: value for name, value in zip(columns, values, strict=True) if value is not None}})
        + "\n"
        for use, columns in _columns_by_use(captions).items()
        for values in zip(*columns.values(), strict=True)
    )
    write_atomic(path, iter(lambda: "".join(islice(lines, _BLOCK_LINES)).encode(), b""))


def read_captions(path: Path) -> Captions:
    """Read what `write_captions_file` wrote. Raises StoreCorrupt, naming the line, for anything else."""
    captions, number, decode = Captions(source=path), 0, json.JSONDecoder().decode
    by_use = _columns_by_use(captions)
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                entry = decode(line)
                columns = _check(entry, by_use)
                for name, value in entry.items():
                    columns[name].append(array("q", value) if name == "rows" else value)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        found, expected = f"cannot be read ({_reason(error)})", "the captions that extract-features wrote"
        raise StoreCorrupt(f"{path}:{number}", found, expected, _ACTION) from None
    return captions


def _columns_by_use(captions: Captions) -> dict[str, dict[str, list[Any]]]:
    return {
        "caption": captions.captions.columns,
        "prompt": captions.prompts.columns,
        "class": captions.classes.columns,
        "grid": captions.grid.columns,
    }


class _Invalid(ValueError):
    """Why a line is not a caption or a prompt."""


_RATING = ((int, float), 7)  # types, highest; from 0
_NUMBERS = {"valence": _RATING, "arousal": _RATING, "dominance": _RATING, "variant": ((int,), 2**31 - 1)}


def _check(entry: Any, by_use: dict[str, dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Take the use out of a line; returns its columns. Raises _Invalid where a field is not what was written."""
    if not isinstance(entry, dict):
        raise _Invalid(f"a {type(entry).__name__}")
    use = entry.pop("use", None)
    if not isinstance(use, str) or use not in by_use:
        raise _Invalid(f"use {_quoted(use)}")
    columns = by_use[use]
    if use == "prompt":
        entry.setdefault("dominance", None)
    if entry.keys() != columns.keys():
        raise _Invalid(f"fields {_quoted(', '.join(entry))}; expected {', '.join(columns)}")
    for name, value in entry.items():
        if name in _NUMBERS:
            types, top = _NUMBERS[name]
            valid = (value is None and name == "dominance") or (type(value) in types and 0 <= value <= top)
        elif name == "rows":  # whole numbers from 0, none twice: a row given twice would count twice
            whole = type(value) is list and set(map(type, value)) <= {int}
            valid = whole and min(value, default=0) >= 0 and len(set(value)) == len(value)
        else:
            valid = type(value) is str
        if not valid:
            raise _Invalid(f"{name} {_quoted(value)}")
    return columns


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _reason(error: Exception) -> str:
    if isinstance(error, _Invalid):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}"
    if isinstance(error, OSError):
        return error.strerror or "not a file"
    others = {UnicodeDecodeError: "not UTF-8", RecursionError: "nested too deeply"}
    return others.get(type(error), "a number too long")
