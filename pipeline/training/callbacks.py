"""Who is told of a training while it runs: TensorBoard, Weights & Biases, trackio, or a callback of your own.

    class Printer(Callback):
        def on_epoch(self, metrics):
            print(metrics["seed"], metrics["epoch"], metrics["dev_loss"])

    train("stores/mine", callbacks=[Printer()], out="runs/erc")

A callback cannot break a training: what it raises is a warning, and its seed is trained on without it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cache.errors import one_line

log = logging.getLogger(__name__)
Metrics = Mapping[str, Any]  # a line of metrics.jsonl


class Callback:
    """Told of the training of every seed. Seeds may train side by side; calls come one at a time."""

    def on_start(self, config: Mapping[str, Any], history: Sequence[Metrics]) -> None:
        """A seed begins, or resumes after the epochs of `history`, which were told before.

        `config` holds the settings, `seed`, `run` (the RUN folder) and `folder` (the seed's own).
        """

    def on_epoch(self, metrics: Metrics) -> None:
        """The line of metrics.jsonl of an epoch that will not be trained again, with `seed` and `epoch`."""

    def on_end(self, metrics: Metrics) -> None:
        """A seed ends: its `seed`, and the `epoch` and `dev_loss` that were kept unless it was interrupted."""

    def knows(self, folder: Path) -> bool:  # noqa: ARG002 - it is for those that keep something there
        """Whether it was told of a seed that has ended, of this folder; else it is told when the run is called for."""
        return True


class RunCallbacks:
    """The callbacks of a run."""

    def __init__(self, callbacks: Sequence[Callback], config: Mapping[str, Any], run: Path) -> None:
        self.callbacks, self.config, self.lock = list(callbacks), {**config, "run": str(run)}, threading.Lock()

    def of_seed(self, seed: int, folder: Path, history: Sequence[Metrics]) -> SeedCallbacks:
        """Those of a seed that begins, or resumes after `history`."""
        return SeedCallbacks(self.callbacks, self, seed, folder, history)

    def tell_ended(self, seed: int, folder: Path, metrics: Sequence[Metrics], kept: Metrics) -> None:
        """Tell of a seed that ended before those that do not know it."""
        if late := [each for each in self.callbacks if not each.knows(folder)]:
            with SeedCallbacks(late, self, seed, folder, []) as callbacks:
                callbacks.finish(metrics, kept)


class SeedCallbacks:
    """The callbacks of one seed: told of its start when entered, of its end at the exit."""

    def __init__(
        self, callbacks: Sequence[Callback], run: RunCallbacks, seed: int, folder: Path, history: Sequence[Metrics]
    ) -> None:
        self._live, self._run, self._history, self._told = list(callbacks), run, list(history), len(history)
        self._config = {**run.config, "seed": seed, "folder": str(folder)}
        self._end: dict[str, Any] = {"seed": seed}

    def __enter__(self) -> SeedCallbacks:
        self._call("on_start", self._config, self._history)
        return self

    def __exit__(self, *_: object) -> None:
        self._call("on_end", self._end)

    def tell(self, metrics: Sequence[Metrics]) -> None:
        """Tell those of all epochs of the seed that were not told yet: call it when they are in a checkpoint."""
        for line in metrics[self._told :]:
            self._call("on_epoch", line)
        self._told = len(metrics)

    def finish(self, metrics: Sequence[Metrics], kept: Metrics) -> None:
        """Tell the epochs that are left; what was `kept` is told at the exit."""
        self.tell(metrics)
        self._end |= {name: kept[name] for name in ("epoch", "dev_loss")}

    def _call(self, method: str, *arguments: Any) -> None:
        with self._run.lock:
            for callback in list(self._live):
                try:
                    getattr(callback, method)(*arguments)
                except Exception as error:
                    self._live.remove(callback)
                    reason = one_line(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
                    name = f"{type(callback).__name__}.{method}"
                    log.warning(f"seed {self._end['seed']}: {name} failed ({reason}); the training goes on without it")
                    log.debug("where it was raised:", exc_info=True)
                    if method != "on_end":
                        with suppress(Exception):
                            callback.on_end({"seed": self._end["seed"]})  # what it holds is closed
