"""Rank-N-Contrast agrees with its printed formula, at any temperature, whatever the ties (F4-F8, F16)."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.objectives import rank_n_contrast as ranking
from pipeline.objectives.label_order import grid_order, rank_order
from pipeline.objectives.rank_n_contrast import (
    Denominator,
    rank_n_contrast,
    rank_n_contrast_gradient,
    rank_n_contrast_reference,
)
from tests.objectives.oracle import slow_rank_n_contrast, slow_symmetric, squared_distance

READINGS: tuple[Denominator, ...] = ("at_least", "beyond", "beyond_and_self")
every_reading = pytest.mark.parametrize("denominator", READINGS)
every_form = pytest.mark.parametrize("ordered", [rank_order, grid_order], ids=["sorted", "grid"])


def ratings(generator: np.random.Generator, size: int, top: int = 35) -> list[list[Fraction]]:
    """(valence, arousal) as exact means of five integer ratings."""
    return [[Fraction(int(n), 5) for n in row] for row in generator.integers(5, top + 1, (size, 2))]


def as_labels(points: list[list[Fraction]]) -> Tensor:
    return torch.tensor([[float(x) for x in point] for point in points], dtype=torch.float64)


def problem(seed: int, size: int, top: int = 35) -> tuple[Tensor, list[list[Fraction]]]:
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(size=(size, size)) * 3)
    return logits, ratings(generator, size, top)


@every_reading
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("size", "top"), [(2, 35), (7, 9), (11, 35), (12, 7)])
@every_form
def test_loss_and_gradient_equal_the_loops_of_the_paper(denominator, symmetric, size, top, ordered):
    logits, points = problem(size, size, top)
    slow = slow_symmetric if symmetric else slow_rank_n_contrast
    expected_at = logits.clone().requires_grad_()
    expected = slow(expected_at, points, denominator)
    expected.backward()
    at = logits.clone().requires_grad_()
    loss = rank_n_contrast(at, ordered(as_labels(points)), denominator=denominator, symmetric=symmetric)
    (2 * loss).backward()
    assert loss.shape == ()
    assert abs(loss.item() - expected.item()) < 1e-10
    assert (at.grad / 2 - expected_at.grad).abs().max() < 1e-10


@every_reading
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_readable_form_equals_the_loops_of_the_paper_in_exact_arithmetic(denominator, symmetric):
    for size, top in ((2, 35), (7, 9), (6, 5)):
        logits, points = problem(size, size, top)
        logits.requires_grad_()
        expected = (slow_symmetric if symmetric else slow_rank_n_contrast)(logits, points, denominator)
        options = {"denominator": denominator, "symmetric": symmetric}
        loss = rank_n_contrast_reference(logits, as_labels(points), **options)
        assert abs(loss.item() - expected.item()) < 1e-12
        gradients = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
        assert torch.allclose(*gradients, rtol=0, atol=1e-12)


@every_reading
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("distance", ["l1", "l2"])
@every_form
def test_the_fast_loss_and_gradient_equal_the_readable_form(denominator, symmetric, distance, ordered):
    logits, points = problem(14, 13, top=12)
    labels = as_labels(points)
    at = logits.clone().requires_grad_()
    options = {"denominator": denominator, "symmetric": symmetric}
    expected = rank_n_contrast_reference(at, labels, distance=distance, **options)
    loss, gradient = rank_n_contrast_gradient(logits, ordered(labels, distance=distance), **options)
    assert abs(loss.item() - expected.item()) < 1e-10
    assert (gradient - torch.autograd.grad(expected, at)[0]).abs().max() < 1e-10


@every_reading
@pytest.mark.parametrize("symmetric", [False, True])
@every_form
def test_leading_dimensions_are_batches_and_their_losses_are_averaged(denominator, symmetric, ordered):
    problems = [problem(seed, 6, top=9 + 3 * seed) for seed in range(6)]
    problems[1] = (problems[1][0], [problems[1][1][0]] * 6)  # one batch whose labels are all equal
    slow = slow_symmetric if symmetric else slow_rank_n_contrast
    stacked = torch.stack([logits for logits, _ in problems]).requires_grad_()
    expected = torch.stack([slow(stacked[b], points, denominator) for b, (_, points) in enumerate(problems)]).mean()
    (expected_grad,) = torch.autograd.grad(expected, stacked)
    order = ordered(torch.stack([as_labels(points) for _, points in problems]).reshape(2, 3, 6, 2))
    logits = stacked.detach().reshape(2, 3, 6, 6).requires_grad_()
    loss = rank_n_contrast(logits, order, denominator=denominator, symmetric=symmetric)
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-10
    assert (logits.grad.reshape(6, 6, 6) - expected_grad).abs().max() < 1e-10


@every_reading
@every_form
def test_one_order_serves_many_configurations(denominator, ordered):
    logits, points = problem(3, 8)
    order = ordered(as_labels(points))
    both = rank_n_contrast(torch.stack([logits, -logits]), order, denominator=denominator)
    each = [rank_n_contrast(x, order, denominator=denominator) for x in (logits, -logits)]
    assert abs(both.item() - sum(each).item() / 2) < 1e-12


@every_reading
@every_form
def test_blocks_of_rows_change_nothing(denominator, monkeypatch, ordered):
    logits, points = problem(4, 9)
    order = ordered(as_labels(points))

    def answer() -> tuple[Tensor, Tensor]:
        at = logits.clone().requires_grad_()
        loss = rank_n_contrast(at, order, denominator=denominator)
        loss.backward()
        return loss.detach(), at.grad

    whole = answer()
    monkeypatch.setattr("pipeline.objectives.rank_n_contrast.BLOCK_ELEMENTS", 2 * 9 + 1)
    cut = answer()
    assert abs(whole[0] - cut[0]) < 1e-14
    assert torch.equal(whole[1], cut[1])


@every_form
@every_reading
def test_exp_and_log_of_numpy_and_of_torch_give_the_same(denominator, ordered, monkeypatch):
    logits, points = problem(12, 9)
    order = ordered(as_labels(points))
    loss, gradient = rank_n_contrast_gradient(logits, order, denominator=denominator)
    monkeypatch.setattr(ranking, "_NUMPY", not ranking._NUMPY)
    loss2, gradient2 = rank_n_contrast_gradient(logits, order, denominator=denominator)
    assert abs(loss - loss2) < 1e-12
    assert (gradient - gradient2).abs().max() < 1e-12


@every_form
def test_logits_under_autograd_are_left_out_of_the_gradient_by_hand(ordered):
    logits, points = problem(13, 6)
    at = logits.requires_grad_()
    loss, gradient = rank_n_contrast_gradient(at, ordered(as_labels(points)), symmetric=True)
    assert not loss.requires_grad
    expected = rank_n_contrast(at, ordered(as_labels(points)), symmetric=True)
    assert torch.equal(gradient, torch.autograd.grad(expected, at)[0])


@every_reading
@pytest.mark.parametrize("symmetric", [False, True])
@every_form
def test_gradcheck_passes(denominator, symmetric, ordered):
    logits, points = problem(5, 6, top=11)
    order = ordered(as_labels(points))
    assert torch.autograd.gradcheck(
        lambda x: rank_n_contrast(x, order, denominator=denominator, symmetric=symmetric), logits.requires_grad_()
    )


@every_reading
@every_form
def test_gradient_reaches_the_temperature(denominator, ordered):
    logits, points = problem(6, 6)
    order = ordered(as_labels(points))
    log_scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s: rank_n_contrast(logits * s.exp(), order, denominator=denominator), log_scale
    )


@every_form
def test_the_gradient_is_not_made_where_nobody_asks_for_it(monkeypatch, ordered):
    logits, points = problem(7, 5)
    order = ordered(as_labels(points))
    monkeypatch.setattr(torch, "div", None)
    assert rank_n_contrast(logits, order).isfinite()
    losses, gradient = rank_n_contrast_gradient(logits, order, with_gradient=False)
    assert losses.isfinite()
    assert gradient.numel() == 0


@every_form
def test_the_diagonal_of_at_least_is_the_cross_entropy_of_clap(ordered):
    # With rows of one label apart from their own, S_ij of a non-diagonal pair is everything but i: take them off.
    logits, size = problem(8, 10)[0], 10
    labels = torch.eye(size, dtype=torch.float64)  # all others equally far
    loss = rank_n_contrast(logits, ordered(labels))
    others = logits.masked_fill(torch.eye(size, dtype=torch.bool), -math.inf).logsumexp(1, keepdim=True) - logits
    off_diagonal = others[~torch.eye(size, dtype=torch.bool)].sum()
    clap = torch.nn.functional.cross_entropy(logits, torch.arange(size))
    assert abs(loss * size**2 - off_diagonal - clap * size) < 1e-10


@every_form
def test_equal_similarities_give_the_mean_log_size_of_the_sets(ordered):
    _, points = problem(9, 12, top=12)
    order = ordered(as_labels(points))
    sizes = [
        sum(squared_distance(a, c) >= squared_distance(a, b) for c in points)
        for a, b in itertools.product(points, points)
    ]
    loss = rank_n_contrast(torch.full((12, 12), 0.7, dtype=torch.float64), order)
    assert abs(loss - sum(map(math.log, sizes)) / len(sizes)) < 1e-12


def in_order(points: list[list[Fraction]]) -> Tensor:
    """Cosines that fall with label distance: a row in perfect order."""
    return torch.tensor([[1 - float(squared_distance(a, b)) / 72 for b in points] for a in points])


def test_the_printed_loss_falls_without_end_as_the_temperature_falls_and_the_others_do_not():
    points = problem(10, 8)[1]
    cosines, order = in_order(points), rank_order(as_labels(points))

    def losses(reading: Denominator) -> list[float]:
        return [rank_n_contrast(cosines * scale, order, denominator=reading).item() for scale in (1, 10, 100, 1000)]

    beyond = losses("beyond")
    assert all(b < a for a, b in itertools.pairwise(beyond))
    assert beyond[3] < 9 * beyond[2] < 0  # linear in 1/tau: there is no floor
    assert min(losses("at_least")) >= 0
    assert min(losses("beyond_and_self")) >= 0


@every_reading
@every_form
def test_float32_stays_exact_at_the_lowest_temperature(denominator, ordered):
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(3, 64, 64, generator=generator) * 2 - 1
    cosines[:, 0], cosines[:, 1, ::2], cosines[:, 1, 1::2] = 1, -1, 1  # the whole range in one row
    order = ordered(torch.randint(5, 36, (3, 64, 2), generator=generator).double() / 5)
    answers = []
    for dtype in (torch.float32, torch.float64):
        logits = (cosines * 100).to(dtype).requires_grad_()
        loss = rank_n_contrast(logits, order, denominator=denominator, symmetric=True)
        loss.backward()
        assert loss.dtype == logits.grad.dtype == dtype
        answers.append((loss.double(), logits.grad.double()))
    (loss32, grad32), (loss64, grad64) = answers
    assert loss64.isfinite()
    assert grad64.isfinite().all()
    assert abs(loss32 / loss64 - 1) < 1e-6
    assert (grad32 - grad64).abs().max() < 1e-6 * grad64.abs().max()


@every_reading
@every_form
def test_rows_that_span_the_promised_range_agree_with_log_sum_exp(denominator, ordered):
    points = [[Fraction(n)] for n in (1, 2, 3, 4)]
    logits = torch.tensor([[-690.0, 690.0, 0.0, 100.0]] * 4, dtype=torch.float64).requires_grad_()
    expected = slow_rank_n_contrast(logits, points, denominator)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    loss = rank_n_contrast(logits, ordered(as_labels(points)), denominator=denominator)
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-9
    assert (logits.grad - expected_grad).abs().max() < 1e-10


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from(READINGS), st.booleans())
def test_naming_the_pairs_in_another_order_permutes_the_gradient_and_keeps_the_loss(size, seed, reading, symmetric):
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(size=(size, size)))
    labels = torch.from_numpy(generator.integers(5, 12, (size, 2)) / 5)
    shuffle = torch.from_numpy(generator.permutation(size))

    def answer(x: Tensor, y: Tensor) -> tuple[float, Tensor]:
        x = x.clone().requires_grad_()
        loss = rank_n_contrast(x, rank_order(y), denominator=reading, symmetric=symmetric)
        loss.backward()
        return loss.item(), x.grad

    loss, grad = answer(logits, labels)
    loss2, grad2 = answer(logits[shuffle][:, shuffle], labels[shuffle])
    assert abs(loss - loss2) < 1e-12
    assert (grad[shuffle][:, shuffle] - grad2).abs().max() < 1e-12


@every_form
def test_all_labels_equal_cost_nothing_under_the_printed_reading(ordered):
    logits = torch.randn(5, 5, requires_grad=True)
    loss = rank_n_contrast(logits, ordered(torch.ones(5, 2)), denominator="beyond")
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert logits.grad.abs().max() < 1e-6
