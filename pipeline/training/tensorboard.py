"""Curves for TensorBoard while heads train: an event file a seed (the `tensorboard` extra).

    train-heads stores/msp --tensorboard --out runs/erc
    tensorboard --logdir runs

RUN/seeds/S/events.out.tfevents.S says what the seed's metrics.jsonl says, and its bytes follow from that: a seed that
was killed and went on has the file of one that was not. For the same bits an event's time is its epoch and no time.

Records are added to the file that is there. TensorBoard keeps it open, and would never look at a new one in its place.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache.disk import File, remove
from pipeline.core.errors import UsageError

SCALARS = ("train_loss", "dev_loss", "temperature")
_VERSION = "brain.Event:2"  # of the file's format


def require_tensorboard() -> None:
    """Raises UsageError where it is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        what = "the tensorboard extra", "pip install 'emotionrankclap[tensorboard]'"
        raise UsageError("tensorboard", "not installed", *what) from None


class EventFile:
    """The event file of one seed, in that seed's folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path = folder / f"events.out.tfevents.{seed}"
        self._size = 0

    def begin(self, metrics: Iterable[Mapping[str, Any]]) -> None:
        """Let the file say `metrics`, a line an epoch, and nothing after them, whatever it said before."""
        data = _records([_first(), *map(_event, metrics)])
        if self.path.is_symlink() or not self.path.is_file():
            remove(self.path)  # of a stranger's folder: nothing else is written through it
        with File(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW) as file:
            if file.size() != len(data) or not _holds(file, data):
                file.reserve(len(data))
                file.write(data, 0)
                file.sync()
        self._size = len(data)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add an epoch. Power loss may take it; the next `begin` brings it back from the checkpoint."""
        data = _records([_event(line)])
        with File(self.path, os.O_RDWR | os.O_NOFOLLOW) as file:
            file.write(data, self._size)
        self._size += len(data)


def _holds(file: File, data: bytes) -> bool:
    found = np.empty(len(data), np.uint8)
    return file.read(found, 0) == len(data) and found.tobytes() == data


def _first() -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(wall_time=0, file_version=_VERSION)


def _event(line: Mapping[str, Any]) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=name, simple_value=line[name]) for name in SCALARS]
    return Event(wall_time=line["epoch"], step=int(line["epoch"]), summary=Summary(value=values))


def _records(events: Iterable[Any]) -> bytes:
    """Each event as a record: its length, its bytes, and the checksum of each."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    out = io.BytesIO()
    writer = RecordWriter(out)
    for event in events:
        writer.write(event.SerializeToString(deterministic=True))
    return out.getvalue()
