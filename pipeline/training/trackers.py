"""Trackers of a training: TensorBoard, Weights & Biases and trackio (extras of these names).

    train-heads stores/msp --tensorboard --out runs/erc && tensorboard --logdir runs
    WANDB_MODE=offline train-heads stores/msp --seeds 5 --wandb --out runs/erc
    train-heads stores/msp --seeds 5 --trackio --out runs/erc

TensorBoard's event file beside a seed's heads shows its metrics.jsonl. Training that resumes writes the epochs of its
checkpoint again in a new file and purges what was shown, so no epoch is missing or stands twice.

In the others a seed is a run, grouped by RUN, in the project $WANDB_PROJECT or $TRACKIO_PROJECT, else emotionrankclap.
A seed that resumes goes on in its run, whose name is kept beside its heads, and no epoch is logged twice.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from cache.disk import remove, write_text
from pipeline.core.errors import required_library
from pipeline.training.callbacks import Callback, Metrics

PROJECT = "emotionrankclap"
EVENT_FILES = "events.out.tfevents.*"


def chosen_callbacks(*, tensorboard: bool, wandb: bool, trackio: bool) -> list[Callback]:
    """Those that are asked for. Raises UsageError where one of their packages is not installed."""
    asked = {TensorBoard: tensorboard, WeightsAndBiases: wandb, Trackio: trackio}
    return [callback() for callback, wanted in asked.items() if wanted]


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


class _Tracker(Callback):
    """What the other two have in common; what they print is on stderr, since stdout is for results."""

    package = ""

    def __init__(self) -> None:
        self.module = required_library(self.package, self.package, f"--{self.package}")
        self._runs: dict[int, Any] = {}

    def knows(self, folder: Path) -> bool:
        """Whether the folder has the name of its run."""
        return self._named(folder).is_file()

    def on_start(self, config: Mapping[str, Any], history: Sequence[Metrics]) -> None:
        """Begin a run; that of before is gone on with after `history`."""
        path = self._named(Path(config["folder"]))
        resumes = bool(history) and path.is_file()
        name = json.loads(path.read_text(encoding="utf-8"))["run"] if resumes else secrets.token_hex(4)
        write_text(path, json.dumps({"run": name}) + "\n")
        with redirect_stdout(sys.stderr):
            self._runs[config["seed"]] = self.begin(config, str(name), resumes=resumes)

    def on_epoch(self, metrics: Metrics) -> None:
        """Log an epoch at its own step."""
        logged = {name: metrics[name] for name in ("train_loss", "dev_loss", "temperature")}
        with redirect_stdout(sys.stderr):
            self._runs[metrics["seed"]].log(logged, step=metrics["epoch"])

    def on_end(self, metrics: Metrics) -> None:
        """Finish the run."""
        run = self._runs.pop(metrics["seed"])
        with redirect_stdout(sys.stderr):
            self.end(run, metrics)

    def begin(self, config: Mapping[str, Any], name: str, *, resumes: bool) -> Any:
        raise NotImplementedError

    def end(self, run: Any, metrics: Metrics) -> None:
        raise NotImplementedError

    def _named(self, folder: Path) -> Path:
        return folder / f"{self.package}.json"

    def _shared(self, config: Mapping[str, Any]) -> dict[str, Any]:
        project = os.environ.get(f"{self.package.upper()}_PROJECT") or PROJECT
        return {"project": project, "group": Path(config["run"]).name, "config": dict(config)}


class WeightsAndBiases(_Tracker):
    """Runs in Weights & Biases; offline where WANDB_MODE says so."""

    package = "wandb"

    def begin(self, config: Mapping[str, Any], name: str, *, resumes: bool) -> Any:
        shared = self._shared(config)
        return self.module.init(
            **shared, id=name, name=f"{shared['group']}-seed{config['seed']}", resume="allow" if resumes else None,
            reinit="create_new", settings={"console": "off"},
        )  # fmt: skip

    def end(self, run: Any, metrics: Metrics) -> None:
        if "epoch" in metrics:
            run.summary.update({"best_epoch": metrics["epoch"], "best_dev_loss": metrics["dev_loss"]})
        run.finish(exit_code=int("epoch" not in metrics))


class Trackio(_Tracker):
    """Runs in trackio's local store, or where its own variables point to."""

    package = "trackio"

    def begin(self, config: Mapping[str, Any], name: str, *, resumes: bool) -> Any:
        shared = self._shared(config)
        named = f"{shared['group']}-seed{config['seed']}-{name}"
        return self.module.init(**shared, name=named, resume="allow" if resumes else "never", embed=False)

    def end(self, run: Any, metrics: Metrics) -> None:
        if "epoch" in metrics:
            run.log({"best_epoch": metrics["epoch"], "best_dev_loss": metrics["dev_loss"]})
        run.finish()
