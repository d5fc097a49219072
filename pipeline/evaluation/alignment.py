"""Cross-modal alignment (F12, Table 1): how far apart the speech and the text vectors of the same pairs lie.

Trials of 5,000 pairs; three distances between the two point clouds: MMD, Wasserstein and sliced Wasserstein. The paper
leaves estimator, kernel width and solver open, so each number carries the convention it was computed with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cache.captions import Links
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.core.resources import cores
from pipeline.evaluation.significance import mean_and_std

BLOCK_ROWS = 1024  # of a distance matrix held at once: 20 MB of float32 against 5,000 points
SINKHORN_DEPTH, SINKHORN_STEPS = 80.0, 50
MEDIAN_POINTS = 1000  # subsample of the median heuristic: 5e5 distances


def mmd(x: Tensor, y: Tensor, gamma: float) -> float:
    """Maximum mean discrepancy of (n, d) and (m, d) points: sqrt of the biased estimate, `k = exp(-gamma |x-y|^2)`.

    Biased: the means of k(x, x) and k(y, y) are over all pairs, a point with itself among them (a V-statistic; Gretton
    et al., JMLR 2012, Eq. 5). Products are in the dtype of the points, sums in float64, blocks of rows in memory.
    """

    def mean_kernel(a: Tensor, b: Tensor) -> float:
        total = torch.zeros((), dtype=torch.float64, device=a.device)
        for block in torch.split(a, BLOCK_ROWS):
            total += _squared_distances(block, b).mul_(-gamma).exp_().sum(dtype=torch.float64)
        return total.item() / (len(a) * len(b))

    return math.sqrt(max(0.0, mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)))


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Exact 1-Wasserstein distance of two clouds of n points each, Euclidean ground cost.

    With equal weights the optimal plan is an assignment (F44: the value `ot.emd2` gives). Costs are float64: from
    float32 products, coincident points would lie 5e-4 apart.
    """
    x, y = x.double().cpu(), y.double().cpu()
    cost = torch.cat([_squared_distances(block, y).sqrt_() for block in torch.split(x, BLOCK_ROWS)])  # (n, n)
    rows, columns = linear_sum_assignment(_reduced(cost).numpy())
    return float(cost.numpy()[rows, columns].mean())


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int, seed: int) -> float:
    """Mean over random directions of the 1-Wasserstein distance of the projections of two clouds of n points each."""
    onto = directions(x.shape[1], projections, seed).to(x)
    gaps = (x @ onto).sort(dim=0).values - (y @ onto).sort(dim=0).values  # (n, projections)
    return gaps.abs().mean(dtype=torch.float64).item()


def directions(dim: int, count: int, seed: int) -> Tensor:
    """(dim, count) float64 unit columns, uniform on the sphere."""
    normal = np.random.default_rng(seed).standard_normal((dim, count))
    return torch.from_numpy(normal / np.linalg.norm(normal, axis=0))


def median_gamma(x: Tensor, y: Tensor, *, seed: int) -> float:
    """The median heuristic: `1 / (2 median^2)`, so that the kernel's standard deviation is the median distance.

    The median is over distinct pairs of up to 1,000 points drawn from x and y together; coincident points are left
    out, and where all coincide (any kernel width gives MMD 0) it is 1.
    """
    points = torch.cat([x, y]).double()
    chosen = np.random.default_rng(seed).permutation(len(points))[:MEDIAN_POINTS]
    squared = torch.pdist(points[torch.from_numpy(chosen)]).square()
    squared = squared[squared > 0]
    return 1 / (2 * squared.median().item()) if len(squared) else 1.0


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_(min=0)


def _reduced(cost: Tensor) -> Tensor:
    """`cost` less a potential for each row and column: the same assignments are optimal, and found sooner.

    The potentials are Sinkhorn's, near the optimal ones; any others would do, so nothing of the result is approximate.
    scipy's search is short where the best entries are near zero: 3 s in place of 50 for 5,000 trained embeddings.
    """
    lowest = cost.min(1, keepdim=True).values
    above = (cost - lowest).float()
    scale = above.max() / SINKHORN_DEPTH  # the kernel spans what float32 can hold
    if not scale > 0:
        return cost
    kernel = above.div_(-scale).exp_()
    column = torch.ones(cost.shape[1])
    for _ in range(SINKHORN_STEPS):
        row = (kernel @ column).reciprocal()
        column = (row @ kernel).reciprocal()
    row_potential, column_potential = (scale * row.log()).double(), (scale * column.log()).double()
    if not (row_potential.isfinite().all() and column_potential.isfinite().all()):
        return cost
    reduced = cost - lowest - row_potential[:, None] - column_potential
    reduced -= reduced.min(1, keepdim=True).values
    return reduced - reduced.min(0, keepdim=True).values


