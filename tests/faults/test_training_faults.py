"""Stage two when it is killed, when the disk refuses, when two want the same folder."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cache import disk
from cache.disk import writer_lock
from pipeline.commands.compare_methods import main as compare_methods
from pipeline.commands.evaluate_heads import main as evaluate_heads
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.errors import EmotionRankError
from pipeline.training.run_folder import open_run
from pipeline.training.train import train
from tests.faults.faulty_os import CHANGES, FaultyOs
from tests.stage_two import EVALUATION, SETTINGS, TRAINING, run_command, tree

ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES]


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert trained(small, out).exit_code == 0
    return out


def trained(small: Path, out: Path, *words: object):
    return run_command(train_heads, small, "--out", out, "-o", "seeds=[3]", *TRAINING, *words)


@pytest.fixture(scope="module", params=[(25, 2), pytest.param((1, 50), marks=pytest.mark.exhaustive)])
def fates(request: pytest.FixtureRequest, small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    words = [small, tmp_path_factory.mktemp("killed"), *request.param]
    program = [sys.executable, "-m", "tests.faults.killed", *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=550)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_training_killed_at_any_file_operation_ends_with_the_same_files(fates: dict[str, Any]) -> None:
    assert len(fates["operations"]) >= 6
    assert all(ended == -signal.SIGKILL for ended, _ in fates["operations"])
    assert all(same for _, same in fates["operations"])


def test_a_training_killed_at_any_moment_twice_ends_with_the_same_files(fates: dict[str, Any]) -> None:
    assert any(ended == -signal.SIGKILL for ended, _ in fates["random"])
    assert all(same for _, same in fates["random"])


def test_a_comparison_killed_at_any_moment_ends_with_the_same_figures_and_heads(fates: dict[str, Any]) -> None:
    assert fates["comparisons"]
    assert all(same and heads for _, same, heads in fates["comparisons"])


def test_a_signal_ends_a_training_soon_with_its_code_and_it_goes_on(fates: dict[str, Any]) -> None:
    assert [ended for ended, _, _ in fates["signals"]] == [130, 143]
    assert all(same for _, same, _ in fates["signals"])
    assert max(took for _, _, took in fates["signals"]) < 5


def with_disk(fault: FaultyOs, work: Callable[[], Any]) -> Any:
    """What `work` gives where the disk is `fault`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "os", fault)
        return work()


