"""The engine of stage one: every pending row of a store is loaded, encoded and committed.

Workers load and encode whole batches; the main thread alone commits rows, in the plan's order. On a CPU each worker
computes on one thread (faster than one batch on all of them, immune to a busy neighbour, and the same bits on any
number of cores); on an accelerator one batch is encoded at a time while the other workers load.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cache.layout import PENDING
from cache.reader import Store
from cache.writer import StoreWriter
from pipeline.audio import UnusableAudio
from pipeline.device import cores
from pipeline.progress import Meter

SYNC_SECONDS = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """What differs between speech and text."""

    name: str
    load: Callable[[int], tuple[T, bytes]]  # row -> input, digest of its source; raises UnusableAudio
    stand_in: Callable[[int], T]  # takes a failed row's place, so that its neighbours' batch keeps its shape
    encode: Callable[[Sequence[T]], torch.Tensor]  # (B,) inputs -> (B, width)
    seconds: Callable[[int], float]  # of audio in a row; 0 where the rate is in rows


@dataclass(frozen=True)
class _Encoded:
    rows: NDArray[np.int64]
    vectors: dict[int, NDArray[np.float32]]
    digests: dict[int, bytes]
    failures: dict[int, UnusableAudio]
    load_seconds: float
    encode_seconds: float


def encode_rows(
    store: Store, job: Job[T], plan: Sequence[NDArray[np.int64]], *, device: torch.device, check: Callable[[], None]
) -> Meter:
    """Encode the batches of `plan` that have a pending row. `check` raises when it is time to stop.

    Whatever ends the run, the rows committed so far are on the disk.
    """
    states = store.scan()
    todo = [rows for rows in plan if (states[rows] == PENDING).any()]
    total = sum(len(rows) for rows in plan)
    pending = sum(int((states[rows] == PENDING).sum()) for rows in plan)
    workers = cores()
    with (
        StoreWriter(store) as writer,
        Meter(job.name, total, already=total - pending, workers=workers) as meter,
        _batches(job, todo, workers, device) as encoded,
    ):
        synced = time.monotonic()
        try:
            for batch in encoded:
                new = [row for row in batch.rows.tolist() if states[row] == PENDING]
                start = time.monotonic()
                _commit(writer, batch, new)
                if time.monotonic() - synced > SYNC_SECONDS:
                    writer.sync()
                    synced = time.monotonic()
                meter.spent("load", batch.load_seconds)
                meter.spent("encode", batch.encode_seconds)
                meter.spent("write", time.monotonic() - start)
                meter.advance(len(new), sum(map(job.seconds, new)))
                check()
        finally:
            writer.sync()
    return meter


def _commit(writer: StoreWriter, batch: _Encoded, rows: list[int]) -> None:
    for row in rows:
        failure = batch.failures.get(row)
        if failure:
            writer.fail(row, failure.reason, failure.digest)
        else:
            writer.commit(row, batch.vectors[row], batch.digests[row])


@contextmanager
def _batches(
    job: Job[T], todo: Sequence[NDArray[np.int64]], workers: int, device: torch.device
) -> Iterator[Iterator[_Encoded]]:
    """The encoded batches of `todo` in order, at most two a worker ahead of the one in hand."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    turn = Lock() if device.type != "cpu" else None
    pool = ThreadPoolExecutor(workers, thread_name_prefix=job.name)

    def results() -> Iterator[_Encoded]:
        ahead: deque[Future[_Encoded]] = deque()
        for rows in todo:
            ahead.append(pool.submit(_encode, job, rows, turn))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    try:
        yield results()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


def _encode(job: Job[T], rows: NDArray[np.int64], turn: Lock | None) -> _Encoded:
    start = time.monotonic()
    inputs: dict[int, T] = {}
    digests: dict[int, bytes] = {}
    failures: dict[int, UnusableAudio] = {}
    for row in rows.tolist():
        try:
            inputs[row], digests[row] = job.load(row)
        except UnusableAudio as error:
            failures[row] = error
    loaded = time.monotonic()
    vectors: dict[int, NDArray[np.float32]] = {}
    if inputs:
        batch = [inputs[row] if row in inputs else job.stand_in(row) for row in rows.tolist()]
        if turn:
            with turn:
                loaded, values = time.monotonic(), job.encode(batch).numpy()
        else:
            values = job.encode(batch).numpy()
        vectors = dict(zip(rows.tolist(), values, strict=True))
    return _Encoded(rows, vectors, digests, failures, loaded - start, time.monotonic() - loaded)
