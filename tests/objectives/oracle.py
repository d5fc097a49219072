"""Eq. 3-4 of EmotionRankCLAP, word for word: three loops, labels as exact fractions, torch scalars for autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

Point = Sequence[Fraction]

KEPT: dict[str, Callable[[Fraction, Fraction, int, int], bool]] = {
    "at_least": lambda d_ik, d_ij, k, j: d_ik >= d_ij,
    "beyond": lambda d_ik, d_ij, k, j: d_ik > d_ij,
    "beyond_and_self": lambda d_ik, d_ij, k, j: d_ik > d_ij or k == j,
}


def squared_distance(a: Point, b: Point) -> Fraction:
    """Exact squared L2 distance."""
    return sum(((x - y) ** 2 for x, y in zip(a, b, strict=True)), Fraction(0))


def slow_rank_n_contrast(logits: Tensor, labels: Sequence[Point], denominator: str) -> Tensor:
    """Audio -> text, one batch (N, N)."""
    size = len(labels)
    terms = []
    for i in range(size):
        for j in range(size):
            d_ij = squared_distance(labels[i], labels[j])
            members = [
                logits[i, k]
                for k in range(size)
                if KEPT[denominator](squared_distance(labels[i], labels[k]), d_ij, k, j)
            ]
            if members:
                terms.append(torch.logsumexp(torch.stack(members), 0) - logits[i, j])
    return torch.stack(terms).mean() if terms else logits.sum() * 0


def slow_symmetric(logits: Tensor, labels: Sequence[Point], denominator: str) -> Tensor:
    """Half audio -> text, half text -> audio."""
    there = slow_rank_n_contrast(logits, labels, denominator)
    return (there + slow_rank_n_contrast(logits.T, labels, denominator)) / 2
