"""SIGKILL at random instants, SIGINT and SIGTERM, and a second writer: real processes, real signals."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

import pipeline.extraction.extract
from cache.header import DONE, PENDING
from cache.stores import open_stores
from pipeline.commands.extract_features import main as extract_features
from pipeline.extraction.status import verify
from tests.faults.small import OPTIONS, check_rows, contents, quick_encoders, run_small, small_corpus

# a server that has everything imported forks the processes
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    quick_encoders(monkeypatch)
    manifest = small_corpus(tmp_path / "corpus")
    run_small(manifest, tmp_path / "whole")
    return manifest


def _run_in_child(manifest: Path, out: Path, started: Connection) -> None:
    quick_encoders(pytest.MonkeyPatch())
    started.send(None)
    run_small(manifest, out)


def _killed(manifest: Path, out: Path, seconds: float) -> bool:
    """Run in a process that is killed after `seconds`; whether it was still running."""
    seen, started = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_run_in_child, args=(manifest, out, started))
    process.start()
    with contextlib.closing(seen), contextlib.closing(started):
        seen.recv()
        time.sleep(seconds)
        process.kill()
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_runs_killed_at_random_instants_end_byte_identical(small: Path, tmp_path: Path, kills: int) -> None:
    """A folder takes kills until a run gets through or three have hit, then it is finished here."""
    draw, hit, folders = random.Random(kills), 0, 0
    begun = time.monotonic()
    assert not _killed(small, tmp_path / "timed", 5)  # it ends by itself, and the fork server has started
    began = time.monotonic()
    run_small(small, tmp_path / "timed here")
    longest = 2 * (time.monotonic() - began)
    while hit < kills:
        out = tmp_path / f"out{folders}"
        folders += 1
        for _ in range(3):
            if hit == kills or not _killed(small, out, draw.uniform(0, longest)):
                break
            hit += 1
            if out.exists():
                check_rows(out, tmp_path / "whole")
        run_small(small, out)
        assert contents(out) == contents(tmp_path / "whole")
        assert time.monotonic() - begun < 20 * kills


def _slow_run_in_child(phase: str, words: list[str], log: Path) -> None:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that a shell began with & ignores it
    quick_encoders(pytest.MonkeyPatch(), slow_below=8001)  # two clips are longer
    if phase != "encoding":
        slow = {"loading": "load_encoder", "opening": "sources_of"}[phase]
        setattr(pipeline.extraction.extract, slow, lambda *_: time.sleep(60))
    extract_features(words)


class _SlowRun:
    """The command in a process of its own, which after two clips, or over opening its stores, takes minutes."""

    def __init__(self, phase: str, manifest: Path, out: Path) -> None:
        self._log = out.with_name(f"log{time.monotonic_ns()}")
        words = [str(manifest), "--out", str(out), *OPTIONS]
        self.process = FORKS.Process(target=_slow_run_in_child, args=(phase, words, self._log))
        self.process.start()

    def wait_for(self, ready: Callable[[], bool]) -> None:
        while self.process.is_alive() and not ready():
            time.sleep(0.01)

    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def end(self) -> tuple[int | None, str]:
        """The exit code and what was said."""
        self.process.join(30)
        return self.process.exitcode, self.said()


def _done(out: Path) -> int:
    try:
        return int((open_stores(out).audio.scan() != PENDING).sum())
    except Exception:  # noqa: BLE001 - not laid out yet
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["loading", "opening", "encoding"])
def test_a_signal_ends_the_run_within_five_seconds_with_what_is_finished(
    small: Path, tmp_path: Path, number: signal.Signals, phase: str
) -> None:
    out = tmp_path / "out"
    run = _SlowRun(phase, small, out)
    begun = {
        "loading": lambda: "device=" in run.said(),
        "opening": (out / ".writer.lock").exists,
        "encoding": lambda: _done(out) == 2,
    }
    run.wait_for(begun[phase])
    time.sleep(0.2)
    began = time.monotonic()
    os.kill(run.process.pid, number)
    code, said = run.end()
    assert time.monotonic() - began < 5
    assert code == 128 + number, said
    last = "stopped" if phase == "loading" else f"error: {out}: stopped by signal {number:d}; "
    assert said.splitlines()[-1].startswith(last)
    assert "Traceback" not in said
    if phase == "encoding":
        assert verify(out) == _done(out) + 96
    run_small(small, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_the_second_writer_names_the_first_and_the_third_follows_the_killed_first(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = _SlowRun("encoding", small, out)
    try:
        first.wait_for(lambda: _done(out) == 2)
        before = contents(out)
        code, said = _SlowRun("encoding", small, out).end()
        assert code == 75, said
        assert f"{out}: process {first.process.pid} on " in said
        assert "Traceback" not in said
        assert contents(out) == before
        states = open_stores(out).audio.scan()  # readers need no lock
        assert np.count_nonzero(states == DONE) == 2
    finally:
        first.process.kill()
        first.process.join()
    run_small(small, out)
    assert contents(out) == contents(tmp_path / "whole")
