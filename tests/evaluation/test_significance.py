"""Tests over seeds and speakers: scipy's p and intervals, textbook formulas, and corrections by a naive loop."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.core.errors import UsageError
from pipeline.evaluation.significance import (
    MethodDifference,
    SpeakerDraws,
    between,
    holm,
    mean_interval,
    seed_tests,
    speaker_tests,
)


def methods(*shifts: float, n: int = 8, noise: float = 1.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Methods `m0`, `m1`, ... of n values each about `shifts`."""
    drawn = np.random.default_rng(seed)
    return {f"m{i}": shift + (1 + i) * noise * drawn.standard_normal(n + i) for i, shift in enumerate(shifts)}


# p -> Holm's corrected p, by hand: smallest times m, next times m - 1, ..., never below one before it, at most 1
BY_HAND = [
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # .005*4, .01*3, .03*2, max(.04*1, .06)
    ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),  # .02*3, then no less
    ([0.6, 0.3, 0.9], [1.0, 0.9, 1.0]),  # .3*3, .6*2 and .9*1 -> 1 at most, no less than the one before
    ([0.03], [0.03]),
    ([0.0, 1.0], [0.0, 1.0]),
    ([], []),
]


def stepped_down(p: list[float]) -> list[float]:
    """Holm's procedure, one hypothesis after the other."""
    corrected, floor, left = [0.0] * len(p), 0.0, len(p)
    for at in sorted(range(len(p)), key=p.__getitem__):
        floor = max(floor, min(1.0, left * p[at]))
        corrected[at] = floor
        left -= 1
    return corrected


@pytest.mark.parametrize(("p", "corrected"), BY_HAND)
def test_holm_agrees_with_corrections_worked_out_by_hand(p: list[float], corrected: list[float]) -> None:
    assert holm(p).tolist() == pytest.approx(corrected, abs=1e-12)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_the_procedure_step_by_step(p: list[float]) -> None:
    assert holm(p).tolist() == pytest.approx(stepped_down(p), abs=1e-12)


def test_over_seeds_p_and_interval_are_scipys_for_every_pair() -> None:
    values = methods(0.0, 1.5, 0.3, 4.0)
    found = seed_tests(values)
    assert [(test.method, test.other) for test in found] == list(combinations(values, 2))
    for test in found:
        a, b = values[test.method], values[test.other]
        expected = stats.ttest_ind(a, b, equal_var=False)
        low, high = expected.confidence_interval(0.95)
        assert test.difference == pytest.approx(a.mean() - b.mean())
        assert test.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert (test.low, test.high) == pytest.approx((low, high), rel=1e-9)
    assert [test.corrected for test in found] == pytest.approx(stepped_down([test.p for test in found]))
    assert any(test.corrected > test.p for test in found)


def test_another_alpha_is_another_confidence() -> None:
    values = methods(0.0, 1.5)
    [test] = seed_tests(values, alpha=0.2)
    expected = stats.ttest_ind(values["m0"], values["m1"], equal_var=False).confidence_interval(0.8)
    assert (test.low, test.high) == pytest.approx(tuple(expected), rel=1e-9)


def test_a_method_without_variance_is_tested_against_one_with_some() -> None:
    values = {"ridge": np.full(5, 0.7), **methods(0.5, noise=0.1)}
    [test] = seed_tests(values)
    expected = stats.ttest_1samp(values["m0"], 0.7)  # what Welch's becomes: one sample against a number
    assert test.p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert (test.low, test.high) == pytest.approx((0.7 - high, 0.7 - low), rel=1e-9)


def test_two_methods_without_variance_are_not_tested_and_take_no_part_in_the_correction() -> None:
    noise = 0.1 + 0.2  # not exact: the mean of five is not itself
    values = {"ridge": np.full(5, noise), "own": np.full(5, 0.1), **methods(0.5, noise=0.1)}
    found = seed_tests(values)
    assert [(test.method, test.other) for test in found] == [("ridge", "m0"), ("own", "m0")]
    assert [test.corrected for test in found] == pytest.approx(stepped_down([test.p for test in found]))
    assert between(found, "ridge", "own") is None


def test_a_pair_is_the_same_either_way_round() -> None:
    found = seed_tests(methods(0.0, 1.5, 0.3))
    turned = between(found, "m2", "m0")
    assert turned is not None
    straight = between(found, "m0", "m2")
    assert straight in found
    assert (turned.difference, turned.low, turned.high) == (-straight.difference, -straight.high, -straight.low)
    assert (turned.p, turned.corrected) == (straight.p, straight.corrected)
    assert turned.low < turned.difference < turned.high


def test_the_interval_of_a_mean_is_students() -> None:
    values = methods(3.0, n=7)["m0"]
    expected = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values.tolist()) == pytest.approx(expected, rel=1e-9)


def drawn(shift: float, *, seeds: list[float], speakers: np.ndarray, rows: np.ndarray) -> SpeakerDraws:
    """A method whose measure is the mean over speakers of a value a speaker, `shift`ed."""
    return SpeakerDraws([shift + value for value in seeds], shift + speakers[rows].mean(1), len(speakers))


