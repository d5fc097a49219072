"""How many CPU threads to train on, by measuring: beside a busy neighbour two can be ten times slower than one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipeline.device import cores
from pipeline.progress import say

_SECONDS = 0.15  # of measuring, for each count


def choose_threads(step: Callable[[], object]) -> int:
    """Set and return the thread count (1, 2, 4 ... cores) at which `step` runs most often. `step` must be harmless."""
    counts = sorted({1, cores()} | {2**k for k in range(1, 4) if 2**k < cores()})
    speeds = {}
    for count in counts:
        torch.set_num_threads(count)
        step()
        start, steps = time.perf_counter(), 0
        while steps < 3 or time.perf_counter() - start < _SECONDS:
            step()
            steps += 1
        speeds[count] = steps / (time.perf_counter() - start)
    best = use_threads(max(counts, key=lambda count: speeds[count]))
    measured = ", ".join(f"{count}: {1e3 / speeds[count]:.2f} ms" for count in counts)
    say(f"threads={best} (a step takes {measured})")
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
