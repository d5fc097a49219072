"""Trainings and comparisons in child processes of a program that has imported everything: a start costs milliseconds.

python -m tests.faults.killed STORES FOLDER EVERY RANDOM   -> JSON: each child's fate
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cache import disk
from pipeline.commands.compare_methods import main as compare_methods
from pipeline.commands.train_heads import main as train_heads
from pipeline.training import train as training
from tests.faults.faulty_os import CHANGES, FaultyOs
from tests.stage_two import EVALUATION, SETTINGS, tree

OPTIONS = [*(word for each in SETTINGS for word in ("-o", each)), "--seeds", "2"]
LONG = ["-o", "epochs=20"]
METHODS = ["emotionrankclap", "clap_sce", "ridge_own_captions"]


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        try:
            work()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        os._exit(99)
    return pid


def train(stores: str, out: Path, *options: str) -> None:
    train_heads([stores, "--out", str(out), *OPTIONS, *options], standalone_mode=False)
    raise SystemExit(0)


def fate(pid: int) -> int:
    """The exit status; the signal, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Deadly(FaultyOs):
    """The process is killed at the `at`-th change of a file, before it or after."""

    def __init__(self, at: int, before: bool) -> None:
        super().__init__(counted=CHANGES)
        self.at, self.before = at, before

    def _called(self, name: str, real: Callable[..., object], *args: object, **options: object) -> object:
        last = len(self.calls) + 1 == self.at
        if last and self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = super()._called(name, real, *args, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def dying(at: int, before: bool) -> None:
    disk.os = Deadly(at, before)  # type: ignore[assignment]


def killed_at(stores: str, out: Path, at: int, before: bool) -> int:
    return fate(child(lambda: (dying(at, before), train(stores, out))[1]))


def resumed(stores: str, out: Path, whole: dict[str, bytes], *options: str) -> bool:
    """Whether a training that goes on in `out` ends with the files of one that was never stopped."""
    return fate(child(lambda: train(stores, out, *options))) == 0 and tree(out) == whole


def at_every_operation(stores: str, folder: Path, every: int) -> list[tuple[int, bool]]:
    train_in = folder / "whole"
    assert fate(child(lambda: train(stores, train_in))) == 0
    found, at = [], 1
    while (ended := killed_at(stores, folder / "cut", at, before=at // every % 2 == 0)) != 0:
        found.append((ended, resumed(stores, folder / "cut", tree(train_in))))
        shutil.rmtree(folder / "cut")
        at += every
    shutil.rmtree(folder / "cut")
    return found


def at_random(stores: str, folder: Path, count: int) -> list[tuple[int, bool]]:
    """Two kills each, anywhere between the start and the end."""
    start, draw, found = time.perf_counter(), random.Random(0), []
    assert fate(child(lambda: train(stores, folder / "long", *LONG))) == 0
    took = time.perf_counter() - start
    for _ in range(count):
        for _ in range(2):
            pid = child(lambda: train(stores, folder / "cut", *LONG))
            time.sleep(draw.random() * took)
            os.kill(pid, signal.SIGKILL)
            ended = fate(pid)
        found.append((ended, resumed(stores, folder / "cut", tree(folder / "long"), *LONG)))
        shutil.rmtree(folder / "cut")
    return found


def compare(stores: str, out: Path) -> None:
    words = ["-e" if word == "-o" else word for word in EVALUATION]
    compare_methods([stores, *METHODS, "--out", str(out), *OPTIONS, *words], standalone_mode=False)
    raise SystemExit(0)


def comparison_of(out: Path) -> str:
    return (out / "comparison.json").read_text().replace(str(out), "OUT")


def comparisons(stores: str, folder: Path, kills: int) -> list[tuple[int, bool, bool]]:
    """Up to three kills of one comparison at random instants: the last exit, and the same comparison and heads."""
    start, draw, found = time.perf_counter(), random.Random(1), []
    assert fate(child(lambda: compare(stores, folder / "whole_comparison"))) == 0
    took, hits, whole, cut = time.perf_counter() - start, 0, folder / "whole_comparison", folder / "cut_comparison"
    while hits < kills:
        ended = 0
        for _ in range(3):
            pid = child(lambda: compare(stores, cut))
            time.sleep(draw.random() * took)
            os.kill(pid, signal.SIGKILL)
            ended = fate(pid)
            hits += ended == -signal.SIGKILL
        assert fate(child(lambda: compare(stores, cut))) == 0
        heads = all((cut / name).read_bytes() == (whole / name).read_bytes() for name in tree(whole) if "heads" in name)
        found.append((ended, comparison_of(cut) == comparison_of(whole), heads))
        shutil.rmtree(cut)
    return found


def by_signal(stores: str, folder: Path) -> list[tuple[int, bool, float]]:
    """SIGINT and SIGTERM once there is a checkpoint: the exit status, the files after going on, the seconds."""
    found = []
    for number in (signal.SIGINT, signal.SIGTERM):
        pid = child(lambda: train(stores, folder / "cut", *LONG))
        while not (folder / "cut/seeds/0" / training.TRAINING_CHECKPOINT).exists():
            time.sleep(0.001)
        start = time.perf_counter()
        os.kill(pid, number)
        ended = fate(pid)
        took = time.perf_counter() - start
        found.append((ended, resumed(stores, folder / "cut", tree(folder / "long"), *LONG), took))
        shutil.rmtree(folder / "cut")
    return found


if __name__ == "__main__":
    _, stores, folder, every, count = sys.argv
    training.CHECKPOINT_SECONDS = 0.0  # one an epoch
    print(
        json.dumps(
            {
                "operations": at_every_operation(stores, Path(folder), int(every)),
                "random": at_random(stores, Path(folder), int(count)),
                "signals": by_signal(stores, Path(folder)),
                "comparisons": comparisons(stores, Path(folder), min(20, int(count))),
            }
        )
    )
