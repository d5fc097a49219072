"""What single raters said of an utterance: their number, the std of each attribute, and votes by category.

The label is the raters' mean, as the corpus gives it; nothing here changes it.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from cache.manifest import LABEL_COLUMNS, RATING_COLUMNS, Ratings, votes_of, votes_text
from pipeline.data.corpora.label_names import is_missing, one_spelling
from pipeline.data.corpora.label_scales import LabelScales
from pipeline.data.corpora.tables import number_or_nan

OTHER = "other"  # the vote for a category of the rater's own words
_ROUNDING = 0.005  # of means in a labels file: they have two digits at least
_NONE = (math.nan,) * len(LABEL_COLUMNS)


class RatingTally:
    """Single ratings as a reader finds them, by utterance."""

    def __init__(self, emotions: Mapping[str, str]) -> None:
        """`emotions` are the corpus's: what it writes for an emotion -> its canonical name."""
        self._problems = Counter[str]()
        self._emotions = emotions
        self._values: dict[str, list[tuple[float, ...]]] = {}
        self._votes: dict[str, list[str]] = {}
        self._known: dict[tuple[float, ...], tuple[float, ...]] = {}  # each distinct rating is held once
        self._unlike: dict[str, str] = {}  # utterance whose mean is not the label -> how

    def problem(self, found: str) -> None:
        """Count a rating that cannot be read: the release is not the user's to correct."""
        self._problems[found] += 1

    def vote(self, utterance: str, category: str) -> None:
        """One rater's category; what is none of the corpus's emotions is `other`."""
        self._votes.setdefault(utterance, []).append(_category(category, tuple(self._emotions.items())))

    def rate(self, utterance: str, values: Sequence[str]) -> None:
        """One rater's valence, arousal and dominance, as text; blank is missing. Raises ValueError for another text."""
        rating = tuple(float(text) if text.strip() else math.nan for text in values)
        if any(map(math.isinf, rating)):
            raise ValueError("a rating without end")
        if any(map(math.isfinite, rating)):
            self._values.setdefault(utterance, []).append(self._known.setdefault(rating, rating))

    def mean(self, utterance: str) -> tuple[float, ...]:
        """The raters' mean of each attribute; NaN where nobody rated it."""
        columns = _columns(self._values.get(utterance, ()))
        return tuple(math.fsum(column) / len(column) if column else math.nan for column in columns)

    def votes(self, utterance: str) -> dict[str, int]:
        """Raters by category."""
        return Counter(self._votes.get(utterance, ()))

    def fields(self, utterance: str, labels: Sequence[object]) -> dict[str, object]:
        """`RATING_COLUMNS` of the utterance, for `ManifestBuilder.add`; {} where nobody rated it.

        Its `labels`, the attributes as the labels file has them, are compared with the ratings' means.
        """
        if utterance not in self._values and utterance not in self._votes:
            return {}
        for name, label, mean in zip(LABEL_COLUMNS, labels, self.mean(utterance), strict=True):
            given = number_or_nan(label)
            if math.isfinite(mean) and math.isfinite(given) and abs(mean - given) > _ROUNDING:
                self._unlike.setdefault(utterance, f"{name} {mean:.4g} against {given:.4g}")
        rated = self._values.get(utterance, [])
        std = (sample_std(column) for column in _columns(rated))
        values = (len(rated) or None, *std, votes_text(self.votes(utterance)))
        return dict(zip(RATING_COLUMNS, values, strict=True))

    def notes(self, unrated: int) -> list[str]:
        """What is worth a look; `unrated` utterances of the corpus had no ratings."""
        notes = [f"{unrated:,} turns have labels and no ratings"] if unrated else []
        if self._problems:
            found = f"{self._problems.total():,} ratings cannot be read (first: {next(iter(self._problems))})"
            notes.append(f"WARNING: {found}: they are left out")
        if self._unlike:
            first, how = next(iter(self._unlike.items()))
            found = f"the ratings' mean is not the label for {len(self._unlike):,} turns (first: {first}, {how})"
            notes.append(f"WARNING: {found}: the label is used")
        return notes


