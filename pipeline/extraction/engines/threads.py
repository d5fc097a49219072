"""One machine: threads read and encode whole batches.

On a CPU each computes on one core (faster than one batch on all of them, immune to a busy neighbour, and the same bits
on any number of cores); on an accelerator they take turns, so that one computes while the others read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.resources import cores
from pipeline.extraction.batching import EncodedBatch, EncodeTask

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 2.0  # for batches in hand when the run is given up; a long clip takes longer


class Threads:
    """An `Engine` of one thread a core, at most two batches each ahead of the one in hand.

    Threads whose batch outlasts the patience end with it, or with the process (`pipeline.commands.common`).
    """

    def __init__(self) -> None:
        self.workers = cores()

    @contextmanager
    def encoded(
        self, job: EncodeTask[Any, Any], batches: Sequence[NDArray[np.int64]]
    ) -> Iterator[Iterator[EncodedBatch | None]]:
        """The batches in their order."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix=job.name)
        ahead: deque[Future[EncodedBatch]] = deque()
        try:
            yield self._results(pool, job, batches, ahead)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            wait([batch for batch in ahead if not batch.cancelled()], PATIENCE_SECONDS)
            torch.set_num_threads(threads)

    def _results(
        self,
        pool: ThreadPoolExecutor,
        job: EncodeTask[Any, Any],
        batches: Sequence[NDArray[np.int64]],
        ahead: deque[Future[EncodedBatch]],
    ) -> Iterator[EncodedBatch | None]:
        coming = iter(batches)
        while True:
            while len(ahead) <= 2 * self.workers and (rows := next(coming, None)) is not None:
                ahead.append(pool.submit(job.work, rows, job.sources(rows)))
            if not ahead:
                return
            while not wait([ahead[0]], POLL_SECONDS).done:
                yield None
            yield ahead.popleft().result()
