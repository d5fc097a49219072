"""Exact optimal transport of n points of weight 1/n onto distinct targets, each taken a given number of times.

    transport_cost(cost, counts)    # (n, U) costs of distinct targets: the mean cost of the best assignment

The value is the optimum's, whatever makes the search short: potentials near the optimal ones (Sinkhorn's, of a falling
temperature: Cuturi, NeurIPS 2013; Schmitzer, SIAM J. Sci. Comput. 41, 2019) leave a few points to be moved along
shortest paths. Any potentials v bound the optimum from below by their dual value, mean_i min_j (c_ij - v_j) + mean v
(over targets as often as they are taken). So an assignment whose cost is that bound is optimal, and one that is not
proven so is solved by scipy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from torch import Tensor

Values = NDArray[np.float64]

PROVEN = 1e-9  # relative gap between an assignment's cost and its bound; in practice 1e-16
COARSE, COARSE_STEPS = (8, 32), 10  # temperatures as parts of the mean cost, over all entries in float32
FINE, FINE_STEPS = (64, 256, 1024, 4096, 16384), 50  # over the entries that are near, in float64
NEAR = 64  # targets of a point that are near, on average
SAMPLED_ROWS = 256  # from which it is estimated how near that is
TINY = np.finfo(np.float64).tiny
MAX_SEARCHES = 50_000  # targets searched from in all: seconds, after which scipy's search is the shorter


def transport_cost(cost: Tensor, counts: Tensor) -> float:
    """The mean cost of the best assignment by (n, U) float64 costs whose column j stands for `counts[j]` equal ones.

    It is that of scipy's solver on all n columns, many times sooner where targets recur.
    """
    potentials = near_potentials(cost, counts)
    costs, uses = cost.numpy(), counts.numpy()
    if 2 * len(uses) <= len(costs):  # where few targets recur, scipy's search is the shorter
        found = augment(costs, uses, potentials)
        if found is not None:
            value = float(costs[np.arange(len(costs)), found.targets].mean())
            if value - dual_value(costs, uses, found.potentials) <= PROVEN * value:
                return value
    reduced = _reduced(cost, torch.from_numpy(potentials))[0].numpy()  # the same assignments are the best of it
    copies = np.repeat(np.arange(len(uses)), uses)
    rows, columns = linear_sum_assignment(reduced if len(uses) == len(costs) else reduced[:, copies])
    return float(costs[rows, copies[columns]].mean())


def dual_value(costs: Values, counts: NDArray[np.int64], potentials: Values) -> float:
    """What no assignment costs less than, on average: the dual value of the targets' `potentials` (U,)."""
    return float(((costs - potentials).min(1).sum() + (counts * potentials).sum()) / len(costs))


def near_potentials(cost: Tensor, counts: Tensor) -> Values:
    """(U,) potentials of the targets, near the optimal ones; finite for any costs."""
    scale = (cost - cost.min(1, keepdim=True).values).mean().item()
    if not scale > 0:
        return np.zeros(len(counts))
    relative = cost / scale
    reduced, potentials = _reduced(relative, _coarse(relative.float(), counts.float()).double())
    sample = reduced[:: max(1, len(cost) // SAMPLED_ROWS)].flatten()
    near = sample.kthvalue(max(1, int(min(1.0, NEAR / len(counts)) * len(sample)))).values
    rows, targets = (indices.numpy() for indices in (reduced <= near).nonzero(as_tuple=True))
    entries = csr_array((relative.numpy()[rows, targets], (rows, targets)), shape=tuple(cost.shape))
    return scale * _fine(entries, counts.numpy(), potentials.numpy())


def _reduced(cost: Tensor, potentials: Tensor) -> tuple[Tensor, Tensor]:
    """Non-negative (n, U) costs less potentials, with a 0 in each row and column; and those of the targets."""
    reduced = cost - potentials
    reduced -= reduced.min(1, keepdim=True).values
    smallest = reduced.min(0).values
    return reduced.sub_(smallest), potentials + smallest


def _coarse(cost: Tensor, counts: Tensor) -> Tensor:
    """Sinkhorn's potentials (U,) at the temperatures of `COARSE`, over all entries of `cost`."""
    potentials = torch.zeros_like(counts)
    for part in COARSE:
        reduced, potentials = _reduced(cost, potentials)
        kernel = reduced.mul_(-part).exp_()
        factors = torch.ones_like(counts)
        for _ in range(COARSE_STEPS):
            factors = counts / ((kernel @ factors).reciprocal() @ kernel)
        potentials = potentials + (factors.log() / part).nan_to_num(0, 0, 0)
    return potentials


def _fine(cost: csr_array, counts: NDArray[np.int64], potentials: Values) -> Values:
    """The same at the temperatures of `FINE`, over the entries that `cost` has: some in each row and column."""
    points = np.repeat(np.arange(cost.shape[0]), np.diff(cost.indptr))
    for part in FINE:
        reduced = cost.data - potentials[cost.indices]
        reduced -= np.minimum.reduceat(reduced, cost.indptr[:-1])[points]
        kernel = csr_array((np.exp(-part * reduced), cost.indices, cost.indptr), shape=cost.shape)
        transposed, factors = kernel.T, np.ones(len(counts))
        for _ in range(FINE_STEPS):
            factors = counts / np.maximum(transposed @ (1 / (kernel @ factors)), TINY)
        potentials = potentials + np.log(factors) / part
    return potentials


class Assignment(NamedTuple):
    """A best assignment, and potentials that prove it."""

    targets: NDArray[np.int64]  # (n,)
    potentials: Values  # (U,)


def augment(costs: Values, counts: NDArray[np.int64], potentials: Values) -> Assignment | None:
    """The best assignment, by successive shortest paths from the `potentials`; None after `MAX_SEARCHES`.

    Each point starts at the target of its least reduced cost. While a target has too many, one point of it moves along
    the shortest path to a target with too few, each on the way passing one of its own on (Dijkstra's algorithm on
    reduced costs; Ahuja, Magnanti and Orlin, Network Flows, 1993, section 9.7). Good potentials leave few paths.
    """
    targets, potentials = (costs - potentials).argmin(1), potentials.copy()
    points = [np.flatnonzero(targets == target).tolist() for target in range(len(counts))]
    free = counts - [len(held) for held in points]
    searches = 0
    while (free < 0).any():
        source = int(free.argmin())
        distance = np.full(len(counts), np.inf)
        distance[source] = 0
        ahead, before = distance.copy(), np.full(len(counts), -1)  # ahead: inf where searched
        searched = []
        while free[target := int(ahead.argmin())] <= 0:
            searched.append(target)
            ahead[target] = np.inf
            held = costs[points[target]]
            step = (held - held[:, target, None]).min(0) + (potentials[target] - potentials)
            reached = distance[target] + np.maximum(step, 0)  # below 0 by rounding alone
            nearer = np.flatnonzero(reached < distance)
            distance[nearer] = ahead[nearer] = reached[nearer]
            before[nearer] = target
        searches += len(searched)
        if searches > MAX_SEARCHES:
            return None
        potentials[searched] -= distance[target] - distance[searched]
        free[source] += 1
        free[target] -= 1
        while target != source:
            origin = before[target]
            dearer = costs[points[origin], target] - costs[points[origin], origin]
            moved = points[origin].pop(int(dearer.argmin()))
            points[target].append(moved)
            targets[moved] = target
            target = origin
    return Assignment(targets, potentials)
