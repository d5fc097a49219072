"""Both forms of an order have the ties of exact arithmetic, and give the same loss (F6, F16)."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.core.objective_config import RankingConfig
from pipeline.objectives import label_order as module
from pipeline.objectives.label_order import GridOrder, RankOrder, grid_order, label_order, rank_order
from pipeline.objectives.rank_n_contrast import Ranking, rank_n_contrast, rank_n_contrast_gradient
from tests.objectives.oracle import squared_distance
from tests.objectives.test_ranking import READINGS, as_labels, every_reading, problem


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_true_ties_that_floats_split_are_kept(dtype):
    # |3.4 - 3.2| = |3.6 - 3.4| = .2, but not in floats (F6)
    assert (3.4 - 3.2) ** 2 != (3.6 - 3.4) ** 2
    labels = torch.tensor([[3.4], [3.2], [3.6], [5.0]], dtype=dtype)
    order = rank_order(labels)
    assert order.candidates[0, 0] == 3
    assert set(order.candidates[0, 1:3].tolist()) == {1, 2}
    assert order.first_tie[0].tolist() == [0, 1, 1, 3]
    assert order.last_tie[0].tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("raters", [3, 5, 6, 7, 10])
@pytest.mark.parametrize("stored", ["float64", "float32", "six decimals"])
def test_ties_are_those_of_exact_arithmetic_however_the_labels_are_stored(raters, stored):
    generator = np.random.default_rng(raters)
    points = [[Fraction(int(n), raters) for n in row] for row in generator.integers(raters, 7 * raters + 1, (60, 2))]
    labels = as_labels(points)
    labels = {"float64": labels, "float32": labels.float(), "six decimals": labels.mul(1e6).round() / 1e6}[stored]
    order = rank_order(labels)
    for i, anchor in enumerate(points):
        exact = [squared_distance(anchor, points[k]) for k in order.candidates[i].tolist()]
        assert exact == sorted(exact, reverse=True)
        assert order.first_tie[i].tolist() == [exact.index(d) for d in exact]
        assert order.last_tie[i].tolist() == [len(exact) - 1 - exact[::-1].index(d) for d in exact]


def test_labels_differing_by_a_tenth_of_a_rating_step_are_no_ties():
    order = rank_order(torch.tensor([[3.0], [3.01], [3.02]]))
    assert order.candidates[0].tolist() == [2, 1, 0]
    assert order.first_tie[0].tolist() == order.last_tie[0].tolist() == [0, 1, 2]


def test_a_small_order_is_three_plain_tensors_as_gather_takes_them():
    order = rank_order(torch.rand(2, 5, 3))
    assert isinstance(order, RankOrder)
    assert {t.dtype for t in (order.candidates, order.since, order.until)} == {torch.int64}
    assert {t.shape for t in (order.candidates, order.since, order.until, order.first_tie)} == {(2, 5, 5)}


@every_reading
def test_a_large_order_is_held_in_int16_and_gives_the_same_loss(denominator, monkeypatch):
    logits, points = problem(11, 20, top=14)
    wide = rank_order(as_labels(points))
    monkeypatch.setattr(module, "_INT64_SIZE", 8)
    small = rank_order(as_labels(points))
    assert {t.dtype for t in (small.candidates, small.since, small.until)} == {torch.int16}
    assert torch.equal(small.candidates.long(), wide.candidates)
    expected = rank_n_contrast_gradient(logits, wide, denominator=denominator)
    for got, same in zip(rank_n_contrast_gradient(logits, small, denominator=denominator), expected, strict=True):
        assert torch.equal(got, same)


def test_indices_that_int16_cannot_hold_take_int32():
    assert [module._index_type(size) for size in (2**8, 2**8 + 1, 2**15 - 1, 2**15)] == [
        torch.int64,
        torch.int16,
        torch.int16,
        torch.int32,
    ]


@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_sorting_a_few_rows_at_a_time_changes_nothing(leading, monkeypatch):
    labels = torch.randint(5, 36, (*leading, 9, 2), generator=torch.Generator().manual_seed(0)) / 5
    whole = rank_order(labels)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 4 * 9 * 6 + 1)
    cut = rank_order(labels)
    for a, b in ((whole.candidates, cut.candidates), (whole.since, cut.since), (whole.until, cut.until)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 0.5, 1.0)])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_any_labels_weights_and_either_distance_give_the_order_of_a_plain_sort(distance: str, weights: tuple) -> None:
    labels = torch.randint(5, 36, (9, 3), generator=torch.Generator().manual_seed(1)).double() / 5
    scaled = (labels * torch.tensor(weights)).tolist()
    order = rank_order(labels * torch.tensor(weights, dtype=torch.float64), distance=distance)
    for i, anchor in enumerate(scaled):
        apart = [[abs(a - b) for a, b in zip(anchor, other, strict=True)] for other in scaled]
        far = [round(sum(apart_k) if distance == "l1" else sum(d * d for d in apart_k), 6) for apart_k in apart]
        assert [far[j] for j in order.candidates[i].tolist()] == sorted(far, reverse=True)
        for place, j in enumerate(order.candidates[i].tolist()):
            assert sum(f > far[j] for f in far) == order.first_tie[i, place]
            assert sum(f >= far[j] for f in far) - 1 == order.last_tie[i, place]


@pytest.mark.parametrize("raters", [3, 5, 7])
def test_the_classes_of_a_grid_are_its_exact_distances_from_the_farthest(raters):
    generator = np.random.default_rng(raters)
    points = [[Fraction(int(n), raters) for n in row] for row in generator.integers(raters, 3 * raters, (40, 2))]
    order = grid_order(as_labels(points))
    (groups,) = order.batches
    assert order.leading == ()
    assert len(groups.rank) == len({tuple(point) for point in points})
    for i, anchor in enumerate(points):
        apart = [squared_distance(anchor, point) for point in points]
        classes = sorted(set(apart), reverse=True)
        own = groups.group[i]
        assert groups.rank[own][groups.group].tolist() == [classes.index(d) for d in apart]
        counts = [apart.count(d) for d in classes]
        assert groups.count[own].tolist() == counts + [0] * (groups.count.shape[1] - len(counts))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 14),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.sampled_from(READINGS),
    st.booleans(),
    st.sampled_from(["l1", "l2"]),
    st.sampled_from([(), (1,), (3,), (2, 2)]),
    st.sampled_from([(), (2,)]),
)
def test_both_forms_give_the_same_losses_and_gradients(
    size, levels, seed, reading, symmetric, distance, leading, shared
):
    generator = np.random.default_rng(seed)
    weights = torch.from_numpy(generator.choice([0.5, 1.0, 3.0], 2))
    labels = torch.from_numpy(generator.integers(0, levels, (*leading, size, 2)) / 5) * weights
    logits = torch.from_numpy(generator.normal(size=(*shared, *leading, size, size)) * 10)
    options = {"denominator": reading, "symmetric": symmetric}
    losses, gradient = rank_n_contrast_gradient(logits, rank_order(labels, distance=distance), **options)
    losses2, gradient2 = rank_n_contrast_gradient(logits, grid_order(labels, distance=distance), **options)
    assert losses.shape == losses2.shape == (*shared, *leading)
    assert (losses - losses2).abs().max() < 1e-10
    assert (gradient - gradient2).abs().max() < 1e-10


def grid_labels(*shape: int, raters: int = 5) -> Tensor:
    return torch.randint(raters, 7 * raters + 1, (*shape, 2), generator=torch.Generator().manual_seed(2)) / raters


def test_large_batches_of_repeating_labels_are_grouped_and_all_others_sorted():
    assert isinstance(label_order(grid_labels(1024)), GridOrder)
    assert isinstance(label_order(grid_labels(2, 1024), distance="l1"), GridOrder)
    assert isinstance(label_order(grid_labels(64)[:, :1]), RankOrder)
    assert isinstance(label_order(grid_labels(1024, raters=15)), RankOrder)
    assert isinstance(label_order(torch.stack([grid_labels(600)[:, :1].expand(-1, 2), torch.rand(600, 2)])), RankOrder)
    assert isinstance(label_order(grid_labels(0, 600)), RankOrder)


@every_reading
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_a_large_batch_is_the_same_in_both_forms(denominator, distance):
    labels = grid_labels(600).mul(2).round() / 2
    logits = torch.randn(600, 600, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 10
    chosen = label_order(labels, distance=distance)
    assert isinstance(chosen, GridOrder)
    sorted_rows = rank_order(labels, distance=distance)
    assert sorted_rows.candidates.dtype == torch.int16
    answers = []
    for order in (chosen, sorted_rows):
        at = logits.clone().requires_grad_()
        loss = rank_n_contrast(at, order, denominator=denominator, symmetric=True)
        loss.backward()
        answers.append((loss.detach(), at.grad))
    (loss, gradient), (loss2, gradient2) = answers
    assert abs(loss - loss2) < 1e-10
    assert (gradient - gradient2).abs().max() < 1e-12


@every_reading
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("ordered", [rank_order, grid_order], ids=["sorted", "grid"])
def test_a_gradient_that_takes_the_place_of_the_logits_has_the_same_bits(ordered, symmetric, denominator, monkeypatch):
    monkeypatch.setattr("pipeline.objectives.rank_n_contrast.BLOCK_ELEMENTS", 2 * 2 * 9)  # several blocks
    order = ordered(torch.randint(1, 4, (9, 2), generator=torch.Generator().manual_seed(8)))
    logits = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(9))
    options = {"denominator": denominator, "symmetric": symmetric}
    losses, gradient = rank_n_contrast_gradient(logits, order, **options)
    place = logits.clone()
    losses2, gradient2 = rank_n_contrast_gradient(place, order, **options, out=place)
    assert torch.equal(losses, losses2)
    assert torch.equal(gradient, gradient2)
    assert gradient2.data_ptr() == place.data_ptr()


@pytest.mark.parametrize("ordered", [rank_order, grid_order], ids=["sorted", "grid"])
def test_an_index_takes_one_batch_of_the_leading_dimension(ordered):
    labels = torch.randint(1, 4, (3, 2, 6, 2), generator=torch.Generator().manual_seed(4))
    logits = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(5))
    whole = ordered(labels)
    for batch in (0, 2, -1):
        expected = rank_n_contrast_gradient(logits, ordered(labels[batch]))
        for got, same in zip(rank_n_contrast_gradient(logits, whole[batch]), expected, strict=True):
            assert torch.equal(got, same)
    single = rank_n_contrast_gradient(logits[0], whole[1][0])[0]
    assert single == rank_n_contrast_gradient(logits[0], ordered(labels[1, 0]))[0]
    with pytest.raises(IndexError):
        whole[3]


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_objective_prepares_the_faster_form_of_its_own_columns_weights_and_distance(distance):
    labels = torch.cat([grid_labels(700).mul(2).round() / 2, torch.rand(700, 1)], 1)
    config = RankingConfig(labels=("arousal", "valence"), weights=(2.0, 1.0), distance=distance)
    rows = torch.randperm(700, generator=torch.Generator().manual_seed(6))[:600].view(1, 600)
    prepared = Ranking(config).prepare(SimpleNamespace(labels=labels), rows, rows)
    assert isinstance(prepared, GridOrder)
    expected = rank_order(labels[rows][..., [1, 0]] * torch.tensor([2.0, 1.0]), distance=distance)
    logits = torch.randn(1, 600, 600, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    losses = Ranking(config).gradient(logits, prepared, with_gradient=False)[0]
    assert (losses - rank_n_contrast_gradient(logits, expected, with_gradient=False)[0]).abs().max() < 1e-10
