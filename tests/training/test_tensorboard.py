"""TensorBoard shows metrics.jsonl: live, whole, and no step twice. Read by its own reader."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from pipeline.commands.compare_methods import main as compare_methods
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.errors import Interrupted
from pipeline.training.run_folder import Run
from pipeline.training.trackers import EVENT_FILES, TensorBoard
from pipeline.training.train import Trainer, train
from tests.stage_two import EVALUATION, TRAINING, run_command, tree

SETTINGS = ["batch_size=16", "width=4", "epochs=4", "standardise=always", "threads=1"]
NAMES = ("train_loss", "dev_loss", "temperature")


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar of an event file."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def said(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.jsonl, in the precision of an event."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: [(line["epoch"], float(np.float32(line[name]))) for line in lines] for name in NAMES}


def trained(stores: Path, out: Path, **settings: Any) -> Run:
    return train(stores, out=out, seeds=2, overrides=SETTINGS, tensorboard=True, **settings)


def events(out: Path, seed: int = 0) -> Path:
    (path,) = (out / f"seeds/{seed}").glob(EVENT_FILES)
    return path


def without_events(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if "tfevents" not in name}


@pytest.fixture(scope="module")
def watched(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(small, tmp_path_factory.mktemp("watched") / "run").folder


def test_the_curves_are_those_of_the_metrics_for_every_seed(watched: Path) -> None:
    for seed in (0, 1):
        folder = watched / f"seeds/{seed}"
        assert shown(folder) == said(folder)
        assert len(said(folder)["dev_loss"]) == 4


def test_the_heads_are_the_same_bits_with_the_switch_and_without(small: Path, watched: Path, tmp_path: Path) -> None:
    train(small, out=tmp_path / "run", seeds=2, overrides=SETTINGS)
    assert without_events(watched) == tree(tmp_path / "run")
    assert len(tree(watched)) == len(tree(tmp_path / "run")) + 2


def test_the_time_axis_is_the_time_of_the_training(watched: Path) -> None:
    reader = EventAccumulator(str(watched / "seeds/0"))
    reader.Reload()
    times = [each.wall_time for each in reader.Scalars("dev_loss")]
    assert times == sorted(times)
    assert 0 <= time.time() - times[-1] < 3600


def test_an_epoch_is_on_the_disk_when_it_has_ended_and_in_the_file_that_was_there(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that keeps the file open sees every epoch."""
    write, seen, files = Trainer._checkpoint, [], set()

    def look(self: Trainer, progress: Any) -> None:
        seen.append(len(shown(self.folder).get("temperature", [])))
        files.add(events(tmp_path / "run"))
        write(self, progress)

    monkeypatch.setattr(Trainer, "_checkpoint", look)
    train(small, out=tmp_path / "run", seeds=1, overrides=SETTINGS, tensorboard=True)
    assert seen == [0, 1, 2, 3]
    assert len(files) == 1


