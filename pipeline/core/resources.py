"""Where the work runs and with how much: device, CPU threads, memory. Each choice is logged with its reason."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import torch

from cache.errors import UsageError
from cache.stores import Stores
from pipeline.core.progress import ONCE

log = logging.getLogger(__name__)


def pick_device(wanted: str = "auto") -> torch.device:
    """The device named by `wanted`; `auto` takes CUDA where there is one. Raises UsageError for an absent one."""
    if wanted == "auto":
        cuda = torch.cuda.is_available()
        reason = f"device=cuda ({torch.cuda.get_device_name()})" if cuda else "device=cpu (no CUDA)"
        log.info(reason, extra=ONCE)
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(wanted)
        # Apple's GPUs (mps) have no float64, in which the tests and a part of training compute
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"{device.type} is not supported, only CPUs and CUDA are")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        if reason.startswith("Expected one of"):  # and then every backend that torch was ever built for
            reason = "no such device"
        raise UsageError(f"--device {wanted}", reason, "auto, cpu, cuda or cuda:1", "Leave it out.") from None
    return device


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_MEMORY_SHARE = 0.5  # of what is free: texts, optimiser and everything else need room too
_NO_CPU_MEMORY = "not enough memory", "DefaultCPUAllocator: can't allocate memory"  # in torch's RuntimeErrors
_ASSUMED_BYTES = 8 << 30  # free where the system does not tell
_CGROUP = Path("/sys/fs/cgroup")


def choose_memory(stores: Stores, device: torch.device) -> str:
    """`resident` where the training and development vectors fit into half of what is free.

    Otherwise `disk`; the reason is logged.
    """
    rows = len(stores.manifest.rows("train", "dev"))
    needed = rows * stores.audio.dim * 4
    free = free_bytes(device)
    resident = needed <= _MEMORY_SHARE * free
    if not resident:
        log.info(
            f"memory=disk: {rows:,} speech vectors need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on "
            f"{device}; batches are read from disk in shuffled blocks (-o memory=resident keeps them in memory)"
        )
    return "resident" if resident else "disk"


def free_bytes(device: torch.device) -> int:
    """Free memory of `device`; on a CPU the least of what the machine and the control group have left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = getattr(os, "sysconf_names", {})  # Windows has none, macOS only what the machine has in all
    pages = next((name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in known), None)
    limits = [os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")] if pages else [_ASSUMED_BYTES]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")] or limits
        limits.append(int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no Linux, no control group, or one without a limit ("max")
        pass
    return max(0, min(limits))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _NO_CPU_MEMORY)


_ROUNDS = 5
_SECONDS = 0.05  # of measuring each thread count in each round
_ENOUGH_SECONDS = 1.0  # of measuring; no round begins after it
_MEASURING_SHARE = 0.05  # of the time may be spent on measuring


def choose_threads(step: Callable[[], object]) -> int:
    """Set and return the thread count (1, 2, 4 ... cores) of the lowest median time of `step`, which must be harmless.

    The counts take turns, so that a neighbour who is busy for a moment slows all of them; long steps take fewer turns.
    """
    counts = sorted({1, cores()} | {2**k for k in range(1, 4) if 2**k < cores()})
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    begun = time.perf_counter()
    for turn in range(_ROUNDS if len(counts) > 1 else 0):
        if turn and time.perf_counter() - begun > _ENOUGH_SECONDS:
            break
        for count in counts:
            use_threads(count)
            step()  # the first of a new count starts its threads
            end = time.perf_counter() + _SECONDS
            while (start := time.perf_counter()) < end:
                step()
                seconds[count].append(time.perf_counter() - start)
    medians = {count: median(seconds[count] or [0.0]) for count in counts}
    best = use_threads(min(counts, key=lambda count: medians[count]))
    others = ", ".join(f"{1e3 * medians[count]:.3g} ms with {count}" for count in counts if count != best)
    reason = f"{1e3 * medians[best]:.3g} ms a step; {others}" if others else "one core"
    log.info(f"using {best} CPU thread{'s' if best > 1 else ''} ({reason})")
    return best


class MeasuredThreads:
    """The thread count that `choose_threads` finds, found anew when enough time has passed: neighbours come and go.

    `prepare` makes what is measured, which is not kept.
    """

    def __init__(self, prepare: Callable[[], Callable[[], object]]) -> None:
        self.prepare, self.count, self.until = prepare, 0, 0.0

    def now(self) -> int:
        """Set and return it."""
        start = time.perf_counter()
        if start >= self.until:
            self.count = choose_threads(self.prepare())
            end = time.perf_counter()
            self.until = end + (end - start) / _MEASURING_SHARE
        return use_threads(self.count)


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


@contextmanager
def one_thread() -> Iterator[None]:
    """For short work: two threads gain little there, and wait for each other beside a busy neighbour."""
    with threads_restored():
        use_threads(1)
        yield


@contextmanager
def torch_defaults() -> Iterator[None]:
    """torch as it is when freshly imported, whatever the caller has set; the caller's settings come back at the end.

    Covers the default dtype and device, gradients, inference mode, autocast, deterministic algorithms and the
    precision of float32 products: results do not depend on them, and nothing breaks by them.
    """
    dtype, device, precision = (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_float32_matmul_precision(),
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.autocast("cuda", enabled=False))
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        try:
            torch.set_default_dtype(torch.float32)
            if deterministic:  # else the call changes nothing, and imports the compiler, which takes as long as torch
                torch.use_deterministic_algorithms(False)
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_default_dtype(dtype)
            if deterministic:
                torch.use_deterministic_algorithms(True, warn_only=only_warns)
            torch.set_float32_matmul_precision(precision)
