"""How many steps to a rung, and which trials are promoted."""

from __future__ import annotations

from pipeline.experiments.sweeps.bracket import bracket_size, last_rung, promoted, steps_to, tied
from pipeline.experiments.sweeps.config import Halving

THREE = Halving(factor=3, rungs=3)


def test_each_rung_is_a_factor_further_and_the_last_is_the_end() -> None:
    assert last_rung(THREE) == 4
    assert [steps_to(rung, THREE, 2700, 90) for rung in (1, 2, 3, 4)] == [100, 300, 900, 2700]
    assert [steps_to(rung, THREE, 1000, 20) for rung in (1, 2, 3, 4)] == [37, 111, 333, 1000]


def test_without_halving_the_end_is_the_only_rung() -> None:
    assert last_rung(None) == 1
    assert steps_to(1, None, 1000, 10) == 1000
    assert bracket_size(None, 32) == 32


def test_a_bracket_holds_as_many_as_leave_one() -> None:
    assert bracket_size(THREE, 32) == 27
    left = bracket_size(THREE, 32)
    for _ in range(THREE.rungs):
        left = len(promoted(dict.fromkeys(range(left), 0.0), THREE, maximise=True))
    assert left == 1


def test_the_best_are_promoted_in_order_of_their_numbers_and_of_equals_the_earlier() -> None:
    scores = {7: 0.1, 1: 0.5, 4: 0.9, 2: 0.5, 9: 0.3, 3: 0.5}
    assert promoted(scores, THREE, maximise=True) == [1, 4]
    assert promoted(scores, THREE, maximise=False) == [7, 9]
    assert promoted({5: -1.0, 6: -2.0}, THREE, maximise=True) == [5]


def test_no_rung_ends_before_an_epoch_or_100_steps() -> None:
    assert [steps_to(rung, THREE, 225, 15) for rung in (1, 2, 3, 4)] == [15, 25, 75, 225]
    assert [steps_to(rung, THREE, 1500, 500) for rung in (1, 2, 3, 4)] == [100, 166, 500, 1500]
    assert [steps_to(rung, THREE, 7, 7) for rung in (1, 2, 3, 4)] == [7, 7, 7, 7]


def test_ties_at_the_cut_are_found() -> None:
    assert tied({1: 0.5, 2: 0.5, 3: 0.4}, [1]) == [2]
    assert tied({1: 0.5, 2: 0.4, 3: 0.4}, [1]) == []
