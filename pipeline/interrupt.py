"""SIGINT and SIGTERM ask for a clean end: what is finished is committed, then the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Called where it is safe to stop: raises Interrupted once a signal has come."""

    def __init__(self, subject: object) -> None:
        self._subject = subject
        self._caught = 0
        self._anywhere = False

    def __call__(self) -> None:
        if self._caught:
            raise Interrupted(self._subject, self._caught)

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """Work that may be left at any instruction: a signal raises there and then."""
        self._anywhere = True
        try:
            self()
            yield
        finally:
            self._anywhere = False

    def handle(self, number: int, _: FrameType | None) -> None:
        """The signals' handler. A second signal changes nothing: the end is under way."""
        first, self._caught = not self._caught, self._caught or number
        if first and self._anywhere:
            self()


@contextmanager
def interruptible(subject: object) -> Iterator[Stop]:
    """Take SIGINT and SIGTERM; yields what raises Interrupted, naming `subject`.

    Outside the main thread, where Python allows no handlers, it never raises.
    """
    stop = Stop(subject)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
