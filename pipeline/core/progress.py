"""Progress on stderr, and a clean end on SIGINT and SIGTERM."""

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

from pipeline.core.errors import Interrupted

log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0


class _Narration(logging.Handler):
    """Writes messages as they are to what stderr is at that moment; rich puts them above its live bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


@contextmanager
def narration(level: int = logging.INFO) -> Iterator[None]:
    """Show this software's own log messages of `level` and above on stderr. Commands do; a library stays silent."""
    loggers = [logging.getLogger(name) for name in ("pipeline", "cache")]
    before = [(logger, logger.level, _Narration()) for logger in loggers]
    for logger, _, handler in before:
        logger.setLevel(level)
        if not any(isinstance(each, _Narration) for each in logger.handlers):
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, old, handler in before:
            logger.setLevel(old)
            logger.removeHandler(handler)


class Meter:
    """Counts work done in this run, its rate and what each stage of it cost.

    `already` is work done by earlier runs: in the count, not in the rate.
    """

    def __init__(self, name: str, total: int, *, already: int = 0, unit: str = "rows", workers: float = 1) -> None:
        self.name, self.total, self.already, self.unit, self.workers = name, total, already, unit, workers
        self.done, self.amount = 0, 0.0
        self.stages: dict[str, float] = defaultdict(float)
        self.started = self._said = time.monotonic()
        self._bar = _live_bar() if sys.stderr.isatty() and log.isEnabledFor(logging.INFO) else None

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
        """`count` more are done; `amount` is what the rate speaks of (seconds of audio), if not the count."""
        self.done += count
        self.amount += amount
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=self.already + self.done, detail=self.detail())
        elif now - self._said >= EVERY_SECONDS:
            self._said = now
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
        """What part of the workers' time each stage took."""
        seconds = max(self.seconds, 1e-9) * self.workers
        return "".join(f", {name} {spent / seconds:.0%}" for name, spent in self.stages.items())


def clock(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def _live_bar() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f}")
    return Progress(*columns, TextColumn("{task.fields[detail]}"), console=Console(stderr=True))


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
