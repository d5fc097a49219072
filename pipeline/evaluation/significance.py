"""Is one method better than another by more than chance? Tests over what is drawn anew: seeds and speakers.

    seed_tests({"a": [0.51, 0.53, 0.50, 0.52, 0.54], "b": [0.47, 0.49, 0.50, 0.46, 0.48]})

Lists of prompts and trials of one evaluation are not such units: all of them ask the same heads about the same
utterances, so that two seeds of one method differ "significantly" over them in 20 to 100 % of cases (F46). Here

- `seed_tests` says that another training would be better too, on this test set: Welch's t test of one value a seed.
  Colas, Sigaud and Oudeyer, *A Hitchhiker's Guide to Statistical Comparisons of Reinforcement Learning Algorithms*,
  2019, compare it with its rivals for a handful of seeds.
- `speaker_tests` says that it would be better on other speech too: the methods are paired by resample of speakers.
- `fold_tests` says the same of methods in folds, paired by fold. A fold's value is the mean over its seeds: seeds are
  no other speech, and make no more folds of the same speakers. Any two folds share most of their training rows, so that
  s^2 / k is too small a variance of their mean. Nadeau and Bengio (*Inference for the generalization error*, Machine
  Learning 52, 2003) suppose the correlation of two folds to be n_test / (n_test + n_train), which gives the variance
  s^2 (1/k + n_test / n_train), with k - 1 degrees of freedom. Their proof is for random splits; for k folds it is a
  common and rather careful choice.

Each test is two-tailed, of every pair of methods, corrected over all pairs by Holm: against the best alone would be
tested what was chosen on the same figures. Confidence intervals are each pair's own, without correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pipeline.core.errors import UsageError

Better = Literal["higher", "lower"]
ALPHA = 0.05
MIN_UNITS = 5  # seeds or speakers below which nothing is tested
FOLD_CONVENTION = (
    "corrected resampled t over folds (Nadeau and Bengio, Machine Learning 52, 2003), variance "
    "s^2 (1/k + test/train), k - 1 degrees of freedom, since the folds' training sets overlap"
)


def mean_and_std(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """`{"mean", "std"}` of (n,) values; the std is the sample's (n - 1), 0 for one value."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def mean_interval(values: Sequence[float], *, alpha: float = ALPHA) -> tuple[float, float]:
    """Student's t interval of the mean of (n,) values, n > 1, at confidence 1 - alpha."""
    half = stats.t.isf(alpha / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


@dataclass(frozen=True)
class MethodDifference:
    """`method` less `other`: the difference, its 1 - alpha confidence interval, its p, and Holm's over all pairs."""

    method: str
    other: str
    difference: float
    low: float
    high: float
    p: float
    corrected: float

    def reversed(self) -> MethodDifference:
        """`other` less `method`."""
        turned = replace(self, method=self.other, other=self.method, difference=-self.difference)
        return replace(turned, low=-self.high, high=-self.low)


class Variance(NamedTuple):
    """A part of the squared standard error of a difference, and the degrees of freedom it was estimated with."""

    value: float
    freedom: float


class SpeakerDraws(NamedTuple):
    """One method's measure: a value a seed, and draw by draw the mean over seeds on a resample of `speakers` speakers.

    The b-th resample is the same speakers for every method.
    """

    seed_values: ArrayLike  # (n,)
    draws: ArrayLike  # (B,)
    speakers: int


def seed_tests(seed_values: Mapping[str, ArrayLike], *, alpha: float = ALPHA) -> list[MethodDifference]:
    """Welch's t test of every pair of methods (Biometrika 34, 1947), with the interval by Welch and Satterthwaite.

    Methods are not paired by seed: equal seeds give different methods different starts. A method without variance,
    such as a closed form, is tested against one that has some; of two without there is nothing to estimate from.

    Args:
        seed_values: for each method (n,) values, one a seed, n >= `MIN_UNITS`; n may differ.
        alpha: 1 - the confidence of the intervals.

    Returns:
        The pairs in the order of the methods, without those where neither varies.

    Raises:
        UsageError: fewer than `MIN_UNITS` values, or one that is not finite.
    """
    columns = _columns(seed_values, "seeds")
    parts = {name: _variance_of_mean(column) for name, column in columns.items()}
    return _tests(
        {
            (method, other): (columns[method].mean() - columns[other].mean(), [parts[method], parts[other]])
            for method, other in combinations(columns, 2)
        },
        alpha,
    )


def speaker_tests(methods: Mapping[str, SpeakerDraws], *, alpha: float = ALPHA) -> list[MethodDifference]:
    """Every pair of methods on other speakers, by a cluster bootstrap whose draws pair the methods.

    The squared standard error of a difference is the variance of the paired draws, times G / (G - 1) for G speakers
    (a resample of G holds that much less than G new ones would), plus each method's variance over seeds / n: a claim
    about other speech has to hold for other trainings too. Its degrees of freedom are Satterthwaite's, G - 1 of the
    speakers' part, since few clusters make a normal p too small (Cameron and Miller, *A Practitioner's Guide to
    Cluster-Robust Inference*, 2015). The seeds' part is counted in full although every draw has some of it.

    Args:
        methods: for each its `SpeakerDraws`, n >= `MIN_UNITS` seeds, as many draws and speakers of one as of the other.
        alpha: 1 - the confidence of the intervals.

    Returns:
        The pairs in the order of the methods, without those that differ by the same in every draw and never by seed.

    Raises:
        UsageError: fewer than `MIN_UNITS` seeds or speakers, other numbers of them, a value that is not finite.
    """
    columns = _columns({name: method.seed_values for name, method in methods.items()}, "seeds")
    draws = _columns({name: method.draws for name, method in methods.items()}, "draws")
    sizes = {(method.speakers, len(draws[name])) for name, method in methods.items()}
    if len(sizes) > 1 or any(speakers < MIN_UNITS for speakers, _ in sizes):
        listed = ", ".join(f"{count} draws of {speakers} speakers" for speakers, count in sorted(sizes))
        expected = f"the same for every method, of {MIN_UNITS} speakers or more"
        raise UsageError("significance", listed, expected, "Evaluate every method on one split of one corpus.")
    parts = {name: _variance_of_mean(column) for name, column in columns.items()}
    found = {}
    for method, other in combinations(columns, 2):
        speakers = methods[method].speakers
        varied = _variance(draws[method] - draws[other]) * speakers / (speakers - 1)
        of_three = [Variance(varied, speakers - 1), parts[method], parts[other]]
        found[method, other] = columns[method].mean() - columns[other].mean(), of_three
    return _tests(found, alpha)


def fold_tests(values: Mapping[str, ArrayLike], *, ratio: float) -> list[MethodDifference]:
    """Every pair of methods by the paired corrected t, each with its (k,) values of the same k folds in one order.

    `ratio` is n_test / n_train. A fold's training is drawn anew, so the variance over folds holds that of trainings
    already. Returns the pairs in the order of the methods, without those that differ by the same in every fold. Raises
    UsageError for numbers of folds that differ, fewer than two, or a value that is not finite.
    """
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}
    if len({len(column) for column in columns.values()}) > 1:
        found = ", ".join(f"{len(column)} folds of {name}" for name, column in columns.items())
        raise UsageError("statistics over folds", found, "the same folds of every method", "Run them in one command.")
    pairs = {}
    for method, other in combinations(columns, 2):
        gaps = columns[method] - columns[other]
        refuse_few_folds(gaps[:, None])
        if np.ptp(gaps) > 1e-12 * max(np.abs(columns[method]).max(), np.abs(columns[other]).max()):  # float noise
            pairs[method, other] = gaps.mean(), [_corrected_variance(gaps, ratio)]
    return _tests(pairs, ALPHA)


