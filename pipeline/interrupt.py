"""SIGINT and SIGTERM ask for a clean end: the batch in hand is committed, then the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(subject: object) -> Iterator[Callable[[], None]]:
    """Yield a function to call where it is safe to stop; it raises Interrupted once a signal has come.

    Outside the main thread, where Python allows no handlers, it never raises.
    """
    caught: list[int] = []

    def check() -> None:
        if caught:
            raise Interrupted(subject, caught[0])

    def handle(number: int, _: FrameType | None) -> None:
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
