"""Captions: which texts describe which utterances, and which prompts ask for them.

`captions.jsonl` in the stores' folder has one line per (style, use, text). Row j of `text.h5` is the j-th distinct
text of that file, so the texts are their own index.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.disk import write_atomic
from cache.errors import StoreCorrupt

_BLOCK = 512  # lines written at once


@dataclass(frozen=True)
class Caption:
    """One text of one style and the utterances (manifest rows) it describes."""

    style: str
    text: str
    rows: Sequence[int]

    def __post_init__(self) -> None:
        """Millions of links take 8 bytes each, where a list's would take 40."""
        if not isinstance(self.rows, array):
            object.__setattr__(self, "rows", array("q", self.rows))


@dataclass(frozen=True)
class Prompt:
    """One text that asks for a point of the valence-arousal plane; `variant` counts its paraphrases."""

    style: str
    text: str
    valence: float
    arousal: float
    variant: int


@dataclass(frozen=True)
class ClassPrompt:
    """One text that asks for an emotion category, from a template such as "this person is feeling {emotion}."."""

    template: str
    text: str
    emotion: str


@dataclass(frozen=True)
class Links:
    """The captions of each utterance: text rows `text[offsets[i]:offsets[i + 1]]` describe utterance i."""

    offsets: NDArray[np.int64]  # (N + 1,)
    text: NDArray[np.int64]  # (M,) rows of text.h5


@dataclass(frozen=True)
class Captions:
    """Every caption and prompt of a folder of stores."""

    captions: list[Caption] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    classes: list[ClassPrompt] = field(default_factory=list)
    source: Path | None = field(default=None, compare=False)  # the file they were read from

    def texts(self) -> list[str]:
        """The distinct texts, in order of first appearance: row j of `text.h5` is `texts()[j]`."""
        entries: list[Caption | Prompt | ClassPrompt] = [*self.captions, *self.prompts, *self.classes]
        return list(dict.fromkeys(entry.text for entry in entries))

    def styles(self) -> list[str]:
        """The caption styles present."""
        return list(dict.fromkeys(c.style for c in self.captions))

    def links(self, style: str, utterances: int) -> Links:
        """The captions of `style` by utterance, each utterance's in order of appearance.

        Raises StoreCorrupt for a caption of a row that is not among `utterances`.
        """
        row_of = {text: row for row, text in enumerate(self.texts())}
        chosen = [c for c in self.captions if c.style == style]
        counts = [len(c.rows) for c in chosen]
        owner = np.concatenate([np.asarray(c.rows, dtype=np.int64) for c in chosen] or [np.empty(0, np.int64)])
        outside = owner[(owner < 0) | (owner >= utterances)]
        if outside.size:
            raise StoreCorrupt(
                self.source or "captions",
                f"a caption of style {style} describes row {outside[0]}",
                f"rows of the manifest, 0 to {utterances - 1}",
                _ACTION,
            )
        text = np.repeat(np.array([row_of[c.text] for c in chosen], dtype=np.int64), counts)
        order = np.argsort(owner, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=utterances))])
        return Links(offsets=offsets.astype(np.int64), text=text[order])


def write_captions_file(captions: Captions, path: Path) -> None:
    """Write `captions` as JSONL, whole or not at all."""
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(captions))
    write_atomic(path, iter(lambda: "".join(islice(lines, _BLOCK)).encode(), b""))


def read_captions(path: Path) -> Captions:
    """Read what `write_captions` wrote. Raises StoreCorrupt, naming the line, for anything else."""
    captions = Captions(source=path)
    number = 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                kind, place = _USES[_use(entry := json.loads(line))]
                _check(kind, entry)
                getattr(captions, place).append(kind(**entry))
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise StoreCorrupt(
            f"{path}:{number}",
            f"cannot be read ({_reason(error)})",
            "the captions that extract-features wrote",
            _ACTION,
        ) from None
    return captions


_USES: dict[str, tuple[type[Caption | Prompt | ClassPrompt], str]] = {
    "caption": (Caption, "captions"),
    "prompt": (Prompt, "prompts"),
    "class": (ClassPrompt, "classes"),
}


_ACTION = "Run extract-features again."


class _Wrong(ValueError):
    """What is wrong with a line, in words of ours."""


def _use(entry: object) -> str:
    """Take the use out of a line. Raises _Wrong where there is none."""
    if not isinstance(entry, dict):
        raise _Wrong(f"a {type(entry).__name__}")
    use = entry.pop("use", None)
    if not isinstance(use, str) or use not in _USES:
        raise _Wrong(f"use {_cut(use)}")
    return use


def _check(kind: type[Caption | Prompt | ClassPrompt], entry: dict[str, Any]) -> None:
    """Raises _Wrong where a field is not what `write_captions` writes; a dataclass takes anything."""
    expected = [each.name for each in fields(kind)]
    if entry.keys() != set(expected):
        raise _Wrong(f"fields {_cut(', '.join(entry))}; expected {', '.join(expected)}")
    for name, value in entry.items():
        if not _FITS.get(name, _is_text)(value):
            raise _Wrong(f"{name} {_cut(value)}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_label(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 7  # type: ignore[operator]


def _is_variant(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _are_rows(value: object) -> bool:
    """Whole numbers from 0, none twice: it would be drawn twice as often."""
    if not isinstance(value, list) or set(map(type, value)) - {int}:
        return False
    rows = np.frombuffer(array("q", value), dtype=np.int64)
    ascending = not rows.size or (rows[0] >= 0 and bool((np.diff(rows) > 0).all()))
    return ascending or (rows.min() >= 0 and len(np.unique(rows)) == len(rows))


_FITS = {"rows": _are_rows, "variant": _is_variant, "valence": _is_label, "arousal": _is_label}


def _cut(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _reason(error: Exception) -> str:
    match error:
        case _Wrong():
            return str(error)
        case json.JSONDecodeError():
            return f"not JSON: {error.msg}"
        case UnicodeDecodeError():
            return "not UTF-8"
        case OSError():
            return error.strerror or "not a file"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number too long"


def _lines(captions: Captions) -> Iterable[dict[str, Any]]:
    for use, (_, place) in _USES.items():
        for entry in getattr(captions, place):
            line = {"use": use, **vars(entry)}
            yield line | {"rows": list(entry.rows)} if use == "caption" else line
