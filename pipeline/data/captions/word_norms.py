"""Prompts by other hands: words whose valence and arousal people rated, such as the Glasgow Norms.

The grammar that words the captions words the ordinality test's prompts too (F11, F13), which flatters whatever learns
that grammar. Here a prompt is a rated word in a plain sentence, "The voice brings to mind the word {word}.", and its
valence and arousal are the word's own ratings. The sentences are `configs/captions/word_norms.yaml`. Where the words'
dominance was rated too, lists near one point of the plane run it (`dominance_lists`).

The norms are the user's file. Scott, Keitel, Becirspahic, Yao and Sereno, "The Glasgow Norms: Ratings of 5,500 words on
nine scales", Behavior Research Methods 51, 2019 (CC BY 4.0), have the form that is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.captions import Columns, Prompt
from pipeline.core.config import CaptionsConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.captions.dimensional import LEVELS
from pipeline.data.corpora.tables import TableColumns, collect, number_or_nan, read_csv

WORD_NORMS = "word_norms"  # the style of these prompts; no caption has it
NEAREST = 8  # words of each point that a list chooses from
DOMINANCE_POINTS = tuple((float(v), float(a)) for v in (2, 3, 4, 5, 6) for a in (3, 4, 5))  # where words are dense
DOMINANCE_CHOICE = 2  # words for each step of dominance, one of which a list takes
_COLUMNS = TableColumns(required=("word", "valence", "arousal"), optional=("valence_sd", "arousal_sd", "dominance"))
_STEPS = len(LEVELS)  # prompts in a list (F13)
# costs of a word in an assignment, where a squared distance is at most 85: for each earlier list that took it, and
# where it is not among the point's nearest
_REUSE, _FAR = 1e4, 1e8


class WordNorms(NamedTuple):
    """W rated words; `points` is (W, 2), the mean valence and arousal of each on 1-7."""

    words: list[str]
    points: NDArray[np.float64]
    dominance: NDArray[np.float64]  # (W,) likewise, NaN where it was not rated


def read_word_norms(path: Path, scale: tuple[float, float] = (1, 9)) -> WordNorms:
    """The words of a CSV with the columns word, valence and arousal, of which `scale` is the lowest and highest value.

    A column dominance may be there, and be blank where it was not rated. Ratings are mapped linearly to 1-7. Other
    columns are not read. Raises ManyProblems with `file:line` of every line without a word, with a rating that is not a
    number of the scale, or with the word of an earlier line; UsageError when the file cannot be read.
    """
    lines: dict[str, int] = {}
    points: list[list[float]] = []  # and dominance
    problems: list[str] = []
    low, high = scale
    report = collect(problems)
    for line, fields in read_csv(path, _COLUMNS, report, notes=[]):
        word = fields["word"].strip()
        rated = ["valence", "arousal", *(["dominance"] if fields.get("dominance", "").strip() else [])]
        ratings = [number_or_nan(fields[axis]) for axis in rated]
        if not word or not word.isprintable():
            report(line, path, f"word {word[:40]!r}; expected one line of text")
        elif word in lines:
            report(line, path, f"word {word[:40]!r} stands in line {lines[word]} already; expected each once")
        for axis, rating in zip(rated, ratings, strict=True):
            if not low <= rating <= high:
                report(line, path, f"{axis} {fields[axis][:40]!r}; expected a number from {low:g} to {high:g}")
        lines.setdefault(word, line)
        points.append([1 + 6 * (rating - low) / (high - low) for rating in [*ratings, math.nan][:3]])
    if problems:
        raise ManyProblems(path, problems, "Correct captions.word_norms, or captions.word_norms_scale.")
    known = np.array(points, dtype=np.float64).reshape(-1, 3)
    return WordNorms(list(lines), known[:, :2], known[:, 2])


def word_prompts(config: CaptionsConfig) -> Columns[Prompt]:
    """The prompts of style "word_norms", in every sentence (`variant`); none without `config.word_norms`.

    Only words of letters alone ("bank (river)" is not) that some list of the ordinality test may choose are kept.
    Raises what `read_word_norms` raises, and UsageError for fewer than 14 such words.
    """
    if config.word_norms is None:
        return Columns.of(Prompt)
    norms = read_word_norms(config.word_norms, config.word_norms_scale)
    usable = [row for row, word in enumerate(norms.words) if word.isalpha()]
    if len(usable) < _STEPS:
        expected = f"at least {_STEPS}, as a list of the ordinality test has"
        found = f"{len(usable)} words of letters alone"
        raise UsageError(f"captions.word_norms: {config.word_norms}", found, expected, "Give a longer list of words.")
    points, dominance = norms.points[usable], norms.dominance[usable]
    targets = [_targets(axis, number) for axis in (0, 1) for number in range(_STEPS)]
    reached = [_reach(_squared_distance(each, points)) for each in targets]
    kept = np.unique(np.concatenate([*reached, *map(np.ravel, _dominance_steps(points, dominance))]))
    prompts = [
        Prompt(
            WORD_NORMS,
            sentence.format(word=norms.words[usable[row]]),
            points[row, 0].item(),
            points[row, 1].item(),
            variant,
            None if math.isnan(dominance[row]) else dominance[row].item(),
        )
        for variant, sentence in enumerate(word_list("captions/word_norms")["sentences"])
        for row in kept.tolist()
    ]
    return Columns.of(Prompt, *map(list, zip(*prompts, strict=True)))


def word_lists(prompts: Sequence[Prompt], axis: Literal["valence", "arousal"], lists: int) -> NDArray[np.int64]:
    """The prompts of each list of the ordinality test (F13): (lists, 14) rows of `prompts`, each of another word.

    The points of list l are F13's: `axis` runs through 0.5, 1.0 ... 7.0, the other dimension is fixed at 0.5 in the
    first list and 0.5 more in each next one; after 7.0 it starts again, with the next sentence. Each point takes one of
    the `NEAREST` words by their ratings, if possible one that no earlier list of the same fixed value took, so that the
    sum of squared distances is least (an assignment). Where more points than words are in a corner, some take farther
    words of the list's.

    Raises UsageError for fewer than 14 words, or where a sentence has other words than the first.
    """
    from scipy.optimize import linear_sum_assignment  # which stage one does not wait for

    rows_of, points = _rows_and_points(prompts)
    uses = np.zeros((_STEPS, len(points)))  # how many lists of a fixed value took a word
    chosen = np.empty((lists, _STEPS), dtype=np.int64)
    for number in range(lists):
        distance = _squared_distance(_targets(int(axis == "arousal"), number), points)
        candidates, times = _reach(distance), uses[number % _STEPS]
        far = np.ones_like(distance)
        np.put_along_axis(far, np.argsort(distance, axis=1, kind="stable")[:, :NEAREST], 0, axis=1)
        _, places = linear_sum_assignment((distance + _REUSE * times + _FAR * far)[:, candidates])
        words = candidates[places]
        times[words] += 1
        chosen[number] = np.array(rows_of[number // _STEPS % len(rows_of)])[words]
    return chosen


def dominance_lists(prompts: Sequence[Prompt], lists: int) -> NDArray[np.int64]:
    """The prompts of each list that runs dominance at one place of the plane: (lists, 14) rows, each of another word.

    The 28 words of known dominance that are nearest to a point, by valence and arousal, are put in order of dominance
    and cut into 14 steps of two; a list takes one word of each step. Lists go through the 15 `DOMINANCE_POINTS` with
    the nearer word of each step, then with the other one, then both with the next sentence. Of fewer than 28 words a
    step has one.

    Raises UsageError for fewer than 14 words of known dominance, or where a sentence has other words than the first.
    """
    rows_of, points = _rows_and_points(prompts)
    dominance = np.array([prompts[row].dominance for row in rows_of[0]], dtype=np.float64)
    steps = _dominance_steps(points, dominance)
    if not steps:
        found, expected = f"dominance of {int(np.isfinite(dominance).sum())} words", f"of at least {_STEPS}"
        action = "Run extract-features with captions.word_norms that have a column dominance."
        raise UsageError("prompts of rated words", found, expected, action)
    chosen = np.empty((lists, _STEPS), dtype=np.int64)
    for number in range(lists):
        words = steps[number % len(steps)]
        sentence, place = divmod(number // len(steps), words.shape[1])
        chosen[number] = np.array(rows_of[sentence % len(rows_of)])[words[:, place]]
    return chosen


def _rows_and_points(prompts: Sequence[Prompt]) -> tuple[list[list[int]], NDArray[np.float64]]:
    """The rows of `prompts` by sentence, and the points (W, 2) of its words, which are the same in each."""
    by_sentence: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_sentence.setdefault(prompt.variant, []).append(row)
    rows_of = [by_sentence.get(variant, []) for variant in range(len(by_sentence))]
    ratings = [[(*prompts[row][2:4], prompts[row].dominance) for row in rows] for rows in rows_of]
    if not ratings or len(ratings[0]) < _STEPS or any(each != ratings[0] for each in ratings):
        found = f"{len(ratings[0]) if ratings else 0} words in {len(rows_of)} sentences"
        expected = f"at least {_STEPS} words, the same in each sentence"
        raise UsageError("prompts of rated words", found, expected, "Run extract-features with captions.word_norms.")
    return rows_of, np.array([each[:2] for each in ratings[0]], dtype=np.float64)


def _dominance_steps(points: NDArray[np.float64], dominance: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Of each of `DOMINANCE_POINTS` the words (14, c) of each step, nearest first; none of fewer than 14 rated."""
    known = np.flatnonzero(np.isfinite(dominance))
    choice = min(DOMINANCE_CHOICE, len(known) // _STEPS)
    steps = []
    for distance in _squared_distance(np.array(DOMINANCE_POINTS), points) if choice else ():
        near = known[np.argsort(distance[known], kind="stable")[: _STEPS * choice]]
        rising = near[np.argsort(dominance[near], kind="stable")].reshape(_STEPS, choice)
        nearest_first = np.argsort(distance[rising], axis=1, kind="stable")
        steps.append(np.take_along_axis(rising, nearest_first, axis=1))
    return steps


def _targets(column: int, number: int) -> NDArray[np.float64]:
    """(14, 2) the points of a list: the dimension of `column` rises, the other is fixed."""
    points = np.full((_STEPS, 2), LEVELS[number % _STEPS])
    points[:, column] = LEVELS
    return points


def _squared_distance(targets: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(14, W) of every target to every word."""
    squared: NDArray[np.float64] = ((targets[:, None] - points[None]) ** 2).sum(axis=-1)
    return squared


def _reach(distance: NDArray[np.float64]) -> NDArray[np.int64]:
    """The words that a list may take, ascending: the `NEAREST` of each target, or more where those are under 14."""
    order = np.argsort(distance, axis=1, kind="stable")
    count = NEAREST
    while len(reach := np.unique(order[:, :count])) < _STEPS:
        count += 1
    return reach
