"""Memory: whether a training set's speech vectors are held in it or read from disk, and how torch says it is full."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cache.stores import Stores
from pipeline.progress import say

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
        say(
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
