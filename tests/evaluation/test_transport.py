"""The cost of the best assignment is scipy's, whatever shortens the search: potentials, paths, points that recur."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pipeline.evaluation import transport as module
from pipeline.evaluation.alignment import wasserstein
from pipeline.evaluation.transport import augment, dual_value, near_potentials, transport_cost

KINDS = ("cloud", "recurring", "few points", "one point", "one target", "far apart", "on a line")


def clouds(count: int, seed: int, scale: float, kind: str) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x, y = draw.standard_normal((2, count, 3))
    if kind == "recurring":
        y = y[draw.integers(0, 1 + count // 4, count)]
    elif kind == "few points":
        x, y = x.round(), y.round()
    elif kind == "one point":
        x[:], y[:] = x[0], x[0]
    elif kind == "one target":
        y[:] = y[0]
    elif kind == "far apart":
        y[0] += 1e6
    elif kind == "on a line":  # every assignment that keeps the order costs the same
        x[:, 1:], y[:, 1:] = 0, 0
        x, y = x.round(1), y.round(1) + 100
    return x * scale, y * scale


def assignment_cost(cost: np.ndarray) -> float:
    """The mean cost of the best assignment of (n, n) costs, by scipy."""
    return float(cost[linear_sum_assignment(cost)].mean())


@settings(max_examples=120, deadline=None)
@given(
    count=st.integers(1, 24),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    kind=st.sampled_from(KINDS),
)
@example(count=24, seed=0, scale=1.0, kind="recurring")
@example(count=24, seed=0, scale=1.0, kind="far apart")
def test_wasserstein_is_scipys_assignment(count: int, seed: int, scale: float, kind: str) -> None:
    x, y = clouds(count, seed, scale, kind)
    cost = np.linalg.norm(x[:, None] - y, axis=2)
    expected = assignment_cost(cost)
    assert wasserstein(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-7, abs=1e-6 * scale)


def recurring(seed: int, points: int, targets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Costs (points, targets) of unit vectors, and how often each target is taken: some never less than once."""
    draw = np.random.default_rng(seed)
    x, y = draw.standard_normal((points, 8)), draw.standard_normal((targets, 8)) + 0.5
    x, y = (of / np.linalg.norm(of, axis=1, keepdims=True) for of in (x, y))
    counts = 1 + np.bincount(draw.integers(0, targets, points - targets) ** 2 // targets, minlength=targets)
    return torch.from_numpy(np.linalg.norm(x[:, None] - y, axis=2)), torch.from_numpy(counts)


@pytest.mark.parametrize(("points", "targets"), [(300, 40), (300, 3), (200, 100), (200, 101), (150, 150)])
def test_targets_that_recur_cost_what_their_copies_cost(points: int, targets: int) -> None:
    cost, counts = recurring(1, points, targets)
    copies = cost[:, torch.repeat_interleave(torch.arange(targets), counts)]
    assert transport_cost(cost, counts) == pytest.approx(assignment_cost(copies.numpy()), rel=1e-12)


@pytest.mark.parametrize("start", ["near", "zero", "random"])
def test_the_paths_lead_to_an_assignment_that_is_proven_best_from_any_potentials(start: str) -> None:
    cost, counts = recurring(2, 200, 30)
    potentials = {
        "near": near_potentials(cost, counts),
        "zero": np.zeros(30),
        "random": np.random.default_rng(0).normal(size=30),
    }[start]
    given_potentials = potentials.copy()
    found = augment(cost.numpy(), counts.numpy(), potentials)
    assert found is not None
    assert np.array_equal(potentials, given_potentials)
    assert np.array_equal(np.bincount(found.targets, minlength=30), counts)
    value = cost.numpy()[np.arange(200), found.targets].mean()
    assert dual_value(cost.numpy(), counts.numpy(), found.potentials) == pytest.approx(value, rel=1e-13)


def test_the_dual_value_bounds_every_assignment_from_below() -> None:
    cost, counts = recurring(3, 60, 60)
    value = assignment_cost(cost.numpy())
    for seed in range(20):
        assert dual_value(cost.numpy(), counts.numpy(), np.random.default_rng(seed).normal(size=60)) < value
    assert value - dual_value(cost.numpy(), counts.numpy(), near_potentials(cost, counts)) < 0.01 * value


def test_potentials_are_near_enough_that_few_points_move() -> None:
    cost, counts = recurring(4, 600, 60)
    taken = (cost.numpy() - near_potentials(cost, counts)).argmin(1)
    surplus = np.bincount(taken, minlength=60) - counts.numpy()
    without = np.bincount(cost.numpy().argmin(1), minlength=60) - counts.numpy()
    assert surplus[surplus > 0].sum() < 30 < 200 < without[without > 0].sum()


@pytest.mark.parametrize("unproven", ["searches", "gap"])
def test_what_is_not_proven_is_left_to_scipy(unproven: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, counts = recurring(5, 120, 20)
    expected = transport_cost(cost, counts)
    if unproven == "searches":
        monkeypatch.setattr(module, "MAX_SEARCHES", 0)
        assert augment(cost.numpy(), counts.numpy(), np.zeros(20)) is None
    else:  # a wrong assignment, with the potentials it was asked from
        wrong = np.repeat(np.arange(20), counts)
        monkeypatch.setattr(module, "augment", lambda _costs, _counts, start: module.Assignment(wrong, start))
    assert transport_cost(cost, counts) == pytest.approx(expected, rel=1e-12)
