"""Stage one's loop: every pending row of a store is encoded by an engine, and committed here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cache.header import PENDING
from cache.reader import Store
from cache.writer import Rounding, StoreWriter
from pipeline.core.progress import Meter
from pipeline.extraction.batching import BatchSampler, EncodedBatch, EncodeTask
from pipeline.extraction.engines import Engine

SYNC_SECONDS = 5.0


def encode_rows(
    store: Store,
    job: EncodeTask[Any, Any],
    plan: BatchSampler,
    *,
    engine: Engine,
    check: Callable[[], None],
) -> tuple[Meter, Rounding]:
    """Encode the batches of `plan` that have a pending row. `check` raises when it is time to stop.

    Whatever ends the run, the rows committed so far are on the disk.
    """
    states = store.scan()
    waiting = plan.counts(states == PENDING)  # rows, by batch
    todo = plan.take(np.flatnonzero(waiting))
    total, pending = int(plan.sizes.sum()), int(waiting.sum())
    with (
        StoreWriter(store) as writer,
        Meter(job.name, total, already=total - pending, workers=engine.workers) as meter,
        engine.encoded(job, todo) as results,
    ):
        synced = time.monotonic()
        try:
            for batch in results:
                if batch is not None:
                    new = [(i, row) for i, row in enumerate(batch.rows.tolist()) if states[row] == PENDING]
                    meter.workers = engine.workers  # nodes may have joined
                    start = time.monotonic()
                    _commit(writer, batch, new)
                    if time.monotonic() - synced > SYNC_SECONDS:
                        writer.sync()
                        synced = time.monotonic()
                    meter.spent("load", batch.load_seconds)
                    meter.spent("encode", batch.encode_seconds)
                    meter.spent("write", time.monotonic() - start)
                    meter.advance(len(new), sum(job.seconds(row) for _, row in new))
                check()
        finally:
            writer.sync()
    return meter, writer.rounding


def _commit(writer: StoreWriter, batch: EncodedBatch, new: list[tuple[int, int]]) -> None:
    for i, row in new:
        reason = batch.reasons[i]
        if reason is not None:
            writer.fail(row, reason, batch.digests[i])
        elif batch.vectors is not None:
            writer.commit(row, batch.vectors[i], batch.digests[i])
