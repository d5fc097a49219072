"""What k folds say about other speech: intervals and paired tests for folds whose training sets overlap.

    over_folds(values, ratio=resampling_ratio(folds))     # values: (folds, seeds) of one measure of one method

Any two folds share most of their training rows, so the values of the folds are correlated and s^2 / k is too small a
variance of their mean. Nadeau and Bengio ("Inference for the generalization error", Machine Learning 52, 2003) suppose
the correlation to be n_test / (n_test + n_train), which gives the variance s^2 (1/k + n_test / n_train), with k - 1
degrees of freedom. Their proof is for random splits; for k folds it is a common and rather careful choice.

A fold's value is the mean over its seeds: seeds are no other speech, and make no more folds of the same speakers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pipeline.core.errors import UsageError
from pipeline.evaluation.folds import Fold
from pipeline.evaluation.significance import ALPHA, MethodDifference, holm

CONVENTION = (
    "corrected resampled t over folds (Nadeau and Bengio, Machine Learning 52, 2003), variance "
    "s^2 (1/k + test/train), k - 1 degrees of freedom, since the folds' training sets overlap"
)


def resampling_ratio(folds: Sequence[Fold]) -> float:
    """n_test / n_train over all folds; the development rows count on neither side."""
    return sum(len(fold.test) for fold in folds) / sum(len(fold.train) for fold in folds)


def over_folds(values: ArrayLike, *, ratio: float) -> dict[str, Any]:
    """One measure of one method over (k, s) values of k folds and s seeds.

    Returns `{"mean", "fold_std", "seed_std", "seed_values", "fold_values", "low", "high"}`: the mean of all; the
    sample std over folds of the means over seeds (`fold_values`, k of them), and over seeds of the means over folds
    (`seed_values`, s of them; std 0 for one seed); the 95 % interval of the mean on other speech.

    Raises UsageError for fewer than two folds, or a value that is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    _refuse_unusable(table)
    of_fold, of_seed = table.mean(axis=1), table.mean(axis=0)
    low, high = corrected_interval(of_fold, ratio=ratio)
    return {
        "mean": float(table.mean()),
        "fold_std": float(of_fold.std(ddof=1)),
        "seed_std": float(of_seed.std(ddof=1)) if len(of_seed) > 1 else 0.0,
        "seed_values": of_seed.tolist(),
        "fold_values": of_fold.tolist(),
        "low": low,
        "high": high,
    }


def corrected_interval(values: ArrayLike, *, ratio: float) -> tuple[float, float]:
    """The 95 % interval (low, high) of the mean of (k,) values of folds, or of paired differences of two methods."""
    of_fold = np.asarray(values, dtype=np.float64)
    reach = stats.t.isf(ALPHA / 2, len(of_fold) - 1) * _standard_error(of_fold, ratio)
    return float(of_fold.mean() - reach), float(of_fold.mean() + reach)


def fold_tests(values: Mapping[str, ArrayLike], *, ratio: float) -> list[MethodDifference]:
    """Every pair of methods by the paired corrected t, each with its (k,) values of the same k folds in one order.

    A fold's training is drawn anew, so the variance over folds holds that of trainings already. Returns the pairs in
    the order of the methods, without those that differ by the same in every fold; Holm's correction is over them, the
    95 % intervals are each pair's own. Raises UsageError for numbers of folds that differ, fewer than two, or a value
    that is not finite.
    """
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}
    if len({len(column) for column in columns.values()}) > 1:
        found = ", ".join(f"{len(column)} folds of {name}" for name, column in columns.items())
        raise UsageError("statistics over folds", found, "the same folds of every method", "Run them in one command.")
    tests = []
    for method, other in combinations(columns, 2):
        gaps = columns[method] - columns[other]
        _refuse_unusable(gaps[:, None])
        if np.ptp(gaps) <= 1e-12 * max(np.abs(columns[method]).max(), np.abs(columns[other]).max()):  # float noise
            continue
        mean = float(gaps.mean())
        p = float(2 * stats.t.sf(abs(mean) / _standard_error(gaps, ratio), len(gaps) - 1))
        tests.append(MethodDifference(method, other, mean, *corrected_interval(gaps, ratio=ratio), p, p))
    corrected = holm([test.p for test in tests])
    return [replace(test, corrected=float(p)) for test, p in zip(tests, corrected, strict=True)]


def _standard_error(values: NDArray[np.float64], ratio: float) -> float:
    return float(np.sqrt(values.var(ddof=1) * (1 / len(values) + ratio)))


def _refuse_unusable(table: NDArray[np.float64]) -> None:
    if len(table) < 2 or not np.isfinite(table).all():
        found = f"{len(table)} folds" if len(table) < 2 else "values that are not finite"
        raise UsageError("statistics over folds", found, "two folds or more, of finite values", "Evaluate them again.")
