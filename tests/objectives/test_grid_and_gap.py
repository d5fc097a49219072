"""What stands beside a loss, by its definition: texts of the whole plane, the price of the gap, kernel targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from cache.pairs import ClassTexts, GridTexts
from pipeline.core.config import TrainConfig
from pipeline.objectives.base import objective_of
from pipeline.objectives.soft_targets import kernel, same_class
from pipeline.objectives.space import SharedSpace
from pipeline.training.training_data import draw_extra
from tests.training.test_batched_heads import TEXT, WIDTH, some_pairs, with_grid


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_grid_term_is_its_definition() -> None:
    """A loop over utterances and texts, in the words of the docstring."""
    pairs = with_grid(some_pairs())
    config = TrainConfig.model_validate({"objective": {"name": "soft_targets"}, "grid": {"texts": 5, "width": 0.9}})
    objective, rows = objective_of(config, pairs), torch.arange(6)
    captions = torch.cat([rows, draw_extra(pairs, 5, 1, torch.Generator().manual_seed(0))[0]])
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(1))
    points = pairs.extra(captions[6:])[0]
    terms = []
    for matrix, mine, others in (
        (logits[:, 6:], pairs.labels[:6, :2], points),
        (logits[:, 6:].T, points, pairs.labels[:6, :2]),
    ):
        for i, row in enumerate(matrix):
            weights = torch.tensor([math.exp(-(mine[i] - other).square().sum() / (2 * 0.81)) for other in others])
            target = weights / weights.sum()
            terms.append(-(target * row.log_softmax(0)).sum() / len(matrix))
    own = torch.nn.functional.cross_entropy
    clap = (own(logits[:, :6], rows) + own(logits[:, :6].T, rows)) / 2
    prepared = objective.prepare(pairs, rows, captions)
    assert objective.loss(logits, prepared).item() == pytest.approx((clap + sum(terms) / 2).item(), abs=1e-10)
    leaf = logits.clone().requires_grad_()
    objective.loss(leaf, prepared).backward()
    assert torch.allclose(objective.gradient(logits, prepared)[1], leaf.grad, atol=1e-12)


def test_texts_that_name_a_category_draw_the_votes_for_it() -> None:
    """By the docstring: half over utterances with a vote, half over texts, each share a share of the votes."""
    draw, votes = (
        torch.Generator().manual_seed(3),
        [[0.6, 0.4, 0.0], [0.0, 0.25, 0.5], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
    )
    classes = ClassTexts(torch.randn(4, TEXT, generator=draw), torch.tensor([0, 1, 1, 2]))
    pairs = replace(some_pairs(), votes=torch.tensor(votes).repeat(16, 1))
    pairs = pairs.with_extra(GridTexts(torch.randn(9, TEXT, generator=draw), torch.ones(9, 2), torch.zeros(9)), classes)
    tree = {"name": "soft_targets", "targets": "same_emotion", "votes": True}
    grid = {"texts": 2, "share": 0.0, "classes": 1.0}
    objective, rows = (
        objective_of(TrainConfig.model_validate({"objective": tree, "grid": grid}), pairs),
        torch.arange(4),
    )
    captions = torch.cat([rows, draw_extra(pairs, 2, 1, draw)[0]])
    logits = torch.randn(4, 10, generator=draw)
    named = [[row[code] for code in (0, 1, 1, 2)] for row in votes]
    halves = []
    for targets, matrix in ((named, logits[:, 6:]), (list(zip(*named, strict=True)), logits[:, 6:].T)):
        known = [(row, values) for row, values in zip(targets, matrix, strict=True) if sum(row)]
        terms = [
            -sum(t / sum(row) * v for t, v in zip(row, values.log_softmax(0), strict=True)) for row, values in known
        ]
        halves.append(sum(terms) / len(terms))
    prepared = objective.prepare(pairs, rows, captions)
    inner = objective.objective.loss(logits[:, :4], prepared.pairs)
    assert (objective.loss(logits, prepared) - inner).item() == pytest.approx(sum(halves).item() / 2, abs=1e-10)


def test_the_gaps_price_is_its_definition_and_extra_texts_take_no_part() -> None:
    pairs = with_grid(some_pairs())
    trees = [{"grid": {"texts": 5}}, {"grid": {"texts": 5}, "gap": {"centroid": 3.0, "covariance": 5.0}}]
    without, priced = (objective_of(TrainConfig.model_validate(tree), pairs) for tree in trees)
    draw, rows = torch.Generator().manual_seed(0), torch.arange(6)
    captions = torch.cat([rows, draw_extra(pairs, 5, 1, draw)[0]])
    sides = [torch.randn(count, WIDTH, generator=draw) for count in (6, 11)]
    space = SharedSpace.of(*sides, torch.tensor(0.3))
    a, t = space.speech, space.text[:6]
    clouds = [torch.cov(cloud.T, correction=0) for cloud in (a, t)]
    price = 3 * (a.mean(0) - t.mean(0)).square().sum() + 5 * (clouds[0] - clouds[1]).square().sum()
    assert price > 0.1
    prepared = priced.prepare(pairs, rows, captions)
    expected = without.space_loss(space, prepared) + price
    assert priced.space_loss(space, prepared).item() == pytest.approx(expected.item(), abs=1e-10)
    assert priced.space_losses(space, prepared).item() == pytest.approx(expected.item(), abs=1e-10)


def test_the_kernels_limits_are_clap_and_supcon() -> None:
    points = torch.rand(8, 2, generator=torch.Generator().manual_seed(0)) * 6
    emotion = torch.tensor([0, 0, 1, 1, 2, -1, -1, 0])
    assert torch.allclose(kernel(points, emotion, 1e-3).rows, torch.eye(8))
    assert torch.allclose(kernel(points, emotion, 1.0, 1.0).rows, same_class(emotion).rows)
    expected = torch.exp(-torch.cdist(points, points).square() / (2 * 0.7**2))
    assert torch.allclose(kernel(points, emotion, 0.7).rows, expected / expected.sum(1, keepdim=True))
