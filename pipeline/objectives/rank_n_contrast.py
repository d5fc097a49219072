"""Rank-N-Contrast across modalities (F4-F8, F16): the readable form, and the one that trains, in O(N^2) after a sort.

    order = label_order(labels)                       # (N, K) -> once per batch, from the labels alone
    loss = rank_n_contrast(cosines / tau, order)      # logits (N, N): row i is audio i, column j is text j

For anchor i and candidate j the loss is `-log(exp(s_ij) / sum_{k in S_ij} exp(s_ik))`, the mean of all pairs. With a
row sorted by label distance, farthest first, every `S_ij` is a prefix of the row: its sum is one entry of a running
sum. The gradient is another running sum from the other end, so the forward pass already produces it. Where labels
repeat, both run over classes of equally far candidates instead of candidates, and no row needs to be sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from cache.manifest import LABEL_COLUMNS
from cache.pairs import CachedPairs
from pipeline.core.objective_config import RankingConfig
from pipeline.objectives.label_order import (
    BLOCK_ELEMENTS,
    TIE,
    UNITS,
    Distance,
    Groups,
    LabelOrder,
    RankOrder,
    label_order,
)
from pipeline.objectives.space import LogitsObjective

Denominator = Literal["at_least", "beyond", "beyond_and_self"]
# With AVX-512 numpy's float64 exp and log take half of torch's time; without it they take up to 2.7 times as long.
_NUMPY = torch.backends.cpu.get_cpu_capability() == "AVX512"


def rank_n_contrast_reference(
    similarity: Tensor,
    labels: Tensor,
    *,
    distance: Distance = "l2",
    denominator: Denominator = "at_least",
    symmetric: bool = False,
) -> Tensor:
    """The loss as Eq. 3-4 define it, in plain autograd: what `rank_n_contrast` computes, in O(N^3) and one batch.

    similarity: (N, N) cosine / tau; labels: (N, K), row i is that of pair i. The options are `rank_n_contrast`'s.
    """
    differences = labels.double()[:, None] - labels.double()[None]  # (N, N, K)
    distances = (differences.square() if distance == "l2" else differences.abs()).sum(-1)  # (N, N), L2 squared
    tie = TIE / UNITS  # distances that are no farther apart are equal
    terms = []
    for scores in (similarity, similarity.T) if symmetric else (similarity,):
        for i in range(len(labels)):
            for j in range(len(labels)):
                farther = distances[i] > distances[i, j] + tie
                in_denominator = distances[i] >= distances[i, j] - tie if denominator == "at_least" else farther
                if denominator == "beyond_and_self":
                    in_denominator[j] = True
                if in_denominator.any():
                    terms.append(scores[i][in_denominator].logsumexp(0) - scores[i, j])
    return torch.stack(terms).mean() if terms else 0 * similarity.sum()


def rank_n_contrast(
    logits: Tensor, order: LabelOrder, *, denominator: Denominator = "at_least", symmetric: bool = False
) -> Tensor:
    """The Rank-N-Contrast loss of EmotionRankCLAP, Eq. 3-4 (F4), a scalar that flows gradient to `logits`.

    Args:
        logits: (..., N, N) cosine / tau; row i is the anchor (audio i), column j the candidate (text j).
        order: `label_order` of the labels of the N pairs; its dimensions are the last ones of `logits`.
        denominator: which candidates k stand in the denominator of pair (i, j), d being the label distance (F5):
            `at_least`: d_ik >= d_ij, j and its ties among them. The original Rank-N-Contrast and the default.
            `beyond`: d_ik > d_ij, as printed. Pairs with an empty set are dropped and the mean is over the pairs
            kept (0 where none is). j is not in its own denominator, so the loss is unbounded below: once a row is
            in order, every step of tau towards 0 lowers it without end.
            `beyond_and_self`: d_ik > d_ij, and j itself.
        symmetric: half audio -> text (rows), half text -> audio (columns); the paper's is audio -> text alone.

    Returns:
        The mean over leading dimensions of each batch's mean over pairs, in the dtype of `logits`.

    Relations: with `at_least` the pairs j = i are exactly CLAP's audio -> text cross-entropy, the others put the
    candidates in order; where all logits are equal the loss is the mean of log|S_ij|.
    Sums are float64 about each row's mid-range: exact for rows that span up to 1,380 (cosine / .01 spans 200).
    References: Zha et al., "Rank-N-Contrast", NeurIPS 2023 (F15); Chandra et al., Interspeech 2025 (F4).
    """
    loss: Tensor = _RankNContrast.apply(logits, order, denominator, symmetric)
    return loss


def rank_n_contrast_gradient(
    logits: Tensor,
    order: LabelOrder,
    *,
    denominator: Denominator = "at_least",
    symmetric: bool = False,
    with_gradient: bool = True,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each batch's own loss (...) and its gradient (..., N, N), without autograd; arguments of `rank_n_contrast`.

    Without `with_gradient` the gradient is empty. It is written into `out`, contiguous, which may be `logits`: at
    N = 4096 memory that the process has not used yet takes a fifth of the time.
    """
    logits = logits.detach()
    gradient = (logits.new_empty(logits.shape) if out is None else out) if with_gradient else None
    transposed = logits.mT.contiguous() if symmetric else None  # before the gradient may take their place
    losses = _one_direction(logits, order, denominator=denominator, gradient=gradient)
    if transposed is not None:
        of_text = transposed if with_gradient else None
        losses = (losses + _one_direction(transposed, order, denominator=denominator, gradient=of_text)) / 2
        if gradient is not None:
            gradient.add_(transposed.mT).div_(2)
    return losses, logits.new_empty(0) if gradient is None else gradient


