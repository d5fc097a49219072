"""What a Ray actor runs: the encoding of one store, with an encoder of its own. Imports no Ray."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.config import ExtractConfig
from pipeline.core.errors import EmotionRankError, StoreMismatch
from pipeline.core.plugins import load_plugins
from pipeline.extraction.audio.praat import load_praat
from pipeline.extraction.batching import BatchEncoder, EncodedBatch, batch_encoder
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.base import Encoder


@dataclass(frozen=True)
class ActorConfig:
    """What an actor encodes, and with what."""

    kind: str  # of the store: audio, acoustic or text
    config: str  # ExtractConfig as JSON, its paths absolute
    device: str
    fingerprint: dict[str, Any]  # of the driver's encoder
    environment: dict[str, str]  # where the driver's hub models are
    plugins: tuple[str, ...] = ()  # files that the driver ran, absolute


class Reply(NamedTuple):
    """What a call of an actor returns."""

    batch: EncodedBatch | None  # None of `load`
    warnings: list[str]  # that the actor logged since its last reply


class RemoteEncoder:
    """A store's BatchEncoder in another process. An EmotionRankError arrives as the cause of Ray's RayTaskError."""

    def __init__(self, config: ActorConfig) -> None:
        self._config = config
        self._encode: BatchEncoder[Any] | None = None
        self._records: SimpleQueue[logging.LogRecord] = SimpleQueue()
        for name in ("pipeline", "cache"):  # as in pipeline.core.progress.narration; from warnings on
            logging.getLogger(name).addHandler(QueueHandler(self._records))

    def load(self) -> Reply:
        """Load the encoder. Raises EmotionRankError that names the node if there is none, or not the driver's."""
        actor = self._config
        os.environ.update(actor.environment)  # the hub's client reads it when it is first imported, below
        torch.set_num_threads(1)  # as in engines/threads.py: equal bits on any number of cores
        config = ExtractConfig.model_validate_json(actor.config)
        try:
            load_plugins(actor.plugins)
            encoder = _load_encoder(actor.kind, config, actor.device)
            _require_same(encoder.fingerprint(), actor)
        except EmotionRankError as error:
            node = f"node {platform.node()}: "
            error.args, error.subject = (node + error.args[0],), node + error.subject
            raise
        self._encode = batch_encoder(actor.kind, encoder, config, torch.device(actor.device))
        return self._reply()

    def encode(self, rows: NDArray[np.int64], sources: Sequence[Any]) -> Reply:
        """Encode `sources`, the rows `rows`, together."""
        if self._encode is None:
            raise RuntimeError("encode before load")
        return self._reply(self._encode(rows, sources))

    def _reply(self, batch: EncodedBatch | None = None) -> Reply:
        return Reply(batch, [self._records.get().getMessage() for _ in range(self._records.qsize())])


def _load_encoder(kind: str, config: ExtractConfig, device: str) -> Encoder[Any]:
    if kind == "acoustic":
        return load_praat()
    return load_encoder("text", config.text, device) if kind == "text" else load_encoder("audio", config.audio, device)


def _require_same(found: dict[str, Any], actor: ActorConfig) -> None:
    driver = actor.fingerprint
    different = sorted(name for name in found.keys() | driver.keys() if found.get(name) != driver.get(name))
    if different:
        raise StoreMismatch(
            f"{actor.kind} encoder",
            f"{', '.join(different)} differ from the driver's",
            "the same encoder on every node",
            "Put the same checkpoint, and the same version of this program, on all nodes.",
        )
