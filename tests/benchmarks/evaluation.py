"""What an evaluation costs on MSP-Podcast's size: a trial of 5,000 pairs before and now, thirty of them, the report.

    python -m tests.benchmarks.planted --stores FOLDER --out RUNS --seeds 1 emotionrankclap
    python -m tests.benchmarks.evaluation FOLDER RUNS/emotionrankclap [--rounds 3]

Both forms of a trial take turns on the same pairs, on one thread; seconds are of CPU time, medians with their range,
and beside them stands how far the values lie apart. Thirty trials take all cores. `former_distances` is how a trial
was measured before: every pair's distance, and one level of Sinkhorn's potentials before scipy's assignment.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cache.captions import Links
from cache.pairs import cached_pairs
from cache.stores import open_stores
from pipeline.core.config import EvaluateConfig
from pipeline.core.resources import cores
from pipeline.evaluation import alignment as now
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.report.evaluation_report import evaluation_report
from pipeline.training.run_folder import open_run

SINKHORN_DEPTH, SINKHORN_STEPS = 80.0, 50


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stores", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config, stores, run = EvaluateConfig(), open_stores(arguments.stores), open_run(arguments.run)
    pairs = cached_pairs(stores, "test1", style=config.style)
    heads = run.heads_for(stores)
    with torch.no_grad():
        speech, text = heads.embed_speech(pairs.speech), heads.embed_text(pairs.text)
    links = Links(pairs.offsets.numpy(), pairs.caption.numpy())
    trials = [(speech[rows], text[texts]) for rows, texts in list(now.draws(links, config))[: arguments.rounds]]
    texts = now.distinct(trials[0][1]).points
    print(f"{len(pairs):,} utterances; {len(texts):,} distinct texts in a trial of {len(trials[0][0]):,} pairs")
    in_turn(trials, config)
    start, cpu = time.perf_counter(), time.process_time()
    now.alignment(speech, text, links, config)
    taken = time.perf_counter() - start, time.process_time() - cpu
    print(f"{config.trials} trials, {cores()} cores: {taken[0]:.1f} s, {taken[1]:.1f} s of CPU time")
    result: dict[str, Any] = {}
    _, seconds = cpu_seconds(lambda: result.update(evaluate(run, stores=stores, device="cpu")))
    print(f"evaluate, {len(run.seeds)} seed(s), all of it: {seconds:.1f} s of CPU time")
    torch.set_num_threads(1)
    for _ in range(arguments.rounds):
        _, seconds = cpu_seconds(lambda: evaluation_report(run, result, stores=stores, references={}, device="cpu"))
        print(f"its report: {seconds:.2f} s of CPU time")


def in_turn(trials: list[tuple[Tensor, Tensor]], config: EvaluateConfig) -> None:
    """A trial before and now, as many times as there are trials."""
    before, after, apart = [], [], dict[str, float]()
    for x, y in trials:
        former, seconds = cpu_seconds(lambda x=x, y=y: former_distances(x, y, config))
        before.append(seconds)
        found, seconds = cpu_seconds(lambda x=x, y=y: now._distances(x, y, 1.0, config))
        after.append(seconds)
        apart = {name: max(apart.get(name, 0), abs(found[name] - former[name])) for name in former}
    print(f"a trial before {spread(before)}; now {spread(after)}")
    print("largest difference: " + ", ".join(f"{name} {value:.0e}" for name, value in apart.items()))


def cpu_seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f}-{max(seconds):.2f}, n = {len(seconds)})"


def former_distances(x: Tensor, y: Tensor, config: EvaluateConfig) -> dict[str, float]:
    """The distances of a trial that are computed otherwise now, in their former form."""
    unit = now.median_distance(x, y, seed=config.seed)
    at_median, at_gamma = former_mmd(x, y, [1 / (2 * unit**2), 1.0])
    exact = former_assignment(now._squared_distances(x.double(), y.double()).sqrt_())
    near, far = (cloud[: now.GAP_PAIRS].double() for cloud in (x, y))
    near, far = near - near.mean(0), far - far.mean(0)
    roots = [torch.linalg.qr(points, mode="r").R for points in (near, far)]
    overlap = torch.linalg.svdvals(roots[0] @ roots[1].mT).sum().item()
    covariance = (near.square().sum().item() + far.square().sum().item() - 2 * overlap) / len(near)
    rest = former_assignment(now._squared_distances(near, far)) - covariance
    onto = now.directions(x.shape[1], config.projections, config.seed).to(x)
    sliced = (x @ onto).sort(dim=0).values - (y @ onto).sort(dim=0).values
    return {
        "mmd_median": at_median,
        "mmd": at_gamma,
        "wasserstein": exact,
        "gap_rest": rest / unit**2,
        "sliced_wasserstein": sliced.abs().mean(dtype=torch.float64).item(),
    }


def former_mmd(x: Tensor, y: Tensor, gammas: list[float]) -> list[float]:
    def mean_kernels(a: Tensor, b: Tensor) -> Tensor:
        totals = torch.zeros(len(gammas), dtype=torch.float64)
        for block in torch.split(a, 1024):
            squared = now._squared_distances(block, b)
            totals += torch.stack([squared.mul(-gamma).exp_().sum(dtype=torch.float64) for gamma in gammas])
        return totals / (len(a) * len(b))

    squared_mmd = mean_kernels(x, x) + mean_kernels(y, y) - 2 * mean_kernels(x, y)
    return squared_mmd.clamp_min(0).sqrt().tolist()


def former_assignment(cost: Tensor) -> float:
    lowest = cost.min(1, keepdim=True).values
    above = (cost - lowest).float()
    scale = above.max() / SINKHORN_DEPTH
    kernel = above.div_(-scale).exp_()
    column = torch.ones(cost.shape[1])
    for _ in range(SINKHORN_STEPS):
        row = (kernel @ column).reciprocal()
        column = (row @ kernel).reciprocal()
    reduced = cost - lowest - (scale * row.log()).double()[:, None] - (scale * column.log()).double()
    reduced -= reduced.min(1, keepdim=True).values
    reduced -= reduced.min(0, keepdim=True).values
    return float(cost.numpy()[linear_sum_assignment(reduced.numpy())].mean())


if __name__ == "__main__":
    main()