@dataclass(frozen=True)
class Ranking(LogitsObjective):
    """Rank-N-Contrast as an objective (`pipeline.objectives.space.Objective`)."""

    config: RankingConfig

    @property
    def _options(self) -> dict[str, Any]:
        return {"denominator": self.config.denominator, "symmetric": self.config.symmetric}

    def prepare(self, pairs: CachedPairs, rows: Tensor, _: Tensor) -> LabelOrder:
        columns = [LABEL_COLUMNS.index(name) for name in self.config.labels]
        weights = torch.tensor(self.config.weights or [1.0] * len(columns), dtype=torch.float64, device=rows.device)
        return label_order(pairs.labels[rows][..., columns] * weights, distance=self.config.distance)

    def loss(self, logits: Tensor, prepared: LabelOrder) -> Tensor:
        return rank_n_contrast(logits, prepared, **self._options)

    def gradient(self, logits: Tensor, prepared: LabelOrder, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        return rank_n_contrast_gradient(logits, prepared, **self._options, with_gradient=with_gradient, out=logits)


class _RankNContrast(torch.autograd.Function):
    """The gradient is made on the way forward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, order: LabelOrder, denominator: Denominator, symmetric: bool) -> Tensor:
        needed = ctx.needs_input_grad[0]
        losses, gradient = rank_n_contrast_gradient(
            logits, order, denominator=denominator, symmetric=symmetric, with_gradient=needed
        )
        if needed:
            ctx.save_for_backward(gradient)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        batches = gradient.shape[:-2].numel()
        return gradient * (grad_output / batches), None, None, None


def _one_direction(logits: Tensor, order: LabelOrder, *, denominator: Denominator, gradient: Tensor | None) -> Tensor:
    """Losses (...); fills `gradient` (..., N, N) where there is one. Leading dimensions that `order` lacks share it."""
    size, rows = logits.shape[-1], order.rows
    flat = logits.reshape(-1, rows, size)  # (C, R, N)
    gradient = None if gradient is None else gradient.view(flat.shape)
    if denominator == "beyond":  # a pair counts 1 / (pairs kept in its batch), (R, 1); in the others all are kept
        weight = order.kept().clamp(min=1).double().reciprocal().repeat_interleave(size)[:, None]
    else:
        weight = torch.full((), 1 / size**2, dtype=torch.float64, device=logits.device)
    elements = BLOCK_ELEMENTS if isinstance(order, RankOrder) else _grid_elements(size)
    block = max(1, elements // (flat.shape[0] * size)) if logits.device.type == "cpu" else rows
    if isinstance(order, RankOrder) and rows <= block:  # at N = 64, slices and their views cost a fifth
        sums = _sorted_block(flat, order, denominator=denominator, weight=weight, gradient=gradient)
    else:
        parts = []
        for place, part in order.blocks(block):
            block_weight = weight[place] if weight.dim() else weight
            block_gradient = None if gradient is None else gradient[:, place]
            options: dict[str, Any] = {"denominator": denominator, "weight": block_weight, "gradient": block_gradient}
            if isinstance(part, RankOrder):
                parts.append(_sorted_block(flat[:, place], part, **options))
            else:
                parts.append(_grid_block(flat[:, place], part, **options))
        sums = torch.cat(parts, -1)
    return sums.view(logits.shape[:-1]).sum(-1).to(logits.dtype)


def _sorted_block(
    logits: Tensor, order: RankOrder, *, denominator: Denominator, weight: Tensor, gradient: Tensor | None
) -> Tensor:
    """Weighted sums (C, R) of the losses of some rows (C, R, N), by running sums over sorted candidates.

    Fills `gradient` (C, R, N) where there is one.
    """
    size = logits.shape[-1]
    candidates, since, until = (
        tensor.long().view(-1, size).expand_as(logits) for tensor in (order.candidates, order.since, order.until)
    )
    power, scores = _exponentials(logits.gather(-1, candidates))
    running = power.cumsum(-1)
    if denominator == "at_least":
        positive = None
        total = running.gather(-1, until)  # the q-th nearest's denominator; its sums are read from that end
    else:
        # A dropped pair of `beyond` gets itself as its set: log(e_j / e_j) = 0, and its slope 1 - 1 = 0.
        first = size - 1 - since
        positive = power if denominator == "beyond_and_self" else power * (first == 0)
        total = pad(running, (1, 0)).gather(-1, first).add_(positive).flip(-1)
    losses = _log(total).sum(-1).sub_(scores).mul_(weight.squeeze(-1))
    if gradient is None:
        return losses
    share = torch.div(weight, total)
    nearer = share.cumsum(-1)  # the q-th nearest: sum of weight / denominator of it and all nearer (F16)
    if positive is None:
        slope = nearer.gather(-1, since).mul_(power)
    else:
        after = size - 1 - until.flip(-1)  # how many are nearer than the ties
        slope = pad(nearer, (1, 0)).gather(-1, after).mul_(power).add_(positive * share.flip(-1))
    gradient.scatter_(-1, candidates, slope.sub_(weight).to(gradient.dtype))
    return losses


def _grid_block(
    logits: Tensor, groups: Groups, *, denominator: Denominator, weight: Tensor, gradient: Tensor | None
) -> Tensor:
    """`_sorted_block` by running sums over classes of equally far candidates."""
    rank, group = groups.rank.long().expand(len(logits), -1, -1), groups.group.expand_as(logits)  # (C, R, G), (C, R, N)
    power, scores = _exponentials(logits)

    def class_sums(values: Tensor) -> Tensor:
        """Candidates (C, R, N) -> their sums over each class, (C, R, T)."""
        by_group = values.new_zeros(rank.shape).scatter_add_(-1, group, values)
        return values.new_zeros(*rank.shape[:2], groups.count.shape[-1]).scatter_add_(-1, rank, by_group)

    def per_candidate(values: Tensor) -> Tensor:
        """Classes (C, R, T) -> candidates (C, R, N)."""
        return values.gather(-1, rank).gather(-1, group)

    running = class_sums(power).cumsum(-1)
    if denominator == "at_least":
        losses = _log(running).mul_(groups.count).sum(-1).sub_(scores).mul_(weight)
        if gradient is not None:
            share = torch.div(groups.count, running).mul_(weight)
            gradient.copy_(per_candidate(_from_the_end(share)).mul_(power).sub_(weight))
        return losses
    positive = power if denominator == "beyond_and_self" else power * (groups.rank == 0).gather(-1, group[0])
    total = per_candidate(pad(running, (1, -1))).add_(positive)
    losses = _log(total).sum(-1).sub_(scores).mul_(weight.squeeze(-1))
    if gradient is not None:
        share = torch.div(weight, total)
        nearer = pad(_from_the_end(class_sums(share)), (-1, 1))
        gradient.copy_(per_candidate(nearer).mul_(power).add_(positive * share).sub_(weight))
    return losses


def _grid_elements(size: int) -> int:
    """Elements of a block on the grid: 128 rows, within limits. What goes over classes is short, and rows make up."""
    return min(max(BLOCK_ELEMENTS, 128 * size), 4 * BLOCK_ELEMENTS)


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """float64 exponentials of each row about its mid-range, and the sum of the shifted row."""
    middle = (logits.amax(-1, keepdim=True) / 2).add_(logits.amin(-1, keepdim=True), alpha=0.5)
    shifted = logits.to(torch.float64, copy=True).sub_(middle)
    total = shifted.sum(-1)
    if _NUMPY and shifted.device.type == "cpu":
        np.exp(shifted.numpy(), out=shifted.numpy())
        return shifted, total
    return shifted.exp_(), total


def _from_the_end(values: Tensor) -> Tensor:
    """Each entry's sum with all that follow it in its row."""
    return values.flip(-1).cumsum(-1).flip(-1)


def _log(sums: Tensor) -> Tensor:
    return torch.from_numpy(np.log(sums.numpy())) if _NUMPY and sums.device.type == "cpu" else sums.log()
