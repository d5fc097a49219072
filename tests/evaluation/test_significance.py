"""Paired tests with Holm's correction: scipy's p values, and corrections worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from pipeline.core.errors import UsageError
from pipeline.evaluation.significance import holm, paired_tests


def methods(*shifts: float, n: int = 40, noise: float = 1.0) -> dict[str, np.ndarray]:
    """Methods `m0`, `m1`, ... that share a difficulty per list and lie `shifts` above it."""
    drawn = np.random.default_rng(0)
    difficulty = 5 * drawn.standard_normal(n)
    return {f"m{i}": difficulty + shift + noise * drawn.standard_normal(n) for i, shift in enumerate(shifts)}


def exact_wilcoxon(gaps: np.ndarray) -> float:
    """Two-tailed p by trying every assignment of signs."""
    ranks = np.argsort(np.argsort(np.abs(gaps))) + 1
    sums = np.array([np.dot(signs, ranks) for signs in product((-1, 1), repeat=len(gaps))])
    return float(np.mean(np.abs(sums) >= abs(np.dot(np.sign(gaps), ranks))))


# p -> Holm's corrected p, by hand: smallest times m, next times m - 1, ..., never below one before it, at most 1
BY_HAND = [
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # .005*4, .01*3, .03*2, max(.04*1, .06)
    ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),  # .02*3, then no less
    ([0.6, 0.3, 0.9], [1.0, 0.9, 1.0]),  # .3*3, .6*2 and .9*1 -> 1 at most, no less than the one before
    ([0.03], [0.03]),
    ([0.0, 1.0], [0.0, 1.0]),
    ([], []),
]


@pytest.mark.parametrize(("p", "corrected"), BY_HAND)
def test_holm_agrees_with_corrections_worked_out_by_hand(p: list[float], corrected: list[float]) -> None:
    assert holm(p).tolist() == pytest.approx(corrected, abs=1e-12)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_keeps_their_order_and_stays_below_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    assert ((corrected >= p) & (corrected <= np.minimum(1, len(p) * np.array(p)) + 1e-12)).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()


def test_every_other_method_is_tested_against_the_best() -> None:
    found = paired_tests(methods(0.0, 2.0, 1.9))
    assert [(t.method, t.baseline, t.n) for t in found] == [("m0", "m1", 40), ("m2", "m1", 40)]
    assert found[0].difference == pytest.approx(-2, abs=0.5)
    assert found[0].corrected < 0.001
    assert found[1].corrected > 0.05


def test_lower_may_be_better() -> None:
    assert {t.baseline for t in paired_tests(methods(0.0, 2.0, 1.0), better="lower")} == {"m0"}


def test_a_named_baseline_takes_the_place_of_the_best() -> None:
    found = paired_tests(methods(0.0, 2.0, 1.0), baseline="m2")
    assert [(t.method, np.sign(t.difference)) for t in found] == [("m0", -1), ("m1", 1)]


def test_pairing_finds_what_the_spread_over_lists_would_hide() -> None:
    found = paired_tests(methods(0.0, 0.5, n=100, noise=0.5), test="t")[0]
    values = methods(0.0, 0.5, n=100, noise=0.5)
    assert abs(found.difference) < 0.2 * values["m0"].std()
    assert found.p < 1e-6


def test_the_t_test_is_students_paired_one() -> None:
    values = methods(0.0, 0.4, n=12)
    assert paired_tests(values, baseline="m0", test="t")[0].p == pytest.approx(
        ttest_rel(values["m1"], values["m0"]).pvalue, rel=1e-9
    )


@pytest.mark.parametrize("n", [2, 5, 9])
def test_wilcoxon_equals_the_count_over_all_signs(n: int) -> None:
    values = methods(0.0, 0.6, n=n)
    assert paired_tests(values, baseline="m0")[0].p == pytest.approx(exact_wilcoxon(values["m1"] - values["m0"]))


def test_the_corrected_p_is_holms_over_all_comparisons() -> None:
    found = paired_tests(methods(0.0, 0.3, 0.5, 0.6))
    assert [t.corrected for t in found] == holm([t.p for t in found]).tolist()
    assert [t.p for t in found] != [t.corrected for t in found]


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
@pytest.mark.parametrize("n", [2, 3, 60])
def test_methods_that_never_differ_are_not_told_apart(test: str, n: int) -> None:
    same = np.linspace(0.1, 0.7, n)
    found = paired_tests({"a": same, "b": same, "c": same + 1e-15}, test=test)
    assert [(t.p, t.corrected) for t in found] == [(1, 1), (1, 1)]


def test_a_difference_without_spread_leaves_the_t_test_nothing_to_test_against() -> None:
    values = {"a": np.linspace(0.1, 0.7, 40), "b": np.linspace(0.1, 0.7, 40) + 0.1}
    assert paired_tests(values, test="t")[0].p == 1
    assert paired_tests(values, test="wilcoxon")[0].p < 1e-6  # forty lists, all one way


def test_float_noise_does_not_break_ties() -> None:
    gaps = np.array([0.1, 0.1, -0.1, 0.1, 0.2, -0.2, 0.3, 0.1])
    noisy = gaps + 1e-15 * np.arange(8)
    base = np.zeros(8)
    first, second = (paired_tests({"a": base, "b": g}, baseline="a")[0].p for g in (gaps, noisy))
    assert first == second


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(UsageError, match="3 values of a, 2 values of b"):
        paired_tests({"a": [1, 2, 3], "b": [1, 2]})
    with pytest.raises(UsageError, match="1 values of a"):
        paired_tests({"a": [1], "b": [2]})
    with pytest.raises(UsageError, match="no methods"):
        paired_tests({})
    with pytest.raises(UsageError, match="not finite in b"):
        paired_tests({"a": [1, 2], "b": [1, float("nan")]})
    with pytest.raises(UsageError, match="no method 'c'"):
        paired_tests({"a": [1, 2], "b": [2, 1]}, baseline="c")
