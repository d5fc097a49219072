"""Curves for TensorBoard while heads train: an event file a seed (the `tensorboard` extra).

    train-heads stores/msp --tensorboard --out runs/erc
    tensorboard --logdir runs

The event file beside a seed's heads shows its metrics.jsonl. Training that resumes writes the epochs of its checkpoint
again in a new file and purges what was shown, so no epoch is missing or stands twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cache.disk import remove
from pipeline.core.errors import UsageError

EVENT_FILES = "events.out.tfevents.*"


def require_tensorboard() -> None:
    """Raises UsageError where it is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        extra = "the tensorboard extra", "pip install 'emotionrankclap[tensorboard]'"
        raise UsageError("tensorboard", "not installed", *extra) from None


Line = Mapping[str, Any]  # of metrics.jsonl


@contextmanager
def tensorboard_curves(folder: Path, metrics: Iterable[Line]) -> Iterator[Callable[[Line], None]]:
    """Show `metrics`, a line an epoch, in place of what a seed's `folder` shows; gives the call that adds the next.

    Raises OSError where the disk refuses.
    """
    from torch.utils.tensorboard import SummaryWriter

    # one of an earlier release, which could sort after; others stay, since a TensorBoard that runs keeps them open
    remove(folder / f"events.out.tfevents.{folder.name}")
    if any(path.name.split(".")[3] >= str(int(time.time())) for path in folder.glob(EVENT_FILES)):
        time.sleep(1)  # TensorBoard reads event files in the order of the seconds in their names
    hook = threading.excepthook

    def without_os_errors(error: threading.ExceptHookArgs) -> None:
        """SummaryWriter's thread prints a traceback of what its next call raises again."""
        if not issubclass(error.exc_type, OSError):
            hook(error)

    with ExitStack() as stack:
        stack.callback(setattr, threading, "excepthook", hook)
        threading.excepthook = without_os_errors
        writer = SummaryWriter(str(folder), purge_step=1)
        # waits for the thread; SummaryWriter.close would not after a failure
        stack.callback(lambda: writer.file_writer.close())  # type: ignore[attr-defined]

        def add(line: Line) -> None:
            for name in ("train_loss", "dev_loss", "temperature"):
                writer.add_scalar(name, line[name], line["epoch"])
            writer.flush()

        for line in metrics:
            add(line)
        yield add
