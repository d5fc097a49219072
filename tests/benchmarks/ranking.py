"""The Rank-N-Contrast loss alone, one thread: the published loop, a sort under autograd, and both forms of an order.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.ranking [--sizes 64 512 1024 2048 4096]

Each is forward + backward over float32 logits and labels that are means of five ratings, one after the other in every
round; "in the step" is without autograd, as heads are trained; "making" is what the labels alone need, ahead of the
step. The published loop's memory forbids it beyond 1024. Then the peak memory of one loss over 8192 pairs, in a process
of its own: the logits, the order made, forward and backward (Linux).
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.objectives.label_order import LabelOrder, grid_order, rank_order
from pipeline.objectives.rank_n_contrast import rank_n_contrast, rank_n_contrast_gradient

LARGE = 8192
MOST_LOOPED = 1024  # pairs of the published loop, whose memory grows with their cube: 8 GiB
FORMS = {"sorted": rank_order, "grid": grid_order}
ROUNDS = 3e8  # elements a column may take: 300 rounds at most, 5 at least


def ratings(size: int, seed: int = 0) -> Tensor:
    """(size, 2) valence and arousal: means of five whole ratings about a true point, as tests.planted draws them."""
    draw = np.random.default_rng(seed)
    truth = np.clip(draw.normal(4, 1.1, (size, 2)), 1, 7)
    heard = np.rint(truth[:, None] + draw.normal(0, 0.8, (size, 5, 2)))
    return torch.from_numpy(np.clip(heard, 1, 7).mean(1))


def published_loop(logits: Tensor, labels: Tensor) -> Tensor:
    """The loop of kaiwenzha/Rank-N-Contrast in plain words; the diagonal stays, so that it is the same loss (F15)."""
    apart = (labels[:, None] - labels).square().sum(-1).mul(25).round()
    shifted = logits - logits.amax(1, keepdim=True).detach()
    power = shifted.exp()
    loss = logits.new_zeros(())
    for j in range(len(logits)):
        kept = (apart >= apart[:, j, None]).float()
        loss = loss - (shifted[:, j] - (kept * power).sum(1).log()).sum() / logits.numel()
    return loss


def sort_with_autograd(logits: Tensor, labels: Tensor) -> Tensor:
    """Order and loss in one step, its gradient left to autograd."""
    order = rank_order(labels)
    rows = logits.gather(1, order.candidates.long()).double()
    rows = rows - rows.amax(1, keepdim=True).detach()
    return (rows.exp().cumsum(1).gather(1, order.last_tie.long()).log() - rows).mean()


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def both_ways(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Callable[[], Tensor]:
    """Forward and backward; returns the loss."""

    def work() -> Tensor:
        at = logits.detach().requires_grad_()
        value = loss(at)
        value.backward()
        return value.detach()

    return work


def timings(size: int) -> dict[str, list[float]]:
    """Milliseconds of every round of each column, in turn."""
    labels, logits = ratings(size), torch.rand(size, size, generator=torch.Generator().manual_seed(0)) * 10
    gradient = torch.empty_like(logits)
    orders: dict[str, LabelOrder] = {name: make(labels) for name, make in FORMS.items()}
    columns: dict[str, Callable[[], object]] = {
        "sort with autograd": both_ways(lambda at: sort_with_autograd(at, labels), logits)
    }
    if size <= MOST_LOOPED:
        columns["published loop"] = both_ways(lambda at: published_loop(at, labels), logits)
    for name, order in orders.items():
        columns[name] = both_ways(lambda at, order=order: rank_n_contrast(at, order), logits)
        columns[f"{name}, in the step"] = lambda order=order: rank_n_contrast_gradient(logits, order, out=gradient)
    for name, make in FORMS.items():
        columns[f"making {name}"] = lambda make=make: make(labels)
    values = [work().item() for name, work in columns.items() if name in ("sort with autograd", *FORMS)]
    spent: dict[str, list[float]] = {name: [] for name in columns}
    rounds = int(min(300, max(5, ROUNDS / size**2 / len(columns))))
    loops = int(min(20, max(1, 1e9 / size**3)))
    for r in range(rounds):
        for name, work in columns.items():
            if name != "published loop" or r < loops:
                spent[name].append(milliseconds(work))
    if size <= MOST_LOOPED:
        values.append(published_loop(logits.double(), labels).item())
    assert max(values) - min(values) < 1e-5 * max(values), values
    return spent


def peak(form: str) -> None:
    """Print how much one loss over LARGE pairs adds to this process at its peak, and its seconds."""
    labels = ratings(LARGE)
    for size in (64, 600):  # what torch sets up once
        both_ways(lambda at, size=size: rank_n_contrast(at, FORMS[form](labels[:size])), torch.rand(size, size))()
    before, start = _status("VmRSS"), time.perf_counter()
    both_ways(lambda at: rank_n_contrast(at, FORMS[form](labels)), torch.rand(LARGE, LARGE).mul_(10))()
    print(f"{form}: {(_status('VmHWM') - before) / 2**20:.2f} GiB, {time.perf_counter() - start:.2f} s")


def _status(name: str) -> int:
    """An entry of this process's memory, in KiB; unlike `ru_maxrss`, nothing of the parent's."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 512, 1024, 2048, 4096])
    parser.add_argument("--peak", choices=FORMS, help="only the peak memory of one form, in this process")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        return peak(arguments.peak)
    print("milliseconds, median (minimum; rounds)")
    for size in arguments.sizes:
        print(f"N = {size}")
        for name, spent in timings(size).items():
            print(f"  {name:<22}{statistics.median(spent):10.3f}  ({min(spent):.3f}; {len(spent)})")
    print(f"N = {LARGE}, peak above the idle process, order included")
    for form in FORMS:
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "tests.benchmarks.ranking", "--peak", form], check=True)
    return None


if __name__ == "__main__":
    main()