def sample_std(values: Sequence[float]) -> float:
    """Of a sample, n - 1; NaN of fewer than two values."""
    if len(values) < 2:
        return math.nan
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _columns(ratings: Sequence[tuple[float, ...]]) -> list[list[float]]:
    """The values of each attribute, without the missing ones."""
    return [[value for value in column if not math.isnan(value)] for column in zip(_NONE, *ratings, strict=True)]


@lru_cache(maxsize=4096)
def _category(name: str, emotions: tuple[tuple[str, str], ...]) -> str:
    known = dict(emotions)
    name = known.get(name, one_spelling(name))
    return name if name in known.values() else OTHER


class RatingColumns:
    """The columns `ratings`, `valence_std`, `arousal_std`, `dominance_std` and `votes` of the rows that have them."""

    def __init__(self, canonical: bool) -> None:
        """`canonical`: whether categories get their one spelling."""
        self._canonical = canonical
        self._rows, self._numbers = array("q"), array("d")  # four numbers a row
        self._votes: list[str] = []

    def parsed(self, fields: Mapping[str, object]) -> tuple[list[float], str]:
        """(ratings and stds, votes) of a row, as `add` takes them. Raises ValueError, "found; expected"."""
        given = [fields.get(name) for name in RATING_COLUMNS]
        count, *std = (_number(name, value) for name, value in zip(RATING_COLUMNS, given[:-1], strict=False))
        if math.isfinite(count) and (count % 1 or count >= 2**31):
            raise ValueError(f"{RATING_COLUMNS[0]} {count:g}: not a count; expected a number of raters, or nothing")
        votes = given[-1]
        if not isinstance(votes, str | None):
            raise ValueError(f"votes {votes!r:.60}: a {type(votes).__name__}; expected text like happy:3|neutral:2")
        return [count, *std], "" if votes is None or is_missing(votes) else _votes(votes.strip(), self._canonical)

    def add(self, row: int, numbers: Sequence[float], votes: str) -> None:
        """Keep what `parsed` gave for `row` of the manifest."""
        if votes or any(map(math.isfinite, numbers)):
            self._rows.append(row)
            self._numbers.extend(numbers)
            self._votes.append(votes)

    def build(self, count: int, scales: LabelScales) -> Ratings | None:
        """Of a manifest of `count` rows, stds on 1-7; None where no row has any."""
        if not self._rows:
            return None
        ratings, rows = Ratings.unknown(count), np.array(self._rows)
        numbers = np.array(self._numbers).reshape(len(rows), -1)
        ratings.count[rows] = np.nan_to_num(numbers[:, 0])
        for column, name in enumerate(LABEL_COLUMNS):
            lowest, highest = scales.ranges[name]
            ratings.std[rows, column] = numbers[:, 1 + column] * (6 / (highest - lowest))
        for row, votes in zip(self._rows, self._votes, strict=True):
            ratings.votes[row] = votes
        return ratings


def _number(name: str, value: object) -> float:
    if value is None or (isinstance(value, str) and not value.strip()) or is_missing(value):
        return math.nan
    text = value.replace(",", ".", 1) if isinstance(value, str) else value  # a decimal comma
    number = math.nan if isinstance(value, bool) else number_or_nan(text)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} {value!r:.60}: expected a number from 0 on, or nothing")
    return number


@lru_cache(maxsize=2**16)
def _votes(text: str, canonical: bool) -> str:
    try:
        given = votes_of(text)
    except ValueError as error:
        raise ValueError(f"{error}: expected raters by category, such as happy:3|neutral:2") from None
    counts: Counter[str] = Counter()
    for name, count in given.items():
        counts[one_spelling(name) if canonical else name] += count
    return votes_text(counts)
