"""What a browser may ask, as the query of a URL: known names, once or often, in UTF-8, no longer than fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from pipeline.captions.dimensional import LEVELS, describe, level
from pipeline.errors import UsageError

LONGEST = 2000  # characters of a sentence; encoders read 512 tokens
MOST = 1000  # hits
FIELDS = ("split", "speaker", "emotion")
_PARTS = 200  # names and values of one query
_WORDING = 0  # of the eight that heads are trained on
Query = Mapping[str, list[str]]


@dataclass(frozen=True)
class Question:
    """A sentence, the values that a hit may have in each field, and how many hits."""

    sentence: str
    among: Mapping[str, list[str]]
    top: int


def question_of(query: bytes) -> Question:
    """`q=...&split=...&top=...`. Raises UsageError."""
    given = _parsed(query, once=("q", "top"), often=FIELDS)
    sentence = given.get("q", [""])[0]
    if len(sentence) > LONGEST:
        raise UsageError("the sentence", f"{len(sentence):,} characters", f"at most {LONGEST:,}", "Say it in fewer.")
    top = given.get("top", [""])[0]
    if not (re.fullmatch(r"[0-9]{1,4}", top) and 1 <= int(top) <= MOST):
        raise UsageError("top", f"{top!r:.40}", f"a number from 1 to {MOST:,}", "Correct it.")
    return Question(sentence, {name: given[name] for name in FIELDS if name in given}, int(top))


def sentence_at(query: bytes) -> dict[str, str | float]:
    """`valence=...&arousal=...` -> the grammar's sentence for the point, and the levels it says. Raises UsageError."""
    given = _parsed(query, once=("valence", "arousal"))
    point = {name: _number(name, given) for name in ("valence", "arousal")}
    levels = {name: LEVELS[level(value, name)] for name, value in point.items()}
    return {"sentence": describe(**point, phrasing="train", variant=_WORDING), **levels}


def _number(name: str, given: Query) -> float:
    text = given.get(name, [""])[0]
    try:
        return float(text)
    except ValueError:
        raise UsageError(name, f"{text!r:.40}", f"a number from {LEVELS[0]} to {LEVELS[-1]}", "Correct it.") from None


def _parsed(query: bytes, *, once: tuple[str, ...], often: tuple[str, ...] = ()) -> Query:
    """The values of each name, in their order. Raises UsageError."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_PARTS)
    except ValueError as error:
        found = "not UTF-8" if isinstance(error, UnicodeError) else f"more than {_PARTS} parts"
        raise UsageError("the question", found, "a short query in UTF-8", "Ask it anew.") from None
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in (*once, *often) or (name in once and name in given):
            found = f"{name!r:.40} twice" if name in given else f"unknown {name!r:.40}"
            raise UsageError("the question", found, ", ".join((*once, *often)), "Correct it.")
        given.setdefault(name, []).append(value)
    return given
