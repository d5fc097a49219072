"""Captions: which texts describe which utterances, and which prompts ask for them.

`captions.jsonl` in the stores' folder has one line per (style, use, text). Row j of `text.h5` is the j-th distinct
text of that file, so the texts are their own index.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.disk import write_whole
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

    def texts(self) -> list[str]:
        """The distinct texts, in order of first appearance: row j of `text.h5` is `texts()[j]`."""
        entries: list[Caption | Prompt | ClassPrompt] = [*self.captions, *self.prompts, *self.classes]
        return list(dict.fromkeys(entry.text for entry in entries))

    def styles(self) -> list[str]:
        """The caption styles present."""
        return list(dict.fromkeys(c.style for c in self.captions))

    def links(self, style: str, utterances: int) -> Links:
        """The captions of `style` by utterance, each utterance's in order of appearance."""
        row_of = {text: row for row, text in enumerate(self.texts())}
        chosen = [c for c in self.captions if c.style == style]
        counts = [len(c.rows) for c in chosen]
        owner = np.concatenate([np.asarray(c.rows, dtype=np.int64) for c in chosen] or [np.empty(0, np.int64)])
        text = np.repeat(np.array([row_of[c.text] for c in chosen], dtype=np.int64), counts)
        order = np.argsort(owner, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=utterances))])
        return Links(offsets=offsets.astype(np.int64), text=text[order])


def write_captions(captions: Captions, path: Path) -> None:
    """Write `captions` as JSONL, whole or not at all."""
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(captions))
    write_whole(path, iter(lambda: "".join(islice(lines, _BLOCK)).encode(), b""))


def read_captions(path: Path) -> Captions:
    """Read what `write_captions` wrote. Raises StoreCorrupt, naming the line, for anything else."""
    captions = Captions()
    number = 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                entry = json.loads(line)
                kind, place = _USES[entry.pop("use")]
                getattr(captions, place).append(kind(**entry))
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorrupt(
            f"{path}:{number}",
            f"cannot be read ({error})",
            "the captions that extract-features wrote",
            "Run extract-features again.",
        ) from None
    return captions


_USES: dict[str, tuple[type[Caption | Prompt | ClassPrompt], str]] = {
    "caption": (Caption, "captions"),
    "prompt": (Prompt, "prompts"),
    "class": (ClassPrompt, "classes"),
}


def _lines(captions: Captions) -> Iterable[dict[str, Any]]:
    for use, (_, place) in _USES.items():
        for entry in getattr(captions, place):
            line = {"use": use, **vars(entry)}
            yield line | {"rows": list(entry.rows)} if use == "caption" else line
