"""Cross-modal alignment (F12, Table 1): how far apart the speech and the text vectors of the same pairs lie.

Trials of 5,000 pairs. The paper's distances between the two point clouds, MMD and Wasserstein, are in units of the
space, and so they can be bought for nothing: one constant appended to every unit vector shrinks both and leaves every
order and every recognition as it was (F48). Beside them stand the same distances in units of the clouds' own median
distance, which no such constant and no scaling moves, and the gap split into centroids, covariances and the rest. The
paper leaves estimator, kernel width and solver open, so each number carries the convention it was computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.captions import Links
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.core.resources import cores, threads_restored, use_threads
from pipeline.evaluation.significance import mean_and_std
from pipeline.evaluation.transport import transport_cost

BLOCK_ROWS = 512  # of a distance matrix held at once: 10 MB of float32 against 5,000 points
MEDIAN_POINTS = 1000  # subsample of the median distance: 5e5 distances
GAP_PAIRS = 1000  # of a trial, for the split of the gap: another assignment of all 5,000 would double its cost


def mmd(x: Tensor, y: Tensor, gammas: Sequence[float]) -> list[float]:
    """Maximum mean discrepancy of (n, d) and (m, d) points for each of `gammas`, `k = exp(-gamma |x-y|^2)`.

    It is the sqrt of the biased estimate: the means of k(x, x) and k(y, y) are over all pairs, a point with itself
    among them (a V-statistic; Gretton et al., JMLR 2012, Eq. 5). Each distance is computed once, of a pair within a
    cloud and of a caption that recurs. Products are in the dtype of the points, sums in float64, blocks in memory.

    Points are taken from their common mean first: float32 then rounds by the clouds' size and not by their distance
    from the origin, and clouds that coincide in one point are 0 apart.
    """
    mean = torch.cat([x, y]).mean(0, dtype=torch.float64)
    a, b = (distinct((points.double() - mean).to(points.dtype)) for points in (x, y))
    squared_mmd = _kernel_sums(a, a, gammas) / len(x) ** 2 + _kernel_sums(b, b, gammas) / len(y) ** 2
    squared_mmd -= 2 * _kernel_sums(a, b, gammas) / (len(x) * len(y))
    return squared_mmd.clamp_min(0).sqrt().tolist()


class Cloud(NamedTuple):
    """A cloud of points as its distinct ones."""

    points: Tensor  # (U, d)
    counts: Tensor  # (U,) int64, how often each occurs


def distinct(points: Tensor) -> Cloud:
    """The distinct rows of (n, d) points, in the order in which they first occur."""
    rows = np.ascontiguousarray(points.cpu().numpy())
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    order = first.argsort()
    kept, often = (torch.from_numpy(of[order]).to(points.device) for of in (first, counts))
    return Cloud(points[kept], often)


def _kernel_sums(a: Cloud, b: Cloud, gammas: Sequence[float]) -> Tensor:
    """(gammas,) float64 sums of k over all pairs of a point of `a` and one of `b`, which may be `a` itself."""
    totals = torch.zeros(len(gammas), dtype=torch.float64, device=a.points.device)
    for start in range(0, len(a.points), BLOCK_ROWS):
        rows, often = (of[start : start + BLOCK_ROWS] for of in a)
        points, counts = b
        if b is a:  # the blocks right of the diagonal's stand for those below it too
            points, counts = a.points[start:], torch.cat([often, 2 * a.counts[start + BLOCK_ROWS :]])
        squared = _squared_distances(rows, points)
        for number, gamma in enumerate(gammas):
            kernels = squared.mul(-gamma).exp_().mul_(often[:, None])
            totals[number] += kernels.sum(0, dtype=torch.float64) @ counts.double()
    return totals


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Exact 1-Wasserstein distance of two clouds of n points each, Euclidean ground cost.

    With equal weights the optimal plan is an assignment (F44: the value `ot.emd2` gives). Costs are float64: from
    float32 products, coincident points would lie 5e-4 apart.
    """
    x, texts = x.double().cpu(), distinct(y.double().cpu())
    blocks = [_squared_distances(block, texts.points).sqrt_() for block in torch.split(x, BLOCK_ROWS)]
    return transport_cost(torch.cat(blocks), texts.counts)


