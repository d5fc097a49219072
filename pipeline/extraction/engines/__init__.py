"""Where stage one's batches are encoded: on this machine's threads, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.extraction.batching import EncodedBatch, EncodeTask


class Engine(Protocol):
    """Encodes the batches of a plan; the caller alone commits rows."""

    @property
    def workers(self) -> float:
        """How many batches are worked on at once, on average so far."""

    def encoded(
        self, job: EncodeTask[Any, Any], batches: Sequence[NDArray[np.int64]]
    ) -> AbstractContextManager[Iterator[EncodedBatch | None]]:
        """Every batch once, in any order. None comes now and then while nothing is ready, so that the caller can stop.

        Leaving the context gives up what is not ready, and stops whatever was started.
        """
