"""Where the work runs and with how much: device, CPU threads, memory. Each choice is logged with its reason."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from cache.stores import Stores
from pipeline.core.errors import UsageError

log = logging.getLogger(__name__)


def pick_device(wanted: str = "auto") -> torch.device:
    """The device named by `wanted`; `auto` takes CUDA where there is one. Raises UsageError for an absent one."""
    if wanted == "auto":
        found = torch.cuda.is_available()
        log.info(f"device={'cuda' if found else 'cpu'} ({torch.cuda.get_device_name() if found else 'no CUDA'})")
        return torch.device("cuda" if found else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found_text = str(error).splitlines()[0][:120]
        if found_text.startswith("Expected one of"):  # and then every backend that torch was ever built for
            found_text = "no such device"
        raise UsageError(f"--device {wanted}", found_text, "auto, cpu, cuda or cuda:1", "Leave it out.") from None
    return device


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_SHARE = 0.5  # of what is free: standardised vectors, optimiser and everything else need room too
_WANTING = "not enough memory", "DefaultCPUAllocator: can't allocate memory"  # of torch's RuntimeErrors on a CPU
_CGROUP = Path("/sys/fs/cgroup")


def choose_memory(stores: Stores, device: torch.device) -> str:
    """`resident` where the training and development vectors, and a standardised copy, fit into half of what is free.

    Otherwise `disk`; the reason is said.
    """
    rows = len(stores.manifest.rows("train", "dev"))
    needed = 2 * rows * stores.audio.width * 4
    free = free_bytes(device)
    resident = needed <= _SHARE * free
    if not resident:
        log.info(
            f"memory=disk: {rows:,} speech vectors need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on "
            f"{device}; shuffled by blocks (-o memory=resident to hold them all the same)"
        )
    return "resident" if resident else "disk"


def free_bytes(device: torch.device) -> int:
    """Free memory of `device`; on a CPU the least of what the machine and the control group have left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")] or limits
        limits.append(int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no Linux, no control group, or one without a limit ("max")
        pass
    return max(0, min(limits))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that there was no room."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _WANTING)


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
    log.info(f"threads={best} (a step takes {measured})" if len(counts) > 1 else f"threads={best} (one core)")
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
