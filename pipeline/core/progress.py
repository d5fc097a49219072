"""Progress and log messages on stderr, and a clean end on SIGINT and SIGTERM."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cache.errors import Interrupted

log = logging.getLogger(__name__)

LOG_SECONDS = 30.0  # between two lines of progress where stderr is not a terminal


ONCE = {"once": True}  # `extra` of a message that a command shows once, however often it is logged


class _StderrHandler(logging.Handler):
    """Prints messages as they are to the current stderr; rich puts them above its live bar."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[str] = set()  # of the messages that are shown once

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message in self.shown:
            return
        if getattr(record, "once", False):
            self.shown.add(message)
        print(self.format(record), file=sys.stderr, flush=True)


@contextmanager
def narration(level: int = logging.INFO) -> Iterator[None]:
    """Show this package's log messages of `level` and above on stderr. Commands do; a library stays silent."""
    loggers = [logging.getLogger(name) for name in ("pipeline", "cache")]
    levels = [logger.level for logger in loggers]
    handler = _StderrHandler()
    for logger in loggers:
        logger.setLevel(level)
        there = [each for each in logger.handlers if isinstance(each, _StderrHandler)]
        for each in there:  # a command within a longer narration says again what it says once
            each.shown.clear()
        if not there:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
            logger.removeHandler(handler)


class Meter:
    """Counts work done in this run, its rate and the time of each stage.

    `already` is work done by earlier runs: in the count, not in the rate.
    """

    def __init__(self, name: str, total: int, *, already: int = 0, unit: str = "rows", workers: float = 1) -> None:
        self.name, self.total, self.already, self.unit, self.workers = name, total, already, unit, workers
        self.done, self.amount = 0, 0.0
        self.stages: dict[str, float] = defaultdict(float)
        self.started = self._logged = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
            count = TextColumn("{task.completed:,.0f}/{task.total:,.0f}")
            columns = TextColumn("{task.description}"), BarColumn(), count, TextColumn("{task.fields[detail]}")
            self._bar = Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=self.total, completed=self.already, detail="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def spent(self, stage: str, seconds: float) -> None:
        """Charge `seconds` of one worker to `stage`."""
        self.stages[stage] += seconds

    def advance(self, count: int, amount: float = 0.0) -> None:
        """Add `count` to what is done; `amount` is seconds of audio, where the rate is in real time."""
        self.done += count
        self.amount += amount
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=self.already + self.done, detail=self.detail())
        elif now - self._logged >= LOG_SECONDS:
            self._logged = now
            log.info(f"{self.name}: {self.already + self.done:,}/{self.total:,} {self.unit}, {self.detail()}")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def detail(self) -> str:
        """Rate, time to go, and the share of each stage."""
        seconds = max(self.seconds, 1e-9)
        rate = self.done / seconds
        left = (self.total - self.already - self.done) / rate if rate else 0.0
        speed = f"{self.amount / seconds:,.0f}x real time" if self.amount else f"{rate:,.0f} {self.unit}/s"
        return f"{speed}, {clock(left)} to go{self.shares()}"

    def shares(self) -> str:
        """What part of the workers' time each stage took, in brackets; empty without stages."""
        seconds = max(self.seconds, 1e-9) * self.workers
        shares = ", ".join(f"{name} {spent / seconds:.0%}" for name, spent in self.stages.items())
        return f" (worker time: {shares})" if shares else ""


def clock(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


class Stop:
    """Called where it is safe to stop: raises Interrupted once a signal has come."""

    def __init__(self, subject: object) -> None:
        self._subject = subject
        self._signal = 0
        self._anywhere = False

    def __call__(self) -> None:
        if self._signal:
            raise Interrupted(self._subject, self._signal)

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """Work that may be left at any instruction: a signal raises Interrupted at once."""
        self._anywhere = True
        try:
            self()
            yield
        finally:
            self._anywhere = False

    def handle(self, number: int, _: FrameType | None) -> None:
        """The signals' handler. A second signal changes nothing: the run is already ending."""
        first, self._signal = not self._signal, self._signal or number
        if first and self._anywhere:
            self()


@contextmanager
def interruptible(subject: object) -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM by a `Stop` that names `subject`, and yield it.

    Outside the main thread, where Python allows no handlers, it never raises.
    """
    stop = Stop(subject)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
