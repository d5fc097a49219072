"""Rank-N-Contrast across modalities (F4-F8, F16), in O(N^2) once the order of the labels is known.

    order = rank_order(labels)                        # (N, K) -> once per batch, from the labels alone
    loss = rank_n_contrast(cosines / tau, order)      # logits (N, N): row i is audio i, column j is text j

For anchor i and candidate j the loss is `-log(exp(s_ij) / sum_{k in S_ij} exp(s_ik))`, the mean of all pairs. With a
row sorted by label distance, farthest first, every `S_ij` is a beginning of the row: its sum is one entry of a running
sum. The gradient is another running sum from the other end, so the forward pass already produces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

Denominator = Literal["at_least", "beyond", "beyond_and_self"]

# Squared distances are compared as integers, in units of 2^-20. Labels are means of a few integer ratings, held as
# float64, float32 or decimals of six digits: at most 5e-7 off, so that on the 1-7 plane equal squared distances come
# out at most 5e-5 apart. Those that differ do so by more (.04 among means of five ratings; F6).
UNITS = 2**20
TIE = 64  # units (6.1e-5): neighbours in a sorted row that are no farther apart are tied
_INDEX_BITS = 20  # of a sort key: up to 2^20 candidates, squared distances up to 2^23
_BLOCK = 2**16  # elements: a block's float64 temporaries stay in a core's cache


@dataclass(frozen=True)
class RankOrder:
    """Each anchor's candidates by label distance, farthest first. All (..., N, N) int64.

    Position p of row i holds candidate `order[i, p]`; positions `first_tie[i, p]` to `last_tie[i, p]` are its ties.
    """

    order: Tensor
    first_tie: Tensor
    last_tie: Tensor

    def __getitem__(self, batch: int) -> RankOrder:
        """The order of one batch of the leading dimension."""
        return RankOrder(self.order[batch], self.first_tie[batch], self.last_tie[batch])


def rank_order(labels: Tensor, *, distance: Literal["l2", "l1"] = "l2") -> RankOrder:
    """Sort the candidates of every anchor by L2 (squared) or L1 distance of the labels (..., N, K), farthest first.

    Labels must be finite. Ties are found by gaps in the sorted row, not by rounding, so none is split at the edge of
    a bin. Both directions share one order, since text j carries the label of utterance j.
    """
    size = labels.shape[-2]
    columns = labels.double().unbind(-1)
    apart = [c[..., :, None] - c[..., None, :] for c in columns]
    far = torch.stack([d.square() if distance == "l2" else d.abs() for d in apart]).sum(0)  # (..., N, N)
    units = (far * UNITS).round().long()
    position = torch.arange(size, device=labels.device)
    keys = _sorted(-units << _INDEX_BITS | position)
    units = keys >> _INDEX_BITS  # negative, ascending
    gap = units.diff(dim=-1) > TIE
    edge = torch.ones_like(units[..., :1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, gap], -1), position, 0).cummax(-1).values
    last = torch.where(torch.cat([gap, edge], -1), position, size - 1).flip(-1).cummin(-1).values.flip(-1)
    return RankOrder(order=keys & (2**_INDEX_BITS - 1), first_tie=first, last_tie=last)


def rank_n_contrast(
    logits: Tensor, order: RankOrder, *, denominator: Denominator = "at_least", symmetric: bool = False
) -> Tensor:
    """The Rank-N-Contrast loss of EmotionRankCLAP, Eq. 3-4 (F4), a scalar that flows gradient to `logits`.

    Args:
        logits: (..., N, N) cosine / tau; row i is the anchor (audio i), column j the candidate (text j).
        order: `rank_order` of the labels of the N pairs; its dimensions are the last ones of `logits`.
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
    loss: Tensor = _Ranking.apply(logits, order, denominator, symmetric)
    return loss


