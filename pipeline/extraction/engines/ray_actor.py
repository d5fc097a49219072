"""What a Ray actor runs: the work of one store, with an encoder of its own. Imports no Ray."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.config import ExtractConfig
from pipeline.core.errors import EmotionRankError, StoreMismatch
from pipeline.core.plugins import load_plugins
from pipeline.extraction.audio.praat import load_praat
from pipeline.extraction.batching import BatchEncoder, EncodedBatch, work_of
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.base import Encoder


@dataclass(frozen=True)
class Order:
    """What an actor is told."""

    kind: str  # of the store: audio, acoustic or text
    config: str  # ExtractConfig as JSON, its paths absolute
    device: str
    fingerprint: dict[str, Any]  # of the driver's encoder
    environment: dict[str, str]  # where the driver's hub models lie
    plugins: tuple[str, ...] = ()  # files that the driver ran, absolute


class Failure(NamedTuple):
    """An EmotionRankError under way. Its constructor's arguments are not its `args`, so it does not pickle itself."""

    kind: type[EmotionRankError]
    args: tuple[Any, ...]
    fields: dict[str, Any]

    @classmethod
    def of(cls, error: EmotionRankError) -> Failure:
        return cls(type(error), error.args, vars(error))

    def error(self) -> EmotionRankError:
        """The error again, with every field."""
        error = self.kind.__new__(self.kind, *self.args)
        error.__dict__.update(self.fields)
        return error

    def on(self, node: str) -> Failure:
        """The same, its subject on `node`."""
        text = tuple(f"{node}: {part}" for part in self.args[:1])
        return self._replace(args=text, fields=self.fields | {"subject": f"{node}: {self.fields['subject']}"})


class RemoteWork:
    """A store's work in another process. Errors a user can act on are returned, for they must arrive as they were."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._work: BatchEncoder[Any, Any] | None = None

    def load(self) -> Failure | None:
        """Load the encoder; a Failure that names the node if it cannot be had or is not the driver's."""
        order = self._order
        os.environ.update(order.environment)  # the hub's client reads it when it is first imported, below
        torch.set_num_threads(1)  # as in engines/threads.py: equal bits on any number of cores
        config, device = ExtractConfig.model_validate_json(order.config), torch.device(order.device)
        try:
            load_plugins(order.plugins)
            encoder = _load(order.kind, config, order.device)
            _check(encoder.fingerprint(), order)
        except EmotionRankError as error:
            return Failure.of(error).on(f"node {platform.node()}")
        self._work = work_of(order.kind, encoder, config, device)
        return None

    def encode(self, rows: NDArray[np.int64], sources: Sequence[Any]) -> EncodedBatch | Failure:
        """Encode `sources`, the rows `rows`, together."""
        if self._work is None:
            raise RuntimeError("encode before load")
        try:
            return self._work(rows, sources)
        except EmotionRankError as error:
            return Failure.of(error)


def _load(kind: str, config: ExtractConfig, device: str) -> Encoder[Any]:
    if kind == "acoustic":
        return load_praat()
    return load_encoder("text", config.text, device) if kind == "text" else load_encoder("audio", config.audio, device)


def _check(found: dict[str, Any], order: Order) -> None:
    wrong = sorted(name for name in found.keys() | order.fingerprint if found.get(name) != order.fingerprint.get(name))
    if wrong:
        raise StoreMismatch(
            f"{order.kind} encoder",
            f"{', '.join(wrong)} differ from the driver's",
            "the same encoder on every node",
            "Put the same checkpoint, and the same version of this program, on all nodes.",
        )
