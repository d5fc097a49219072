"""Folds as units: the corrected resampled t equals formulae written anew, and covers as often as it says."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import special, stats

from pipeline.core.errors import UsageError
from pipeline.evaluation.folds import resampling_ratio, speaker_folds
from pipeline.evaluation.pooling import over_folds
from pipeline.evaluation.significance import corrected_interval, fold_tests
from tests.evaluation.test_folds import some_corpus

VALUES = np.random.default_rng(0).normal(0.5, 0.1, (5, 3))  # five folds, three seeds


def test_spread_over_folds_and_over_seeds_are_kept_apart() -> None:
    found = over_folds(VALUES, ratio=1 / 3)
    of_folds = [statistics.fmean(row) for row in VALUES.tolist()]
    of_seeds = [statistics.fmean(row) for row in VALUES.T.tolist()]
    assert found["fold_values"] == pytest.approx(of_folds, abs=1e-15)
    assert found["seed_values"] == pytest.approx(of_seeds, abs=1e-15)
    assert found["mean"] == pytest.approx(statistics.fmean(of_folds), abs=1e-15)
    assert found["fold_std"] == pytest.approx(statistics.stdev(of_folds), abs=1e-15)
    assert found["seed_std"] == pytest.approx(statistics.stdev(of_seeds), abs=1e-15)
    assert found["fold_std"] != pytest.approx(found["seed_std"], rel=0.1)
    alone = over_folds(VALUES[:, :1], ratio=1 / 3)
    assert alone["seed_std"] == 0.0
    assert alone["fold_std"] == pytest.approx(statistics.stdev(VALUES[:, 0].tolist()), abs=1e-15)


@pytest.mark.parametrize("k", [3, 5, 24])
@pytest.mark.parametrize("ratio", [0.04, 1 / 3, 1.0])
def test_intervals_and_p_are_nadeau_and_bengios(k: int, ratio: float) -> None:
    one, two = np.random.default_rng(k).normal(0, 1, (2, k)).tolist()
    gaps = [a - b for a, b in zip(one, two, strict=True)]
    mean = math.fsum(gaps) / k
    squared = math.fsum((gap - mean) ** 2 for gap in gaps) / (k - 1)
    error = math.sqrt((1 / k + ratio) * squared)
    freedom = k - 1
    p = special.betainc(freedom / 2, 1 / 2, freedom / (freedom + (mean / error) ** 2))  # Student's t, two tails
    (found,) = fold_tests({"ours": one, "theirs": two}, ratio=ratio)
    assert (found.method, found.other) == ("ours", "theirs")
    assert found.difference == pytest.approx(mean, abs=1e-11)
    assert found.p == pytest.approx(p, abs=1e-9)
    reach = error * special.stdtrit(freedom, 0.975)
    assert (found.low, found.high) == pytest.approx((mean - reach, mean + reach), abs=1e-9)
    (other_way,) = fold_tests({"theirs": two, "ours": one}, ratio=ratio)
    assert (other_way.difference, other_way.p) == pytest.approx((-found.difference, found.p), abs=1e-12)


def test_without_the_correction_they_are_scipys_paired_t() -> None:
    one, two = VALUES[:, 0], VALUES[:, 1]
    known = stats.ttest_rel(one, two)
    (found,) = fold_tests({"a": one, "b": two}, ratio=0.0)
    assert found.p == pytest.approx(known.pvalue, abs=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.95)), abs=1e-9)
    (corrected,) = fold_tests({"a": one, "b": two}, ratio=1 / 3)
    assert corrected.p > found.p
    assert corrected.high - corrected.low > found.high - found.low


def test_the_share_of_test_rows_is_of_the_folds_rows() -> None:
    folds = speaker_folds(some_corpus([10] * 20), folds=5)
    assert resampling_ratio(folds) == pytest.approx(40 / 120)
    uneven = speaker_folds(some_corpus([30, 20, 10]), folds=3)  # each is tested, developed on and trained on once
    assert resampling_ratio(uneven) == pytest.approx(1.0)


def test_intervals_cover_the_truth_as_often_as_they_say_where_folds_are_correlated() -> None:
    """Folds of correlation n_test / (n_test + n_train), as is supposed: 95 of 100, where Student's t has 70."""
    k, ratio, count = 5, 1 / 3, 4000
    shared = ratio / (1 + ratio)
    draw = np.random.default_rng(3)
    values = math.sqrt(shared) * draw.standard_normal((count, 1)) + math.sqrt(1 - shared) * draw.standard_normal(
        (count, k)
    )
    corrected = np.array([corrected_interval(each, ratio=ratio) for each in values])
    naive = np.array([corrected_interval(each, ratio=0.0) for each in values])
    covered = [((low < 0) & (high > 0)).mean() for low, high in (corrected.T, naive.T)]
    assert covered[0] == pytest.approx(0.95, abs=0.0138)  # four standard errors
    assert covered[1] < 0.85


