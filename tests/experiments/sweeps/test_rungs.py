"""How many steps to a rung, and which trials are promoted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cache.stores import open_stores
from pipeline.experiments.sweeps.bracket import bracket_size, last_rung, promoted, steps_to, tied
from pipeline.experiments.sweeps.config import Halving
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.sweep import sweep
from tests.experiments.sweeps.conftest import a_sweep

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
    for _ in range(3):
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


@pytest.mark.parametrize(
    ("factor", "trials", "rungs"),
    [(3, 1, 1), (3, 9, 2), (3, 10, 3), (3, 27, 3), (3, 28, 4), (3, 81, 4), (3, 243, 5), (3, 5000, 5), (2, 100, 7)],
)
def test_as_many_rungs_as_one_bracket_of_all_trials_has(factor: int, trials: int, rungs: int) -> None:
    space = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
    config = a_sweep(sampler="random", trials=trials, halving={"factor": factor}, space=space)
    assert Space(config).config.halving == Halving(factor=factor, rungs=rungs)
    assert Space(a_sweep(halving={"factor": 2, "rungs": 1})).config.halving == Halving(factor=2, rungs=1)


@pytest.mark.usefixtures("undrawn")
def test_more_trials_keep_the_rungs_that_the_sweep_began_with(planted: Path, tmp_path: Path) -> None:
    stores = open_stores(planted)
    space = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
    for trials, brackets in ((4, 1), (12, 3)):
        config = a_sweep(sampler="random", trials=trials, halving={"factor": 2}, space=space)
        result, _ = sweep(stores, config, out=tmp_path)
        assert len(result["trials"]) == trials
        assert len(list(tmp_path.glob("brackets/*"))) == brackets
        assert yaml.safe_load((tmp_path / "sweep.yaml").read_text())["halving"] == {"factor": 2, "rungs": 2}