def rank_n_contrast_gradient(
    logits: Tensor,
    order: RankOrder,
    *,
    denominator: Denominator = "at_least",
    symmetric: bool = False,
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """Each batch's own loss (...) and its gradient (..., N, N), without autograd; arguments of `rank_n_contrast`.

    Without `with_gradient` the gradient is empty.
    """
    losses, gradient = _one_direction(logits, order, denominator, with_gradient)
    if symmetric:
        other, turned = _one_direction(logits.mT, order, denominator, with_gradient)
        losses = (losses + other) / 2
        gradient = (gradient + turned.mT) / 2 if with_gradient else gradient
    return losses, gradient


class _Ranking(torch.autograd.Function):
    """The gradient is made on the way forward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, order: RankOrder, denominator: Denominator, symmetric: bool) -> Tensor:
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
        return grad_output * gradient / batches, None, None, None


def _one_direction(
    logits: Tensor, order: RankOrder, denominator: Denominator, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Losses (...) and gradient (..., N, N), or an empty one. Leading dimensions that `order` lacks share it."""
    size = logits.shape[-1]
    flat = logits.reshape(-1, order.order.shape[:-1].numel(), size)  # (C, R, N)
    rows = RankOrder(*(t.reshape(-1, size) for t in (order.order, order.first_tie, order.last_tie)))  # (R, N)
    weight = _pair_weight(order, denominator)  # (R, 1)
    losses = torch.empty(flat.shape[:2], dtype=torch.float64, device=logits.device)
    gradient = torch.empty_like(flat) if with_gradient else flat.new_empty(0)
    step = max(1, _BLOCK // (flat.shape[0] * size)) if logits.device.type == "cpu" else flat.shape[1]
    for start in range(0, flat.shape[1], step):
        block = slice(start, start + step)
        part = RankOrder(*(t[block].expand(flat.shape[0], -1, -1) for t in (rows.order, rows.first_tie, rows.last_tie)))
        pairs, slope = _block(flat[:, block], part, denominator, with_gradient)
        losses[:, block] = (pairs * weight[block]).squeeze(-1)
        if slope is not None:
            gradient[:, block].scatter_(-1, part.order, slope.mul_(weight[block]).to(logits.dtype))
    return losses.view(logits.shape[:-1]).sum(-1).to(logits.dtype), gradient.view(logits.shape if with_gradient else 0)


def _pair_weight(order: RankOrder, denominator: Denominator) -> Tensor:
    """What one pair of each row counts: 1 / (pairs kept in its batch). (rows, 1) float64."""
    *batches, size, _ = order.order.shape
    if denominator == "beyond":
        kept = (order.first_tie > 0).sum((-2, -1), keepdim=True).clamp(min=1)  # (..., 1, 1)
    else:
        kept = torch.full((*batches, 1, 1), size * size, device=order.order.device)
    return kept.expand(*batches, size, 1).reshape(-1, 1).double().reciprocal()


def _block(
    logits: Tensor, order: RankOrder, denominator: Denominator, with_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Each row's sum of losses (C, R, 1), and d(sum)/d(logit) in sorted order (C, R, N). Both float64."""
    shifted = logits.gather(-1, order.order).double()
    low, high = shifted.aminmax(dim=-1, keepdim=True)
    shifted -= (low + high) / 2
    power = shifted.exp()
    running = power.cumsum(-1)
    if denominator == "at_least":
        own = None
        total = running.gather(-1, order.last_tie)
    else:
        # A dropped pair of `beyond` gets itself as its set: log(e_j / e_j) = 0, and its slope 1 - 1 = 0.
        own = power if denominator == "beyond_and_self" else power * (order.first_tie == 0)
        total = pad(running, (1, 0)).gather(-1, order.first_tie) + own
    pairs = total.log().sum(-1, keepdim=True) - shifted.sum(-1, keepdim=True)
    if not with_slope:
        return pairs, None
    share = total.reciprocal()
    nearer = share.flip(-1).cumsum(-1).flip(-1)  # position p: sum of 1/denominator of p and all nearer (F16)
    if own is None:
        return pairs, nearer.gather(-1, order.first_tie).mul_(power).sub_(1)
    slope = pad(nearer, (0, 1)).gather(-1, order.last_tie + 1).mul_(power)
    return pairs, slope.add_(own * share).sub_(1)


def _sorted(keys: Tensor) -> Tensor:
    """Ascending along the last axis; numpy's vectorised sort takes 2.5-4 times less than torch's on a CPU."""
    if keys.device.type != "cpu":
        return keys.sort(-1).values
    return torch.from_numpy(np.sort(keys.numpy(), axis=-1))