@pytest.mark.parametrize(("step", "errors"), [(5, 1), pytest.param(1, 3, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("fresh", [False, True])
def test_whatever_operation_the_disk_refuses_is_one_line_and_the_next_run_ends_as_if_it_had_not(
    small: Path, whole: Path, tmp_path: Path, step: int, errors: int, fresh: bool
) -> None:
    def begin() -> Path:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        return Path(shutil.copytree(whole, out)) if fresh else out

    words = ["--fresh"] * fresh
    out = begin()
    counted = FaultyOs(counted=CHANGES)
    with_disk(counted, lambda: trained(small, out, *words))
    assert len(counted.calls) > 50
    for at in range(0, len(counted.calls), step):
        for turn in range(errors):
            out, number = begin(), ERRORS[(at + turn) % len(ERRORS)]
            fault = FaultyOs(at, number, counted=CHANGES)
            result = with_disk(fault, partial(trained, small, out, *words))
            assert result.exit_code == 1, (at, result.output)
            assert os.strerror(number) in result.stderr
            assert not list(out.rglob("*.partial"))
            again = trained(small, out, *words)
            assert again.exit_code == 0, (at, again.stderr)
            assert tree(out) == tree(whole)


def test_a_disk_that_is_full_in_truth_is_one_line_and_leaves_nothing_half_written(
    small: Path, whole: Path, tmp_path: Path
) -> None:
    """The kernel refuses to let any file grow beyond 1,000 bytes, so heads and checkpoints do not fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        result = trained(small, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert result.exit_code == 1
    assert "too large" in result.stderr.lower()
    assert not list(tmp_path.rglob("*.partial"))
    assert trained(small, tmp_path / "out").exit_code == 0
    assert tree(tmp_path / "out") == tree(whole)


def test_every_file_is_on_the_disk_before_it_has_its_name_and_its_name_is_before_the_next(
    small: Path, tmp_path: Path
) -> None:
    """So a power cut leaves each file old or new, and run.json never names heads that are not there."""
    seen = FaultyOs(counted=CHANGES)
    assert with_disk(seen, lambda: trained(small, tmp_path / "run")).exit_code == 0
    of_handle: dict[int, Path] = {}
    calls: list[tuple[str, Path]] = []
    for name, args, result in seen.calls:
        if name == "open":
            of_handle[result] = Path(args[0])
        calls.append((name, Path(args[0]) if isinstance(args[0], str | Path) else of_handle[args[0]]))
    replaced = [(at, Path(seen.calls[at].args[1])) for at, (name, _) in enumerate(calls) if name == "replace"]
    assert len(replaced) >= 7
    for at, path in replaced:
        unfinished = path.with_name(f"{path.name}.partial")
        assert calls[at - 2] == ("pwrite", unfinished)
        assert calls[at - 1] == ("fsync", unfinished)
        assert calls[at + 1 : at + 3] == [("open", path.parent), ("fsync", path.parent)]
    assert {path for name, path in calls if name == "pwrite" and path.name != ".writer.lock"} == {
        path.with_name(f"{path.name}.partial") for _, path in replaced
    }
    made = [path for name, path in calls if name == "mkdir"]
    assert made
    assert all(("fsync", path.parent) in calls for path in made)
    names = [path.relative_to(tmp_path / "run").as_posix() for _, path in replaced]
    assert names[:2] == ["config.yaml", "run.json"]
    assert names[-2:] == ["run.json", "digests.json"]


def test_a_second_command_on_one_folder_is_told_who_holds_it(small: Path, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before = tree(run)
    for command, words in (
        (train_heads, [small, "--out", run, *TRAINING]),
        (train_heads, [small, "--out", run, "--fresh", *TRAINING]),
        (evaluate_heads, [small, run, *EVALUATION]),
        (compare_methods, [small, "emotionrankclap", "--out", run, *TRAINING]),
    ):
        with writer_lock(run):
            result = run_command(command, *words)
        assert result.exit_code == 75
        assert f"process {os.getpid()}" in result.stderr
    assert tree(run) == before


def test_a_comparison_holds_its_folder_from_the_first_training_to_the_last_table(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def beside(*_: object) -> None:
        again = run_command(compare_methods, small, "emotionrankclap", "--out", tmp_path, "--seeds", 1, *TRAINING)
        seen.append(again.exit_code)

    from pipeline.experiments import compare as method_comparison

    measured, last_table = method_comparison._measured, method_comparison.paper_tables
    monkeypatch.setattr(method_comparison, "_measured", lambda *a: (beside(), measured(*a))[1])
    monkeypatch.setattr(method_comparison, "paper_tables", lambda: (beside(), last_table())[1])
    words = ["-e" if word == "-o" else word for word in EVALUATION]
    done = run_command(compare_methods, small, "emotionrankclap", "--out", tmp_path, "--seeds", 1, *TRAINING, *words)
    assert done.exit_code == 0
    assert seen == [75, 75]


def test_a_training_without_a_finite_loss_is_one_line_and_no_heads(small: Path, tmp_path: Path) -> None:
    result = trained(small, tmp_path / "run", "-o", "learning_rate=1e300")
    assert result.exit_code == 1
    assert "learning_rate" in result.stderr
    assert not list(tmp_path.rglob("*.safetensors"))
    with pytest.raises(EmotionRankError, match="no trained heads"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("threads", [1, 2])
def test_equal_seeds_give_equal_bits_alone_or_beside_others(small: Path, tmp_path: Path, threads: int) -> None:
    overrides = [*SETTINGS, "width=64", f"threads={threads}"]
    for name, seeds in (("alone", [5]), ("beside", [4, 5, 6])):
        train(small, out=tmp_path / name, seeds=seeds, overrides=overrides)
    alone, beside = (tree(tmp_path / name / "seeds/5") for name in ("alone", "beside"))
    assert alone == beside
    assert tree(tmp_path / "beside/seeds/4")["heads.safetensors"] != alone["heads.safetensors"]