def test_two_learners_of_one_kind_are_called_different_in_at_most_seven_of_a_hundred_cross_validations() -> None:
    """A/A: nearest-neighbour regressions, each on features of its own drawing, in five folds."""
    k, count, rows = 5, 400, 40
    draw = np.random.default_rng(4)
    part = np.arange(rows) % k
    called = 0
    for _ in range(count):
        x, noise = draw.standard_normal((rows, 8)), draw.standard_normal(rows)
        y = x.sum(1) + noise
        errors = []
        for features in np.split(draw.permutation(8), 2):
            of_folds = []
            for fold in range(k):
                train, test = part != fold, part == fold
                distances = ((x[test][:, None, features] - x[train][:, features]) ** 2).sum(-1)
                of_folds.append(float(np.mean((y[train][distances.argmin(1)] - y[test]) ** 2)))
            errors.append(of_folds)
        (found,) = fold_tests({"a": errors[0], "b": errors[1]}, ratio=1 / 4)
        called += found.p < 0.05
    assert called / count <= 0.07


def test_all_pairs_are_tested_and_holm_corrected_over_them() -> None:
    columns = {
        name: np.random.default_rng(9).normal(mean, 0.1, 6) + np.random.default_rng(i).normal(0, 0.05, 6)
        for i, (name, mean) in enumerate({"a": 0.5, "b": 0.7, "c": 0.5, "d": 0.3}.items())
    }
    found = fold_tests(columns, ratio=1 / 4)
    assert [(each.method, each.other) for each in found] == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
        ("c", "d"),
    ]
    ascending = sorted(found, key=lambda each: each.p)
    highest = 0.0
    for place, each in enumerate(ascending):
        highest = max(highest, min(1.0, each.p * (6 - place)))
        assert each.corrected == pytest.approx(highest, abs=1e-15)
        (alone,) = fold_tests({name: columns[name] for name in (each.method, each.other)}, ratio=1 / 4)
        assert (alone.p, alone.low, alone.high) == (each.p, each.low, each.high)
    assert ascending[0].corrected < 0.05 < ascending[-1].corrected


def test_equal_differences_leave_nothing_to_test_against() -> None:
    columns = {"a": [0.1, 0.3, 0.2], "b": [0.0, 0.2, 0.1], "c": [0.4, 0.1, 0.1]}
    found = fold_tests(columns, ratio=0.5)  # a - b is 0.1 but for rounding
    assert [(each.method, each.other) for each in found] == [("a", "c"), ("b", "c")]
    assert fold_tests({"a": [0.1, 0.3], "b": [0.1, 0.3]}, ratio=0.5) == []
    assert corrected_interval([0.3, 0.3, 0.3], ratio=0.5) == pytest.approx((0.3, 0.3))


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(UsageError, match="2 folds of a, 3 folds of b; expected the same folds of every method"):
        fold_tests({"a": [1, 2], "b": [1, 2, 3]}, ratio=0.5)
    with pytest.raises(UsageError, match="1 folds; expected two folds or more"):
        over_folds([[0.5, 0.6]], ratio=0.5)
    with pytest.raises(UsageError, match="values that are not finite"):
        over_folds([[0.5], [math.nan]], ratio=0.5)