class Gap(NamedTuple):
    """The squared 2-Wasserstein distance of two clouds as a sum of three parts, none negative."""

    centroid: float  # |mean x - mean y|^2
    covariance: float  # squared Bures distance of the two covariances
    rest: float  # what no shift and no linear map of the clouds explains


def gap(x: Tensor, y: Tensor) -> Gap:
    """The split of W2^2 between two clouds of n points each, in squared units of the space.

    W2^2 >= |mean x - mean y|^2 + B^2, where B^2 = tr(Cx + Cy - 2 (Cx^1/2 Cy Cx^1/2)^1/2) is the squared Bures distance
    of the covariances, with equality between Gaussians (Gelbrich, Mathematische Nachrichten 147, 1990; Bhatia, Jain and
    Lim, Expositiones Mathematicae 37, 2019). The rest is W2^2 less both. Covariances are of n, not n - 1, so that the
    bound holds for the clouds themselves. W2^2 is exact, by assignment.
    """
    x, y = x.double().cpu(), y.double().cpu()
    centroid = (x.mean(0) - y.mean(0)).square().sum().item()
    x, y = x - x.mean(0), y - y.mean(0)
    # the trace of the root is the sum of the singular values of Cx^1/2 Cy^1/2, and any R with R'R = C serves as C^1/2
    roots = [torch.linalg.qr(points, mode="r").R for points in (x, y)]
    overlap = torch.linalg.svdvals(roots[0] @ roots[1].mT).sum().item()
    covariance = max(0.0, (x.square().sum().item() + y.square().sum().item() - 2 * overlap) / len(x))
    texts = distinct(y)  # the best assignment does not depend on the means
    centred = transport_cost(_squared_distances(x, texts.points), texts.counts)
    return Gap(centroid, covariance, max(0.0, centred - covariance))


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int, seed: int) -> float:
    """Mean over random directions of the 1-Wasserstein distance of the projections of two clouds of n points each."""
    onto = directions(x.shape[1], projections, seed).to(x)
    gaps = _sorted_rows(onto.T @ x.T) - _sorted_rows(onto.T @ y.T)  # (projections, n)
    return float(np.abs(gaps).mean(dtype=np.float64))


def _sorted_rows(values: Tensor) -> NDArray[np.floating[Any]]:
    return np.sort(values.cpu().numpy(), axis=1)  # a fifth of the time of torch's sort


def directions(dim: int, count: int, seed: int) -> Tensor:
    """(dim, count) float64 unit columns, uniform on the sphere."""
    normal = np.random.default_rng(seed).standard_normal((dim, count))
    return torch.from_numpy(normal / np.linalg.norm(normal, axis=0))


def median_distance(x: Tensor, y: Tensor, *, seed: int) -> float:
    """The median distance of distinct points of x and y together, of up to 1,000 drawn: the unit of scale-free figures.

    Coincident points are left out; where all coincide it is 1, and every distance that it divides is 0.
    """
    points = torch.cat([x, y]).double()
    chosen = np.random.default_rng(seed).permutation(len(points))[:MEDIAN_POINTS]
    distances = torch.pdist(points[torch.from_numpy(chosen)])
    distances = distances[distances > 0]
    return distances.median().item() if len(distances) else 1.0


def median_gamma(x: Tensor, y: Tensor, *, seed: int) -> float:
    """The median heuristic: `1 / (2 median^2)`, so that the kernel's standard deviation is the median distance."""
    return 1 / (2 * median_distance(x, y, seed=seed) ** 2)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_(min=0)


