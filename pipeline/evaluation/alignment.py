"""Cross-modal alignment (F12, Table 1): how far apart the speech and the text vectors of the same pairs lie.

Trials of 5,000 pairs; three distances between the two point clouds: MMD, Wasserstein and sliced Wasserstein. The paper
leaves estimator, kernel width and solver open, so each number carries the convention it was taken with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cache.captions import Links
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.core.resources import cores

BLOCK_ROWS = 1024  # of a distance matrix held at once: 20 MB of float32 against 5,000 points
SINKHORN_DEPTH, SINKHORN_STEPS = 80.0, 50
MEDIAN_POINTS = 1000  # subsample of the median heuristic: 5e5 distances


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
        `{"mmd": {"mean", "std", "convention"}, "wasserstein": ..., "sliced_wasserstein": ..., "trials", "pairs"}`;
        std is over trials (n - 1), 0 for a single one. Trial t depends on `seed` and t alone.

    Raises:
        UsageError: fewer than two utterances have a caption. EmotionRankError: a vector is not finite.
    """
    _refuse_non_finite(speech, text)
    captioned = int((np.diff(links.offsets) > 0).sum())
    if captioned < 2:
        raise UsageError(
            "alignment",
            f"{captioned} utterances with a caption",
            "at least 2 in the split",
            "Evaluate another split, or run extract-features with captions for this one.",
        )
    trials = list(draws(links, config))
    gamma = _gamma(speech[trials[0][0]], text[trials[0][1]], config)

    def measured(trial: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
        x, y = speech[trial[0]], text[trial[1]]
        return mmd(x, y, gamma), wasserstein(x, y), sliced_wasserstein(x, y, config.projections, config.seed)

    values = np.empty((config.trials, 3))
    with ThreadPoolExecutor(cores()) as pool:  # a trial a core: the assignment is most of it, and has one thread
        for trial, found in enumerate(pool.map(measured, trials)):
            values[trial] = found
            if progress is not None:
                progress(trial + 1, config.trials)
    conventions = _conventions(config, gamma, captioned)
    distances = {name: _summary(values[:, i], text_of) for i, (name, text_of) in enumerate(conventions.items())}
    return {**distances, "trials": config.trials, "pairs": min(config.pairs, captioned)}


def draws(links: Links, config: EvaluateConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Each trial's pairs: utterance rows and text rows (m,), utterances without replacement, one caption each."""
    counts = np.diff(links.offsets)
    captioned = np.flatnonzero(counts)
    for trial in range(config.trials):
        generator = np.random.default_rng([config.seed, trial])
        rows = generator.choice(captioned, min(config.pairs, len(captioned)), replace=False)
        texts = links.text[links.offsets[rows] + generator.integers(counts[rows])]
        yield torch.from_numpy(rows), torch.from_numpy(texts)


def mmd(x: Tensor, y: Tensor, gamma: float) -> float:
    """Maximum mean discrepancy of (n, d) and (m, d) points: sqrt of the biased estimate, `k = exp(-gamma |x-y|^2)`.

    Biased: the means of k(x, x) and k(y, y) are over all pairs, a point with itself among them (a V-statistic; Gretton
    et al., JMLR 2012, Eq. 5). Products are in the dtype of the points, sums in float64, blocks of rows in memory.
    """
    squared = _mean_kernel(x, x, gamma) + _mean_kernel(y, y, gamma) - 2 * _mean_kernel(x, y, gamma)
    return math.sqrt(max(0.0, squared))


def median_gamma(x: Tensor, y: Tensor, *, seed: int) -> float:
    """The median heuristic: `1 / (2 median^2)`, so that the kernel's standard deviation is the median distance.

    The median is over distinct pairs of up to 1,000 points drawn from x and y together; coincident points are left
    out, and where all coincide (any width gives MMD 0) it is 1.
    """
    points = torch.cat([x, y]).double()
    chosen = np.random.default_rng(seed).permutation(len(points))[:MEDIAN_POINTS]
    squared = torch.pdist(points[torch.from_numpy(chosen)]).square()
    squared = squared[squared > 0]
    return 1 / (2 * squared.median().item()) if len(squared) else 1.0


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Exact 1-Wasserstein distance of two clouds of n points each, Euclidean ground cost.

    With equal weights the optimal plan is an assignment (F44: the value `ot.emd2` gives). Costs are float64: from
    float32 products, coincident points would lie 5e-4 apart.
    """
    x, y = x.double().cpu(), y.double().cpu()
    cost = torch.empty(len(x), len(y), dtype=torch.float64)
    for start in range(0, len(x), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cost[block] = _squared_distances(x[block], y).sqrt_()
    rows, columns = linear_sum_assignment(_reduced(cost).numpy())
    return float(cost.numpy()[rows, columns].mean())


def _reduced(cost: Tensor) -> Tensor:
    """`cost` less a potential for each row and column: the same assignments are optimal, and found sooner.

    The potentials are Sinkhorn's, near the optimal ones; any others would do, so nothing of the result is approximate.
    scipy's search is short where the best entries are near zero: 3 s in place of 50 for 5,000 trained embeddings.
    """
    lowest = cost.min(1, keepdim=True).values
    above = (cost - lowest).float()
    width = above.max() / SINKHORN_DEPTH  # the kernel spans what float32 can hold
    if not width > 0:
        return cost
    kernel = above.div_(-width).exp_()
    column = torch.ones(cost.shape[1])
    for _ in range(SINKHORN_STEPS):
        row = (kernel @ column).reciprocal()
        column = (row @ kernel).reciprocal()
    potentials = [(width * scaling.log()).double() for scaling in (row, column)]
    if not all(potential.isfinite().all() for potential in potentials):
        return cost
    left = cost - lowest - potentials[0][:, None] - potentials[1]
    left -= left.min(1, keepdim=True).values
    return left - left.min(0, keepdim=True).values


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int, seed: int) -> float:
    """Mean over random directions of the 1-Wasserstein distance of the projections of two clouds of n points each."""
    onto = directions(x.shape[1], projections, seed).to(x)
    gaps = (x @ onto).sort(dim=0).values - (y @ onto).sort(dim=0).values  # (n, projections)
    return gaps.abs().mean(dtype=torch.float64).item()


def directions(width: int, count: int, seed: int) -> Tensor:
    """(width, count) float64 unit columns, uniform on the sphere."""
    drawn = np.random.default_rng(seed).standard_normal((width, count))
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=0))


def _gamma(x: Tensor, y: Tensor, config: EvaluateConfig) -> float:
    return median_gamma(x, y, seed=config.seed) if config.mmd_gamma == "median" else config.mmd_gamma


def _mean_kernel(x: Tensor, y: Tensor, gamma: float) -> float:
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), BLOCK_ROWS):
        total += _squared_distances(x[start : start + BLOCK_ROWS], y).mul_(-gamma).exp_().sum(dtype=torch.float64)
    return total.item() / (len(x) * len(y))


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_(min=0)


def _summary(values: NDArray[np.float64], convention: str) -> dict[str, Any]:
    std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "std": std, "values": values.tolist(), "convention": convention}


def _conventions(config: EvaluateConfig, gamma: float, captioned: int) -> dict[str, str]:
    if captioned > config.pairs:
        drawn = f"{config.trials} trials of {config.pairs} of {captioned} utterances without replacement"
    else:
        drawn = f"{config.trials} trials of all {captioned} utterances, so that only the captions drawn vary"
    drawn += ", one caption each; std over trials"
    width = f"gamma {gamma:.6g}"
    if config.mmd_gamma == "median":
        width += ", 1 / (2 median distance^2) of the first trial"
    return {
        "mmd": f"sqrt of the biased (V-statistic) MMD^2, k(x, y) = exp(-gamma |x - y|^2), {width}; {drawn}",
        "wasserstein": f"exact 1-Wasserstein, Euclidean cost, by assignment; {drawn}",
        "sliced_wasserstein": f"1-Wasserstein, mean of {config.projections} random directions; {drawn}",
    }


def _refuse_non_finite(speech: Tensor, text: Tensor) -> None:
    for name, vectors in (("speech", speech), ("text", text)):
        wrong = int((~vectors.isfinite().all(1)).sum())
        if wrong:
            raise EmotionRankError(
                f"{name} vectors",
                f"{wrong} of {len(vectors)} are not finite",
                "unit vectors",
                "Train the heads again with a lower learning rate.",
            )