def cut_record(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def ahead(path: Path) -> None:
    """Epochs that the checkpoint does not have."""
    path.write_bytes(path.read_bytes() * 2)


AFTER_A_KILL: dict[str, Callable[[Path], object]] = {
    "nothing else": lambda path: None,
    "a record cut short": cut_record,
    "epochs ahead": ahead,
    "a changed byte": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
    "no file": Path.unlink,
    "an empty one": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize(
    ("before_the_event", "case"), [(True, "nothing else"), *((False, case) for case in AFTER_A_KILL)]
)
def test_a_seed_that_was_killed_shows_the_series_of_one_that_was_not(
    small: Path, watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_the_event: bool, case: str
) -> None:
    write, log_epoch, count = Trainer._checkpoint, Trainer._end_epoch, iter(range(9))

    def stopping(self: Trainer, *arguments: Any) -> None:
        if next(count) == 2:
            if before_the_event:
                write(self, *arguments)
            raise Interrupted(tmp_path, 15)
        (write if before_the_event else log_epoch)(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_checkpoint" if before_the_event else "_end_epoch", stopping)
        with pytest.raises(Interrupted):
            trained(small, tmp_path / "run")
    AFTER_A_KILL[case](events(tmp_path / "run"))
    trained(small, tmp_path / "run")
    assert without_events(tmp_path / "run") == without_events(watched)
    for seed in (0, 1):
        assert shown(tmp_path / f"run/seeds/{seed}") == shown(watched / f"seeds/{seed}")


def test_a_reader_that_saw_the_epochs_before_a_kill_sees_none_twice(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run/seeds/0"
    end, count = Trainer._end_epoch, iter(range(9))

    def stopping(self: Trainer, *arguments: Any) -> None:
        if next(count) == 2:
            raise Interrupted(tmp_path, 15)
        end(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", stopping)
        with pytest.raises(Interrupted):
            trained(small, tmp_path / "run")
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    assert [each.step for each in reader.Scalars("dev_loss")] == [1, 2]
    trained(small, tmp_path / "run")
    reader.Reload()
    assert [each.step for each in reader.Scalars("dev_loss")] == [1, 2, 3, 4]


def test_a_run_that_has_ended_gets_its_curves_without_training(
    small: Path, watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small, out=tmp_path / "run", seeds=2, overrides=SETTINGS)
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("trained again"))
    trained(small, tmp_path / "run")
    for seed in (0, 1):
        assert shown(tmp_path / f"run/seeds/{seed}") == shown(watched / f"seeds/{seed}")


def test_a_disk_that_refuses_an_event_is_a_warning_and_the_training_goes_on(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = threading.excepthook
    assert run_command(train_heads, small, "--out", tmp_path / "without", *TRAINING).exit_code == 0
    for fails_at in (0, 1, 3, 5):
        calls, write = iter(range(10**6)), RecordWriter.write

        def refusing(self: RecordWriter, data: bytes, at: int = fails_at) -> None:
            if next(calls) >= at:  # noqa: B023
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(self, data)  # noqa: B023

        out = tmp_path / str(fails_at)
        with monkeypatch.context() as patch:
            patch.setattr(RecordWriter, "write", refusing)
            result = run_command(train_heads, small, "--out", out, "--tensorboard", *TRAINING)
        assert result.exit_code == 0
        [line] = [line for line in result.stderr.splitlines() if "TensorBoard" in line]
        assert os.strerror(errno.ENOSPC) in line
        assert line.endswith("the training goes on without it")
        assert without_events(out) == tree(tmp_path / "without")
        assert "Traceback" not in result.stderr + capfd.readouterr().err
        assert threading.excepthook is hook


@pytest.mark.parametrize("command", [train_heads, compare_methods])
def test_where_it_is_not_installed_one_line_says_so_before_anything_trains(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = run_command(command, small, "--out", tmp_path / "run", "--tensorboard", *TRAINING)
    assert result.exit_code == 2
    line = "error: --tensorboard: tensorboard is not installed; expected the extra tensorboard. "
    assert result.stderr.splitlines()[-1] == f"{line}Run pip install 'emotionrankclap[tensorboard]'."
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_comparison_shows_the_curves_of_every_method(small: Path, tmp_path: Path) -> None:
    words = ["clap_sce", "--seeds", 1, "--out", tmp_path, "--tensorboard", *TRAINING]
    quick = [word if word != "-o" else "-e" for word in EVALUATION]
    assert run_command(compare_methods, small, *words, *quick).exit_code == 0
    assert shown(tmp_path / "clap_sce/seeds/0") == said(tmp_path / "clap_sce/seeds/0")


def test_losses_of_any_size_are_written(tmp_path: Path) -> None:
    losses = [1e300, -1e300, math.nan, 1e-300, 7]
    lines = [{"epoch": e, "train_loss": loss, "dev_loss": 0.5, "temperature": 1} for e, loss in enumerate(losses, 1)]
    board = TensorBoard()
    board.on_start({"folder": str(tmp_path), "seed": 0}, [line | {"seed": 0} for line in lines[:2]])
    for line in lines[2:]:
        board.on_epoch(line | {"seed": 0})
    board.on_end({"seed": 0})
    found = [value for _, value in shown(tmp_path)["train_loss"]]
    assert [found[0], found[1], found[3], found[4]] == [math.inf, -math.inf, 0, 7]
    assert math.isnan(found[2])


@pytest.mark.parametrize("seed", [0, 7])
def test_an_event_file_of_an_earlier_release_is_replaced_and_no_link_followed(tmp_path: Path, seed: int) -> None:
    (tmp_path / "mine").write_text("kept")
    folder = tmp_path / str(seed)
    folder.mkdir()
    (folder / f"events.out.tfevents.{seed}").symlink_to(tmp_path / "mine")
    board = TensorBoard()
    board.on_start({"folder": str(folder), "seed": seed}, [])
    board.on_end({"seed": seed})
    assert (tmp_path / "mine").read_text() == "kept"
    assert not any(path.is_symlink() for path in folder.iterdir())