def alignment(
    speech: Tensor,
    text: Tensor,
    links: Links,
    config: EvaluateConfig,
    trial_done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Mean and std over `config.trials` trials of each distance: the scale-free ones, then the paper's (F12).

    Args:
        speech: (n, d) unit vectors of the split's utterances.
        text: (T, d) unit vectors that `links.text` counts rows of.
        links: the captions of these n utterances; those without a caption take no part.
        config: `trials`, `pairs`, `mmd_gamma`, `projections`, `seed`.
        trial_done: called after each.

    Returns:
        `{"mmd_median": {"mean", "std", "values", "convention"}, "wasserstein_relative": ..., "gap_centroid": ...,
        "gap_covariance": ..., "gap_rest": ..., "mmd": ..., "wasserstein": ..., "sliced_wasserstein": ..., "trials",
        "pairs"}`; std is over trials (n - 1), 0 for a single one. Trial t depends on `seed` and t alone.

    Raises:
        UsageError: fewer than two utterances have a caption. EmotionRankError: a vector is not finite.
    """
    for name, vectors in (("speech", speech), ("text", text)):
        wrong = int((~vectors.isfinite().all(1)).sum())
        if wrong:
            action = "Train the heads again with a lower learning rate."
            raise EmotionRankError(
                f"{name} vectors", f"{wrong} of {len(vectors)} are not finite", "unit vectors", action
            )
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

    conventions = _conventions(config, gamma, captioned)
    values: dict[str, list[float]] = {name: [] for name in conventions}
    with threads_restored(), ThreadPoolExecutor(cores()) as pool:
        use_threads(1)  # a trial a core: what a trial comes to does not depend on how many there are
        for of_trial in pool.map(lambda t: _distances(speech[t[0]], text[t[1]], gamma, config), trials):
            for name, value in of_trial.items():
                values[name].append(value)
            trial_done()
    result: dict[str, Any] = {
        name: {**mean_and_std(of_trials), "values": of_trials, "convention": conventions[name]}
        for name, of_trials in values.items()
    }
    return {**result, "trials": config.trials, "pairs": min(config.pairs, captioned)}


def _distances(x: Tensor, y: Tensor, gamma: float, config: EvaluateConfig) -> dict[str, float]:
    """Every distance of one trial's pairs (m, d), by the names of `_conventions`."""
    unit = median_distance(x, y, seed=config.seed)
    at_median, at_gamma = mmd(x, y, [1 / (2 * unit**2), gamma])
    exact, parts = wasserstein(x, y), gap(x[:GAP_PAIRS], y[:GAP_PAIRS])
    return {
        "mmd_median": at_median,
        "wasserstein_relative": exact / unit,
        **{f"gap_{name}": part / unit**2 for name, part in parts._asdict().items()},
        "mmd": at_gamma,
        "wasserstein": exact,
        "sliced_wasserstein": sliced_wasserstein(x, y, config.projections, config.seed),
    }


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
    pairs += ", one caption each; within a seed std is over trials"
    kernel = f"gamma {gamma:.6g}"
    if config.mmd_gamma == "median":
        kernel += ", 1 / (2 median distance^2) of the first trial"
    estimate = "sqrt of the biased (V-statistic) MMD^2, k(x, y) = exp(-gamma |x - y|^2)"
    unit = f"median distance of distinct points of both clouds (of {MEDIAN_POINTS} of each trial's)"
    part = f"part of W2^2 in squared units of the {unit}; W2^2 by assignment of {GAP_PAIRS} pairs of each trial at most"
    return {
        "mmd_median": f"{estimate}, gamma = 1 / (2 m^2), m the {unit}; {pairs}",
        "wasserstein_relative": f"exact 1-Wasserstein, Euclidean cost, by assignment, over the {unit}; {pairs}",
        "gap_centroid": f"squared distance of the centroids, {part}; {pairs}",
        "gap_covariance": f"squared Bures distance of the covariances, {part}; {pairs}",
        "gap_rest": f"W2^2 less centroids and covariances, {part}; {pairs}",
        "mmd": f"{estimate}, {kernel}; {pairs}",
        "wasserstein": f"exact 1-Wasserstein, Euclidean cost, by assignment; {pairs}",
        "sliced_wasserstein": f"1-Wasserstein, mean of {config.projections} random directions; {pairs}",
    }