def alignment(
    speech: Tensor,
    text: Tensor,
    links: Links,
    config: EvaluateConfig,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Mean and std over `config.trials` trials of MMD, Wasserstein and sliced Wasserstein distance (F12).

    Args:
        speech: (n, d) unit vectors of the split's utterances.
        text: (T, d) unit vectors that `links.text` counts rows of.
        links: the captions of these n utterances; those without a caption take no part.
        config: `trials`, `pairs`, `mmd_gamma`, `projections`, `seed`.
        progress: called with (trials done, trials in all) after each.

    Returns:
        `{"mmd": {"mean", "std", "values", "convention"}, "wasserstein": ..., "sliced_wasserstein": ..., "trials",
        "pairs"}`; std is over trials (n - 1), 0 for a single one. Trial t depends on `seed` and t alone.

    Raises:
        UsageError: fewer than two utterances have a caption. EmotionRankError: a vector is not finite.
    """
    for name, vectors in (("speech", speech), ("text", text)):
        wrong = int((~vectors.isfinite().all(1)).sum())
        if wrong:
            found, action = (
                f"{wrong} of {len(vectors)} are not finite",
                "Train the heads again with a lower learning rate.",
            )
            raise EmotionRankError(f"{name} vectors", found, "unit vectors", action)
    captioned = int((np.diff(links.offsets) > 0).sum())
    if captioned < 2:
        raise UsageError(
            "alignment",
            f"{captioned} utterances with a caption",
            "at least 2 in the split",
            "Evaluate another split, or run extract-features with captions for this one.",
        )
    trials = list(draws(links, config))
    gamma = config.mmd_gamma
    if gamma == "median":
        gamma = median_gamma(speech[trials[0][0]], text[trials[0][1]], seed=config.seed)

    def distances(trial: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
        x, y = speech[trial[0]], text[trial[1]]
        return mmd(x, y, gamma), wasserstein(x, y), sliced_wasserstein(x, y, config.projections, config.seed)

    values = np.empty((config.trials, 3))
    with ThreadPoolExecutor(cores()) as pool:  # a trial a core: the assignment is most of it, and has one thread
        for trial, of_trial in enumerate(pool.map(distances, trials)):
            values[trial] = of_trial
            if progress is not None:
                progress(trial + 1, config.trials)
    result: dict[str, Any] = {
        name: {**mean_and_std(column), "values": column.tolist(), "convention": convention}
        for (name, convention), column in zip(
            _conventions(config, gamma, captioned).items(), values.T.copy(), strict=True
        )
    }
    return {**result, "trials": config.trials, "pairs": min(config.pairs, captioned)}


def draws(links: Links, config: EvaluateConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Each trial's pairs: utterance rows and text rows (m,), utterances without replacement, one caption each."""
    counts = np.diff(links.offsets)
    captioned = np.flatnonzero(counts)
    for trial in range(config.trials):
        generator = np.random.default_rng([config.seed, trial])
        rows = generator.choice(captioned, min(config.pairs, len(captioned)), replace=False)
        texts = links.text[links.offsets[rows] + generator.integers(counts[rows])]
        yield torch.from_numpy(rows), torch.from_numpy(texts)


def _conventions(config: EvaluateConfig, gamma: float, captioned: int) -> dict[str, str]:
    if captioned > config.pairs:
        pairs = f"{config.trials} trials of {config.pairs} of {captioned} utterances without replacement"
    else:
        pairs = f"{config.trials} trials of all {captioned} utterances, so that only the captions drawn vary"
    pairs += ", one caption each; std over trials"
    kernel = f"gamma {gamma:.6g}"
    if config.mmd_gamma == "median":
        kernel += ", 1 / (2 median distance^2) of the first trial"
    return {
        "mmd": f"sqrt of the biased (V-statistic) MMD^2, k(x, y) = exp(-gamma |x - y|^2), {kernel}; {pairs}",
        "wasserstein": f"exact 1-Wasserstein, Euclidean cost, by assignment; {pairs}",
        "sliced_wasserstein": f"1-Wasserstein, mean of {config.projections} random directions; {pairs}",
    }
