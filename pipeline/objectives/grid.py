"""The grid term: texts of the whole valence-arousal plane beside the pairs of a batch (captions.grid).

A corpus has few captions, so they teach the text side little of the plane; text is free. In each step M sentences of
the training grammar are drawn anew, and each utterance is drawn to them by how near their points are to its labels.
Texts that name a category, in other templates than recognition asks, do the same for the emotions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.core.objective_config import GridConfig
from pipeline.objectives.soft_targets import SoftTargets, kernel_logits
from pipeline.objectives.space import LogitsObjective


@dataclass(frozen=True)
class TextTargets:
    """What the logits of B utterances and M texts are compared with: weight * symmetric cross-entropy."""

    rows: Tensor  # (..., B, M), each utterance's share of the texts: sums to 1, or to 0 where it has none
    columns: Tensor  # (..., B, M), each text's share of the utterances: columns sum to 1, or to 0

    def __getitem__(self, batch: int) -> TextTargets:
        """The targets of one batch of the leading dimension."""
        return TextTargets(self.rows[batch], self.columns[batch])

    def loss(self, logits: Tensor) -> Tensor:
        """(...) of (..., B, M) logits: half over utterances that have a target, half over texts, under autograd."""
        toward_text = (self.rows * logits.log_softmax(-1)).sum((-2, -1)) / self._count(self.rows)
        toward_speech = (self.columns * logits.log_softmax(-2)).sum((-2, -1)) / self._count(self.columns)
        return -(toward_text + toward_speech) / 2

    def gradient(self, logits: Tensor) -> Tensor:
        """(..., B, M) gradient of `loss`."""
        of_rows = logits.softmax(-1) * self.rows.sum(-1, keepdim=True) - self.rows
        of_columns = logits.softmax(-2) * self.columns.sum(-2, keepdim=True) - self.columns
        counts = [self._count(each)[..., None, None] for each in (self.rows, self.columns)]
        return (of_rows / counts[0] + of_columns / counts[1]) / 2

    @staticmethod
    def _count(shares: Tensor) -> Tensor:
        return shares.sum((-2, -1)).clamp_min(1)


@dataclass(frozen=True)
class GridTargets:
    """What a batch's pairs and its extra texts are compared with."""

    pairs: Any  # the inner objective's
    grid: TextTargets
    classes: TextTargets  # of no texts where there are none

    def __getitem__(self, batch: int) -> GridTargets:
        """The targets of one batch of the leading dimension."""
        return GridTargets(self.pairs[batch], self.grid[batch], self.classes[batch])


@dataclass(frozen=True)
class WithGrid(LogitsObjective):
    """`objective` on the pairs, and the terms of `config` between utterances and extra texts."""

    objective: LogitsObjective
    config: GridConfig

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor) -> GridTargets:
        size, grid, dtype = rows.shape[-1], rows.shape[-1] + self.config.texts, torch.get_default_dtype()
        points, _ = pairs.extra(captions[..., size:grid])
        near = kernel_logits(pairs.labels[rows][..., :2], points, self.config.width)
        _, named = pairs.extra(captions[..., grid:])
        votes = self.objective.emotion(pairs) if isinstance(self.objective, SoftTargets) else pairs.emotion
        if votes.is_floating_point():  # (n, K) shares: of the category that each text names
            same = votes[rows].to(dtype) @ torch.nn.functional.one_hot(named, votes.shape[-1]).to(dtype).mT
        else:
            same = (votes[rows][..., :, None] == named[..., None, :]).to(dtype)
        classes = TextTargets(*(_shares(same, dim) for dim in (-1, -2)))
        of_grid = TextTargets(near.softmax(-1).to(dtype), near.softmax(-2).to(dtype))
        return GridTargets(self.objective.prepare(pairs, rows, captions[..., :size]), of_grid, classes)

    def loss(self, logits: Tensor, prepared: GridTargets) -> Tensor:
        of_pairs, *parts = self._parts(logits)
        terms = zip(self._weights(), (prepared.grid, prepared.classes), parts, strict=True)
        loss = self.objective.loss(of_pairs, prepared.pairs)
        return loss + sum(weight * targets.loss(part).mean() for weight, targets, part in terms if part.shape[-1])

    def gradient(self, logits: Tensor, prepared: GridTargets, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        of_pairs, *parts = self._parts(logits)
        losses, gradient = self.objective.gradient(of_pairs.contiguous(), prepared.pairs, with_gradient=with_gradient)
        gradients = [gradient]
        for weight, targets, part in zip(self._weights(), (prepared.grid, prepared.classes), parts, strict=True):
            if part.shape[-1]:
                losses = losses + weight * targets.loss(part)
            if with_gradient:
                gradients.append(weight * targets.gradient(part))
        return losses, torch.cat(gradients, -1) if with_gradient else gradient

    def _weights(self) -> tuple[float, float]:
        return self.config.share, self.config.classes

    def _parts(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The columns of the pairs' own captions, of the grid and of the classes."""
        size = logits.shape[-2]
        grid = size + self.config.texts
        return logits[..., :size], logits[..., size:grid], logits[..., grid:]


def _shares(values: Tensor, dim: int) -> Tensor:
    """`values` that sum to 1 along `dim`, or to 0 where there are none."""
    total = values.sum(dim, keepdim=True)
    return values / torch.where(total > 0, total, 1)
