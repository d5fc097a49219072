"""The power goes after every call of `os`: what is left opens, holds no wrong row, and is taken up again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache import disk
from tests.faults.faulty_os import CHANGES, Call, FaultyOs
from tests.faults.power import Disk
from tests.faults.small import check_rows, contents, quick_encoders, run_small, small_corpus

KEPT = (0.0, 0.5, 0.9, 1.0)  # how likely an unsynced change is on the disk; 0 and 1 are the orderly ends


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    quick_encoders(monkeypatch)
    return small_corpus(tmp_path / "corpus")


def _recorded(manifest: Path, out: Path, patch: pytest.MonkeyPatch) -> FaultyOs:
    recorder = FaultyOs(counted=CHANGES)
    with patch.context() as patched:
        patched.setattr(disk, "os", recorder)
        run_small(manifest, out)
    return recorder


def _before(manifest: Path, out: Path, case: str) -> None:
    if case == "grown":
        lines = manifest.read_text().splitlines(keepends=True)
        fewer = manifest.with_name("fewer.csv")
        fewer.write_text("".join([lines[0], lines[3], *lines[1:3]]))
        run_small(fewer, out)
    else:
        out.mkdir()


@pytest.mark.parametrize(
    ("stride", "tries"), [(17, 1), pytest.param(1, 3, marks=pytest.mark.exhaustive)], ids=["some", "all"]
)
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("case", ["new", "grown"])
def test_power_lost_at_any_time_leaves_no_wrong_row_and_nothing_to_repair(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, kept: float, stride: int, tries: int
) -> None:
    out, left = tmp_path / "out", tmp_path / "left"
    _before(small, out, case)
    shutil.copytree(out, tmp_path / "before")
    calls = _recorded(small, out, monkeypatch).calls
    whole = contents(out)
    out.rename(tmp_path / "whole")
    shutil.copytree(tmp_path / "before", out)
    for k in {*range(KEPT.index(kept) % stride, len(calls), stride), len(calls)}:
        for attempt in range(tries):
            lost = Disk(out)
            lost.play(calls[:k])
            lost.after_power_loss(left, np.random.default_rng((k, attempt)), kept)
            check_rows(left, tmp_path / "whole")
            assert k < len(calls) or contents(left) == whole  # a run that has ended survives whatever comes
            run_small(small, left)
            assert contents(left) == whole, (k, attempt)
            shutil.rmtree(left)


def test_the_model_loses_what_was_not_synced_and_keeps_what_was(tmp_path: Path) -> None:
    a, b = tmp_path / "disk" / "a", tmp_path / "disk" / "b"
    written = [Call("open", (a, os.O_CREAT), 3), Call("pwrite", (3, b"one", 0), 3), Call("fsync", (3,))]
    named = [*written, Call("open", (a.parent, os.O_DIRECTORY), 4), Call("fsync", (4,))]
    again = [*named, Call("pwrite", (3, b"TWO", 0), 3)]
    renamed = [*again, Call("replace", (a, b))]

    def outcomes(calls: list[Call], kept: float) -> set[tuple[tuple[str, bytes], ...]]:
        found = set()
        for seed in range(1 if kept in (0, 1) else 50):
            lost, folder = Disk(a.parent), tmp_path / "left"
            lost.play(calls)
            lost.after_power_loss(folder, np.random.default_rng(seed), kept)
            found.add(tuple(contents(folder).items()))
            shutil.rmtree(folder)
        return found

    assert outcomes(written, 0) == {()}
    assert outcomes(written, 1) == outcomes(named, 0) == outcomes(again, 0) == {(("a", b"one"),)}
    assert outcomes(again, 1) == {(("a", b"TWO"),)}
    assert outcomes(again, 0.5) == {(("a", content),) for content in (b"one", b"Tne", b"TWe", b"TWO")}
    assert outcomes(renamed, 0) == {(("a", b"one"),)}
    assert outcomes(renamed, 1) == {(("b", b"TWO"),)}
