"""Callbacks are told every epoch once, whatever stops a training, and cannot break one; so are wandb and trackio."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline import Callback
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.errors import Interrupted
from pipeline.training.callbacks import RunCallbacks
from pipeline.training.run_folder import Run
from pipeline.training.train import Trainer, train
from tests.stage_two import TRAINING, run_command, tree

SETTINGS = ["batch_size=16", "width=4", "epochs=4", "standardise=always", "threads=1"]


class Recorder(Callback):
    """What it was told, call by call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.history: list[list[int]] = []

    def on_start(self, config: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        self.calls.append(("start", config))
        self.history.append([line["epoch"] for line in history])

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        self.calls.append(("epoch", metrics))

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        self.calls.append(("end", metrics))

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [said for each, said in self.calls if each == kind]


def trained(stores: Path, out: Path, *callbacks: Callback, **settings: Any) -> Run:
    return train(stores, out=out, seeds=2, overrides=SETTINGS, callbacks=callbacks, **settings)


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def stop_after(epochs: int, out: Path, patch: pytest.MonkeyPatch) -> None:
    """A signal in the epoch after so many."""
    end, count = Trainer._end_epoch, iter(range(99))

    def stopping(self: Trainer, *arguments: Any) -> None:
        if next(count) == epochs:
            raise Interrupted(out, 15)
        end(self, *arguments)

    patch.setattr(Trainer, "_end_epoch", stopping)


def test_a_callback_is_told_the_settings_every_line_of_the_metrics_and_what_was_kept(
    small: Path, tmp_path: Path
) -> None:
    told = Recorder()
    run = trained(small, tmp_path / "run", told)
    assert told.of("epoch") == lines_of(run.folder)
    assert [(config["seed"], config["epochs"], config["run"]) for config in told.of("start")] == [
        (seed, 4, str(run.folder)) for seed in (0, 1)
    ]
    kept = [
        {"seed": int(seed), "epoch": of["epoch"], "dev_loss": of["dev_loss"]} for seed, of in run.about["seeds"].items()
    ]
    assert told.of("end") == kept
    assert [kind for kind, _ in told.calls] == ["start", *["epoch"] * 4, "end"] * 2


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_an_epoch_is_told_once_though_the_training_was_stopped(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """With a checkpoint an epoch, and with none before the end: those that are trained again were not told."""
    monkeypatch.setattr("pipeline.training.train.CHECKPOINT_SECONDS", seconds)
    told = Recorder()
    with monkeypatch.context() as patch:
        stop_after(2, tmp_path / "run", patch)
        with pytest.raises(Interrupted):
            trained(small, tmp_path / "run", told)
    assert told.of("end") == [{"seed": 0}]
    run = trained(small, tmp_path / "run", told)
    assert told.of("epoch") == lines_of(run.folder)
    assert told.history == [[], [] if seconds else [1, 2], []]
    quiet = Recorder()
    trained(small, tmp_path / "run", quiet)  # nothing is left
    assert quiet.calls == []


@pytest.mark.parametrize("method", ["on_start", "on_epoch", "on_end"])
def test_a_callback_that_raises_is_one_warning_and_the_others_and_the_heads_are_as_without_it(
    small: Path, tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Recorder):
        pass

    def failing(self: Broken, *_: Any) -> None:
        raise RuntimeError("no\nnetwork")

    setattr(Broken, method, failing)
    broken, told = Broken(), Recorder()
    run = trained(small, tmp_path / "run", broken, told)
    assert tree(run.folder) == tree(trained(small, tmp_path / "without").folder)
    assert told.of("epoch") == lines_of(run.folder)
    said = [record.getMessage() for record in caplog.records if "Broken" in record.getMessage()]
    assert said == [
        f"seed {seed}: Broken.{method} failed (RuntimeError: no network); the training goes on without it"
        for seed in (0, 1)
    ]
    if method != "on_end":
        assert broken.of("end") == [{"seed": 0}, {"seed": 1}]  # so that it can close what it holds


def test_seeds_side_by_side_are_told_one_call_at_a_time(tmp_path: Path) -> None:
    class Slow(Recorder):
        inside = most = 0

        def on_epoch(self, metrics: Mapping[str, Any]) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(1e-3)  # the others' turn
            self.calls.append(("epoch", metrics))
            self.inside -= 1

    told = Slow()
    run, begin = RunCallbacks([told], {"epochs": 5}, tmp_path), threading.Barrier(4)

    def seed(number: int) -> None:
        lines = [{"seed": number, "epoch": epoch} for epoch in range(1, 6)]
        with run.of_seed(number, tmp_path, lines[:1]) as callbacks:
            begin.wait()
            for end in range(2, 6):
                callbacks.tell(lines[:end])
            callbacks.finish(lines, {"epoch": 3, "dev_loss": 0.5, "threads": 1})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(seed, range(4)))
    assert told.most == 1
    assert sorted((line["seed"], line["epoch"]) for line in told.of("epoch")) == [
        (s, e) for s in range(4) for e in range(2, 6)
    ]
    assert sorted(line["seed"] for line in told.of("end") if line["epoch"] == 3) == [0, 1, 2, 3]


class Tracked:
    """A run of a tracker."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.logged, self.summary, self.finished = options, {}, {}, 0

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        print("chatter on stdout")
        assert step not in self.logged
        self.logged[step] = metrics

    def finish(self, exit_code: int = 0) -> None:
        self.finished, self.exit_code = self.finished + 1, exit_code


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of that name, which keeps its runs."""
    module = ModuleType(request.param)
    module.runs = []
    module.init = lambda **options: module.runs.append(Tracked(options)) or module.runs[-1]
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.delenv(f"{request.param.upper()}_PROJECT", raising=False)
    return module


def name_of(run: Tracked) -> str:
    return run.options.get("id") or run.options["name"]


def test_a_tracker_has_a_run_a_seed_with_every_epoch_at_its_step(
    tracker: ModuleType, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{tracker.__name__.upper()}_PROJECT", "mine")
    result = run_command(train_heads, small, "--out", tmp_path / "erc", f"--{tracker.__name__}", "--json", *TRAINING)
    json.loads(result.stdout)  # one object: what a tracker prints is on stderr
    assert "chatter on stdout" in result.stderr
    [run] = tracker.runs
    assert (run.options["project"], run.options["group"]) == ("mine", "erc")
    assert run.options["name"].startswith("erc-seed0")
    assert run.options["config"]["width"] == 4
    for line in lines_of(tmp_path / "erc"):
        names = ("train_loss", "dev_loss", "temperature")
        assert run.logged[line["epoch"]] == {name: line[name] for name in names}
    assert run.finished == 1
    best = json.loads((tmp_path / "erc/run.json").read_text())["seeds"]["0"]
    assert {**run.summary, **run.logged.get(None, {})} == {
        "best_epoch": best["epoch"],
        "best_dev_loss": best["dev_loss"],
    }


def test_a_seed_that_resumes_goes_on_in_its_run_and_a_fresh_one_begins_another(
    tracker: ModuleType, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, out = {tracker.__name__: True}, tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(2, out, patch)
        with pytest.raises(Interrupted):
            trained(small, out, **asked)
    trained(small, out, **asked)
    first, again, other = tracker.runs
    assert name_of(again) == name_of(first) != name_of(other)
    assert (first.options["resume"], again.options["resume"]) == (other.options["resume"], "allow")
    assert sorted(filter(None, [*first.logged, *again.logged])) == [1, 2, 3, 4]
    assert (first.finished, again.finished) == (1, 1)
    trained(small, out, **asked)
    assert len(tracker.runs) == 3
    trained(small, out, fresh=True, **asked)
    assert name_of(tracker.runs[3]) != name_of(first)


def test_a_run_that_has_ended_is_logged_without_training(
    tracker: ModuleType, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(small, tmp_path / "run")
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("trained again"))
    trained(small, tmp_path / "run", **{tracker.__name__: True})
    assert [sorted(filter(None, run.logged)) for run in tracker.runs] == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_line_before_anything_trains(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = run_command(train_heads, small, "--out", tmp_path / "run", f"--{package}", *TRAINING)
    assert result.exit_code == 2
    assert (
        f"{package} is not installed; expected the extra {package}. Run pip install" in result.stderr.splitlines()[-1]
    )
    assert not list(tmp_path.iterdir())


def records(data: bytes) -> Iterator[bytes]:
    """Of a log of LevelDB, as wandb writes it behind a header of its own."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the end of a block
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_itself_keeps_the_epochs_offline(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (extra wandb)")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = trained(small, tmp_path / "run", wandb=True)
    found: dict[int, list[tuple[int, float]]] = {}
    for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
        seed = -1
        for data in records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.HasField("run") and record.run.config.update:
                settings = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                seed = settings.get("seed", seed)
            if record.HasField("history"):
                items = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
                found.setdefault(seed, []).append((items["_step"], items["dev_loss"]))
    expected: dict[int, list[tuple[int, float]]] = {}
    for line in lines_of(run.folder):
        expected.setdefault(line["seed"], []).append((line["epoch"], line["dev_loss"]))
    assert found == expected


@pytest.mark.slow
def test_trackio_itself_keeps_the_epochs(small: Path, tmp_path: Path) -> None:
    """In a process of its own: it finds its folder when it is imported."""
    pytest.importorskip("trackio", reason="trackio is not installed (extra trackio)")
    program = (
        "from pipeline import train\n"
        f"train({str(small)!r}, out='run', overrides={SETTINGS!r}, trackio=True)\n"
        "import trackio\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "[run] = trackio.Api().runs('emotionrankclap')\n"
        "logged = SQLiteStorage.get_logs('emotionrankclap', run.name)\n"
        "print('found', [(line['step'], line['dev_loss']) for line in logged if 'dev_loss' in line])\n"
    )
    environment = os.environ | {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "PYTHONWARNINGS": "ignore",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    [line] = [line for line in ended.stdout.splitlines() if line.startswith("found ")]
    assert line == f"found {[(line['epoch'], line['dev_loss']) for line in lines_of(tmp_path / 'run')]}"