def corrected_interval(values: ArrayLike, *, ratio: float) -> tuple[float, float]:
    """The 95 % interval (low, high) of the mean of (k,) values of folds, by the variance of `fold_tests`."""
    of_fold = np.asarray(values, dtype=np.float64)
    variance = _corrected_variance(of_fold, ratio)
    reach = stats.t.isf(ALPHA / 2, variance.freedom) * np.sqrt(variance.value)
    return float(of_fold.mean() - reach), float(of_fold.mean() + reach)


def _corrected_variance(of_fold: NDArray[np.float64], ratio: float) -> Variance:
    return Variance(float(of_fold.var(ddof=1) * (1 / len(of_fold) + ratio)), len(of_fold) - 1)


def refuse_few_folds(table: NDArray[np.float64]) -> None:
    """Raises UsageError unless (k, s) values are of two folds or more, and finite."""
    if len(table) < 2 or not np.isfinite(table).all():
        found = f"{len(table)} folds" if len(table) < 2 else "values that are not finite"
        raise UsageError("statistics over folds", found, "two folds or more, of finite values", "Evaluate them again.")


def between(tests: Sequence[MethodDifference], method: str, other: str) -> MethodDifference | None:
    """The test of `method` less `other`, whichever way round it stands in `tests`; None where there is none."""
    for test in tests:
        if (test.method, test.other) == (method, other):
            return test
        if (test.other, test.method) == (method, other):
            return test.reversed()
    return None


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979): (m,) corrected p, in the order given.

    The smallest p is multiplied by m, the next by m - 1 and so on; none may fall below one before it, or exceed 1.
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    stepped = raw[order] * np.arange(len(raw), 0, -1)
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


def _tests(pairs: Mapping[tuple[str, str], tuple[float, Sequence[Variance]]], alpha: float) -> list[MethodDifference]:
    """A t test of each pair's difference by the parts of its squared standard error, and Holm's correction of all."""
    raw = []
    for (method, other), (difference, parts) in pairs.items():
        squared = sum(part.value for part in parts)
        if squared == 0:
            continue
        freedom = parts[0].freedom
        if len(parts) > 1:  # Satterthwaite, Biometrics 2, 1946
            freedom = 1 / sum((part.value / squared) ** 2 / part.freedom for part in parts)
        error = float(np.sqrt(squared))
        p = float(2 * stats.t.sf(abs(difference) / error, freedom))
        half = float(stats.t.isf(alpha / 2, freedom)) * error
        at = float(difference)
        raw.append(MethodDifference(method, other, at, at - half, at + half, p, p))
    corrected = holm([test.p for test in raw])
    return [replace(test, corrected=float(p)) for test, p in zip(raw, corrected, strict=True)]


def _variance(values: NDArray[np.float64]) -> float:
    """The sample variance; exactly 0 where all are equal, which rounding would hide."""
    return 0.0 if np.ptp(values) <= 1e-12 * np.abs(values).max() else float(values.var(ddof=1))


def _variance_of_mean(values: NDArray[np.float64]) -> Variance:
    return Variance(_variance(values) / len(values), len(values) - 1)


def _columns(values: Mapping[str, ArrayLike], unit: str) -> dict[str, NDArray[np.float64]]:
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}
    few = [f"{len(column)} {unit} of {name}" for name, column in columns.items() if len(column) < MIN_UNITS]
    if few:
        raise UsageError("significance", ", ".join(few), f"{MIN_UNITS} or more", f"Evaluate more {unit}.")
    wrong = [name for name, column in columns.items() if not np.isfinite(column).all()]
    if wrong:
        raise UsageError("significance", f"values not finite in {', '.join(wrong)}", "numbers", "Evaluate them again.")
    return columns
