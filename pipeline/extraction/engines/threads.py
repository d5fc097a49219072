"""One machine: threads read and encode whole batches.

On a CPU each computes on one core (faster than one batch on all of them, unaffected by a busy neighbour, and the same
bits on any number of cores); on an accelerator they take turns, so that one computes while the others read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import UsageError
from pipeline.core.resources import cores
from pipeline.extraction.batching import EncodedBatch, EncodeTask

POLL_SECONDS = 0.5
CLOSE_SECONDS = 2.0  # that batches under way may take when the run is given up; a long clip takes longer


class Threads:
    """An `Engine` of `workers` threads, or one a core, at most two batches each ahead of the one under way.

    Threads whose batch takes longer than CLOSE_SECONDS end with it, or with the process (`pipeline.commands.common`).
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"num_workers {workers}", "no thread", "1 or more", "Leave it out for one per core.")
        self.workers = workers or cores()

    def encode_batches(
        self, task: EncodeTask[Any], batches: Sequence[NDArray[np.int64]]
    ) -> Generator[EncodedBatch | None, None, None]:
        """The batches in their order."""
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix=task.name)
        ahead: deque[Future[EncodedBatch]] = deque()
        remaining = iter(batches)
        try:
            while True:
                while len(ahead) <= 2 * self.workers and (rows := next(remaining, None)) is not None:
                    ahead.append(pool.submit(task.encode, rows, task.sources(rows)))
                if not ahead:
                    return
                while not wait([ahead[0]], POLL_SECONDS).done:
                    yield None
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            wait([batch for batch in ahead if not batch.cancelled()], CLOSE_SECONDS)
            torch.set_num_threads(torch_threads)
