"""What Rank-N-Contrast needs of the labels: each anchor's candidates, from the farthest to the nearest (F6, F16).

    order = label_order(labels)      # (..., N, K): once per batch, from the labels alone, ahead of the step

Two forms give the same loss. `RankOrder` sorts each row. `GridOrder` is for labels that repeat, as means of five
ratings do: it groups the pairs of one label, sorts the few distinct labels, and leaves sums over groups to the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Distance = Literal["l2", "l1"]

# Squared distances are compared as integers, in units of 2^-20. Labels are means of a few integer ratings, held as
# float64, float32 or decimals of six digits: at most 5e-7 off, so that on the 1-7 plane equal squared distances come
# out at most 5e-5 apart. Those that differ do so by more (.04 among means of five ratings; F6).
UNITS = 2**20
TIE = 64  # units (6.1e-5): neighbours in a sorted row that are no farther apart are tied
_INDEX_BITS = 20  # of a sort key: up to 2^20 candidates, squared distances up to 2^23
BLOCK_ELEMENTS = 2**16  # elements: a block's float64 temporaries stay in a core's cache

_INT64_SIZE = 256  # candidates up to which indices are int64, as `gather` takes them; beyond, the smallest type
_GRID_SIZE = 512  # candidates from which groups take less time than a sorted row ...
_DISTINCT_SHARE = 0.8  # ... where no more than this part of the labels is distinct


@dataclass(frozen=True)
class RankOrder:
    """Each anchor's candidates by label distance, farthest first. All (..., N, N), int64 or smaller.

    Position p of row i holds candidate `candidates[i, p]`. Its ties begin `since[i, p]` places before the nearest
    candidate. The q-th nearest candidate's ties end at position `until[i, q]`: indexed from this end, neither running
    sum of the loss has to be flipped.
    """

    candidates: Tensor
    since: Tensor
    until: Tensor

    @property
    def rows(self) -> int:
        """Rows of all batches."""
        return self.candidates.shape[:-1].numel()

    @property
    def first_tie(self) -> Tensor:
        """The position of the first tie of the candidate at each position."""
        return self.candidates.shape[-1] - 1 - self.since

    @property
    def last_tie(self) -> Tensor:
        """The position of the last tie of the candidate at each position."""
        return self.until.flip(-1)

    def __getitem__(self, batch: int) -> RankOrder:
        """The order of one batch of the leading dimension."""
        return RankOrder(self.candidates[batch], self.since[batch], self.until[batch])

    def kept(self) -> Tensor:
        """(batches,) how many pairs are not among the farthest of their anchor: `beyond` keeps those."""
        return (self.first_tie > 0).sum((-2, -1)).view(-1)

    def blocks(self, step: int) -> Iterator[tuple[slice, RankOrder]]:
        """`step` rows of all batches at a time: which rows, and their order (rows, N)."""
        candidates, since, until = (t.view(-1, t.shape[-1]) for t in (self.candidates, self.since, self.until))
        for start in range(0, self.rows, step):
            rows = slice(start, start + step)
            yield rows, RankOrder(candidates[rows], since[rows], until[rows])


@dataclass(frozen=True)
class Groups:
    """The N pairs of one batch grouped by label: G groups, and for each the classes of equally far groups.

    group: (N,) int64, the group of each pair.
    rank: (G, G) int16 or wider, the class of every group seen from each, 0 the farthest.
    count: (G, T) float64, pairs in each class; 0 beyond a row's last.
    """

    group: Tensor
    rank: Tensor
    count: Tensor


@dataclass(frozen=True)
class GridOrder:
    """Batches of pairs whose labels repeat; `leading` are the dimensions before (N, N), `batches` those in a row."""

    batches: tuple[Groups, ...]
    leading: tuple[int, ...]

    def __getitem__(self, batch: int) -> GridOrder:
        """The order of one batch of the leading dimension."""
        step, batch = math.prod(self.leading[1:]), range(self.leading[0])[batch]
        return GridOrder(self.batches[batch * step : (batch + 1) * step], self.leading[1:])

    @property
    def rows(self) -> int:
        """Rows of all batches."""
        return sum(len(batch.group) for batch in self.batches)

    def kept(self) -> Tensor:
        """(batches,) how many pairs are not among the farthest of their anchor: `beyond` keeps those."""
        return torch.stack([batch.count[batch.group, 1:].sum() for batch in self.batches])

    def blocks(self, step: int) -> Iterator[tuple[slice, Groups]]:
        """At most `step` rows of one batch at a time: which of all rows, and `Groups` with their ranks and counts."""
        first = 0
        for batch in self.batches:
            for anchors in torch.split(batch.group, step):
                rank, count = batch.rank.index_select(0, anchors), batch.count.index_select(0, anchors)
                yield slice(first, first + len(anchors)), Groups(batch.group, rank, count)
                first += len(anchors)


LabelOrder = RankOrder | GridOrder


def label_order(labels: Tensor, *, distance: Distance = "l2") -> LabelOrder:
    """The order of labels (..., N, K), which must be finite, in the form that makes the step fastest.

    That is `GridOrder` on a CPU for large batches whose labels repeat, else `RankOrder`.
    """
    size = labels.shape[-2]
    if labels.device.type != "cpu" or size < _GRID_SIZE:
        return rank_order(labels, distance=distance)
    distinct = [torch.unique(batch, dim=0, return_inverse=True) for batch in labels.reshape(-1, *labels.shape[-2:])]
    if max((len(points) for points, _ in distinct), default=size) > _DISTINCT_SHARE * size:
        return rank_order(labels, distance=distance)
    return GridOrder(tuple(_groups(batch, distance) for batch in distinct), tuple(labels.shape[:-2]))


def grid_order(labels: Tensor, *, distance: Distance = "l2") -> GridOrder:
    """Group the pairs of every batch of labels (..., N, K) by their label, whether or not any repeat."""
    batches = labels.reshape(-1, *labels.shape[-2:])
    distinct = [torch.unique(batch, dim=0, return_inverse=True) for batch in batches]
    return GridOrder(tuple(_groups(batch, distance) for batch in distinct), tuple(labels.shape[:-2]))


def rank_order(labels: Tensor, *, distance: Distance = "l2") -> RankOrder:
    """Sort the candidates of every anchor by L2 (squared) or L1 distance of the labels (..., N, K), farthest first.

    Labels must be finite. Ties are found by gaps in the sorted row, not by rounding, so none is split at the edge of
    a bin. Both directions share one order, since text j carries the label of utterance j.
    """
    *leading, size, _ = labels.shape
    empty = torch.empty((*leading, size, size), dtype=_index_type(size), device=labels.device)
    order = RankOrder(empty, empty.clone(), empty.clone())
    position = torch.arange(size, device=labels.device)
    step = max(1, BLOCK_ELEMENTS // max(1, math.prod(leading) * size)) if labels.device.type == "cpu" else size
    for start in range(0, size, step):
        rows = slice(start, start + step)
        differences = [label[..., rows, None] - label[..., None, :] for label in labels.double().unbind(-1)]
        powers = [d.square_() if distance == "l2" else d.abs_() for d in differences]
        distances = torch.stack(powers).sum(0)  # (..., rows, N), L2 squared
        keys = ((distances * -UNITS).round_().long() << _INDEX_BITS).bitwise_or_(position)
        # numpy's vectorised sort takes 2.5-4 times less than torch's on a CPU
        keys = torch.from_numpy(np.sort(keys.numpy(), axis=-1)) if keys.device.type == "cpu" else keys.sort(-1).values
        gap = (keys >> _INDEX_BITS).diff(dim=-1) > TIE  # ascending
        edge = torch.ones_like(keys[..., :1], dtype=torch.bool)
        first = torch.where(torch.cat([edge, gap], -1), position, 0).cummax(-1).values
        order.candidates[..., rows, :] = keys & (2**_INDEX_BITS - 1)
        order.since[..., rows, :] = size - 1 - first
        order.until[..., rows, :] = (
            torch.where(torch.cat([gap, edge], -1), position, size - 1).flip(-1).cummin(-1).values
        )
    return order


def _index_type(size: int) -> torch.dtype:
    if size <= _INT64_SIZE:
        return torch.int64
    return torch.int16 if size < 2**15 else torch.int32


def _groups(distinct: tuple[Tensor, Tensor], distance: Distance) -> Groups:
    """`Groups` of distinct labels (G, K) and the one of each pair (N,)."""
    points, group = distinct
    order = rank_order(points, distance=distance)
    starts = order.first_tie == torch.arange(len(points), device=points.device)
    position_class = starts.cumsum(-1) - 1
    rank = torch.empty_like(position_class).scatter_(-1, order.candidates.long(), position_class)
    count = torch.zeros(len(points), int(rank.max()) + 1, dtype=torch.float64, device=points.device)
    pairs = group.bincount(minlength=len(points)).double()
    count.scatter_add_(-1, rank, pairs.expand_as(rank))
    return Groups(group, rank.to(_index_type(_INT64_SIZE + len(points))), count)
