"""How many CPU threads to train on, by measuring: beside a busy neighbour two can be ten times slower than one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

from pipeline.device import cores
from pipeline.progress import say

_ROUNDS, _SECONDS = 5, 0.05  # of measuring, and of each count in each round


def choose_threads(step: Callable[[], object]) -> int:
    """Set and return the thread count (1, 2, 4 ... cores) of the lowest median time of `step`, which must be harmless.

    The counts take turns, so that a neighbour who is busy for a moment troubles all of them.
    """
    counts = sorted({1, cores()} | {2**k for k in range(1, 4) if 2**k < cores()})
    took: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(_ROUNDS if len(counts) > 1 else 0):
        for count in counts:
            use_threads(count)
            step()  # the first of a new count starts its threads
            end = time.perf_counter() + _SECONDS
            while (start := time.perf_counter()) < end:
                step()
                took[count].append(time.perf_counter() - start)
    middle = {count: median(took[count] or [0.0]) for count in counts}
    best = use_threads(min(counts, key=lambda count: middle[count]))
    measured = ", ".join(f"{count}: {1e3 * middle[count]:.2f} ms" for count in counts)
    say(f"threads={best} (a step takes {measured})" if len(counts) > 1 else f"threads={best} (one core)")
    return best


def use_threads(count: int) -> int:
    """Set the thread count to `count`."""
    torch.set_num_threads(count)
    return count


@contextmanager
def threads_restored() -> Iterator[None]:
    """Leave the process's thread count as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
