"""Curves for TensorBoard while heads train: an event file a seed (the `tensorboard` extra).

    train-heads stores/msp --tensorboard --out runs/erc
    tensorboard --logdir runs

The event file beside a seed's heads shows its metrics.jsonl. Training that resumes writes the epochs of its checkpoint
again in a new file and purges what was shown, so no epoch is missing or stands twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.disk import remove
from pipeline.core.errors import required_library
from pipeline.training.callbacks import Callback, Metrics

EVENT_FILES = "events.out.tfevents.*"


class TensorBoard(Callback):
    """An event file for each seed. Raises UsageError where TensorBoard is not installed."""

    def __init__(self) -> None:
        required_library("tensorboard", "tensorboard", "--tensorboard")
        self._writers: dict[int, Any] = {}
        self._hook = threading.excepthook

    def knows(self, folder: Path) -> bool:
        """Whether it has an event file."""
        return bool(list(folder.glob(EVENT_FILES)))

    def on_start(self, config: Mapping[str, Any], history: Sequence[Metrics]) -> None:
        """Show `history` in place of what the seed's folder shows. Raises OSError where the disk refuses."""
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(config["folder"])
        # one of an earlier release, which could sort after; others stay, since a TensorBoard that runs keeps them open
        remove(folder / f"events.out.tfevents.{folder.name}")
        if any(path.name.split(".")[3] >= str(int(time.time())) for path in folder.glob(EVENT_FILES)):
            time.sleep(1)  # TensorBoard reads event files in the order of the seconds in their names
        if not self._writers:
            self._hook, threading.excepthook = threading.excepthook, self._without_os_errors
        self._writers[config["seed"]] = None  # until there is one
        self._writers[config["seed"]] = SummaryWriter(str(folder), purge_step=1)
        for line in history:
            self.on_epoch(line)

    def on_epoch(self, metrics: Metrics) -> None:
        """Add an epoch. Raises OSError, of this or an earlier one."""
        writer = self._writers[metrics["seed"]]
        for name in ("train_loss", "dev_loss", "temperature"):
            writer.add_scalar(name, metrics[name], metrics["epoch"])
        writer.flush()

    def on_end(self, metrics: Metrics) -> None:
        """Close the file. Raises OSError where its last bytes could not be written."""
        writer = self._writers.pop(metrics["seed"])
        try:
            if writer is not None:
                writer.file_writer.close()  # waits for the thread; SummaryWriter.close would not after a failure
        finally:
            if not self._writers:
                threading.excepthook = self._hook

    def _without_os_errors(self, error: threading.ExceptHookArgs) -> None:
        """SummaryWriter's thread prints a traceback of what its next call raises again."""
        if not issubclass(error.exc_type, OSError):
            self._hook(error)
