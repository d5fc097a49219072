"""Where the work runs, decided once and said with its reason."""

from __future__ import annotations

import os

import torch

from pipeline.errors import UsageError
from pipeline.progress import say


def pick_device(wanted: str = "auto") -> torch.device:
    """The device named by `wanted`; `auto` takes CUDA where there is one. Raises UsageError for an absent one."""
    if wanted == "auto":
        found = torch.cuda.is_available()
        say(f"device={'cuda' if found else 'cpu'} ({torch.cuda.get_device_name() if found else 'no CUDA'})")
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