def paired_methods(speakers: int = 12, draws: int = 500, noise: float = 0.1) -> dict[str, SpeakerDraws]:
    """Two methods that find the same speakers hard, and differ a little by speaker and by seed."""
    draw = np.random.default_rng(3)
    hard = draw.standard_normal(speakers)
    rows = draw.integers(speakers, size=(draws, speakers))
    return {
        name: drawn(
            shift, seeds=(noise * draw.standard_normal(6)).tolist(), rows=rows,
            speakers=hard + 0.2 * draw.standard_normal(speakers),
        )
        for name, shift in (("a", 0.5), ("b", 0.0))
    }  # fmt: skip


def test_over_speakers_the_error_is_that_of_the_paired_draws_and_of_both_methods_seeds() -> None:
    found = paired_methods()
    [test] = speaker_tests(found)
    a, b = found["a"], found["b"]
    parts = [
        (np.var(np.asarray(a.draws) - np.asarray(b.draws), ddof=1) * 12 / 11, 11),
        (np.var(a.seed_values, ddof=1) / 6, 5),
        (np.var(b.seed_values, ddof=1) / 6, 5),
    ]
    variance = sum(value for value, _ in parts)
    freedom = variance**2 / sum(value**2 / of for value, of in parts)
    difference = np.mean(a.seed_values) - np.mean(b.seed_values)
    assert test.difference == pytest.approx(difference)
    assert test.p == pytest.approx(2 * stats.t.sf(abs(difference) / math.sqrt(variance), freedom), rel=1e-9)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (test.low, test.high) == pytest.approx((difference - half, difference + half), rel=1e-9)


def test_what_is_hard_about_the_speakers_themselves_does_not_blur_the_difference() -> None:
    found = paired_methods()
    [test] = speaker_tests(found)
    unpaired = math.sqrt(sum(np.var(method.draws, ddof=1) for method in found.values()))
    assert test.high - test.low < 0.5 * 2 * 1.96 * unpaired
    assert test.p < 0.001


def test_a_claim_on_other_speech_is_never_surer_than_one_on_this_test_set() -> None:
    found = paired_methods(noise=0.8)
    [seeds] = seed_tests({name: method.seed_values for name, method in found.items()})
    [speakers] = speaker_tests(found)
    assert speakers.p > seeds.p
    assert speakers.low < seeds.low < seeds.high < speakers.high


def test_methods_without_variance_over_seeds_still_differ_by_speaker() -> None:
    found = {name: method._replace(seed_values=[0.5] * 5) for name, method in paired_methods().items()}
    [test] = speaker_tests(found)
    assert test.difference == 0
    assert test.p == 1
    assert speaker_tests(found | {"b": found["a"]}) == []  # the same in every draw: nothing to test by


def test_with_few_speakers_equal_methods_are_called_different_one_time_in_twenty() -> None:
    """Five speakers, no difference: the t test holds its level, where a normal p would reject in 12 % of cases."""
    draw = np.random.default_rng(0)
    rows = draw.integers(5, size=(300, 5))
    rejected = normal = 0
    for _ in range(1000):
        a, b = draw.standard_normal((2, 5))  # a value a speaker and method; training adds hardly any chance
        seeds = 1e-3 * draw.standard_normal((2, 5))
        pair = [SpeakerDraws(of.mean() + seed, of[rows].mean(1), 5) for of, seed in ((a, seeds[0]), (b, seeds[1]))]
        [test] = speaker_tests(dict(zip("ab", pair, strict=True)))
        rejected += test.p < 0.05
        gaps = np.asarray(pair[0].draws) - np.asarray(pair[1].draws)
        normal += 2 * stats.norm.sf(abs(test.difference) / gaps.std(ddof=1)) < 0.05
    assert 30 <= rejected <= 70
    assert normal > 110


def test_what_cannot_be_tested_is_refused() -> None:
    five = [0.1, 0.2, 0.3, 0.4, 0.5]
    with pytest.raises(UsageError, match="4 seeds of b; expected 5 or more"):
        seed_tests({"a": five, "b": five[:4]})
    with pytest.raises(UsageError, match="not finite in b"):
        seed_tests({"a": five, "b": [*five, float("nan")]})
    few = SpeakerDraws(five, five, 4)
    with pytest.raises(UsageError, match="5 draws of 4 speakers; expected the same for every method, of 5 speakers"):
        speaker_tests({"a": few, "b": few})
    with pytest.raises(UsageError, match="5 draws of 8 speakers, 5 draws of 9 speakers"):
        speaker_tests({"a": few._replace(speakers=8), "b": few._replace(speakers=9)})
    assert seed_tests({"a": five}) == seed_tests({}) == []


def test_a_difference_reads_as_method_less_other() -> None:
    [test] = seed_tests({"a": [1.0, 1.1, 0.9, 1.0, 1.05], "b": [0.0, 0.1, -0.1, 0.0, 0.05]})
    assert isinstance(test, MethodDifference)
    assert test.difference == pytest.approx(1.0)
    assert test.low > 0
