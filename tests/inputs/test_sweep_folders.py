"""A sweep's folder that is damaged, of another sweep, or a stranger's: refused in one line, or made again."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.commands.sweep_heads import main as sweep_heads
from pipeline.core.errors import EmotionRankError, Interrupted, StoreCorrupt
from pipeline.experiments.sweeps.bracket import Bracket, BracketState, read_bracket
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.study import JOURNAL, open_study
from pipeline.training.heads import load_tensors, save_tensors
from tests.experiments.sweeps.conftest import FIXED, a_sweep
from tests.inputs.hostile_runs import nested
from tests.inputs.test_run_folders import flipped
from tests.stage_two import run_command, small_stores, tree

BRACKET_FOLDER = "brackets/000000"
BRACKET, CHECKPOINT = f"{BRACKET_FOLDER}/bracket.json", f"{BRACKET_FOLDER}/checkpoint.safetensors"
SETTINGS = {
    "name": "tiny",
    "fixed": FIXED | {"width": 4, "epochs": 2},
    "score": "dev_loss",
    "halving": {"factor": 2, "rungs": 1},
    "space": {"learning_rate": {"low": 1e-3, "high": 1e-2}},
    "sampler": "random",
    "trials": 2,
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.experiments.sweeps.sweep.sweep_report", lambda *_: None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    return small_stores(folder / "stores")


def swept(small: Path, out: Path, *words: object):
    return run_command(sweep_heads, small, small.parent / "tiny.yaml", "--out", out, *words)


@pytest.fixture(scope="module")
def stopped(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep after its first rung: one trial was stopped, the other goes on."""
    out, save = tmp_path_factory.mktemp("stopped") / "sweep", Bracket.save

    def save_and_stop(bracket: Bracket, state: BracketState) -> None:
        save(bracket, state)
        if state.rung == 2:  # at the end of the first
            raise Interrupted(out, 15)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bracket, "save", save_and_stop)
        patch.setattr("pipeline.experiments.sweeps.sweep.sweep_report", lambda *_: None)
        assert swept(small, out).exit_code == 143
    assert load_tensors(out / CHECKPOINT)[1]["standing"]["rung"] == 2
    return out


def ended(out: Path) -> tuple[list[Any], Any]:
    """Every trial without its seconds, and every epoch of the bracket."""
    rows = json.loads((out / "sweep.json").read_text())["trials"]
    return [row | {"seconds": None} for row in rows], json.loads((out / BRACKET).read_text())["history"]


@pytest.fixture(scope="module")
def whole(small: Path, stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Any]:
    out = tmp_path_factory.mktemp("whole") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.experiments.sweeps.sweep.sweep_report", lambda *_: None)
        assert swept(small, out).exit_code == 0
    return ended(out)


@pytest.fixture
def cut(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "sweep"))


def test_a_sweep_that_was_stopped_at_a_rung_ends_as_one_that_was_not(small: Path, cut: Path, whole: Any) -> None:
    result = swept(small, cut)
    assert "restarts" not in result.stderr
    assert ended(cut) == whole


def as_saved(path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """A checkpoint whose checksum is right and whose contents are not."""
    tensors, said = load_tensors(path)
    edit(tensors, said)
    save_tensors(tensors, path, said)


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "flipped in the header": lambda path: flipped(path, 0.1),
    "flipped in a weight": lambda path: flipped(path, 0.95),
    "of another bracket": lambda path: as_saved(path, lambda _, said: said.update(bracket="0" * 32)),
    "a rung in words": lambda path: as_saved(path, lambda _, said: said["standing"].update(rung="2")),
    "a trial that is not there": lambda path: as_saved(path, lambda _, said: said["standing"].update(entered=[7])),
    "a member that is a path": lambda path: as_saved(path, lambda _, said: said["members"].update({"../x": {}})),
    "a member without steps": lambda path: as_saved(path, lambda _, said: said["members"]["0.0"].pop("steps")),
    "a list": lambda path: as_saved(path, lambda _, said: said.update(members=[])),
    "a tensor of nobody": lambda path: as_saved(path, lambda tensors, _: tensors.update({"9.0.now.a": torch.ones(1)})),
    "a tensor without a place": lambda path: as_saved(path, lambda tensors, _: tensors.update(a=torch.ones(1))),
    "a tensor of no kind": lambda path: as_saved(path, lambda tensors, _: tensors.update({"0.0.x.a": torch.ones(1)})),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_damaged_checkpoint_is_said_and_the_bracket_begins_again(
    small: Path, cut: Path, whole: Any, case: str
) -> None:
    CHECKPOINTS[case](cut / CHECKPOINT)
    result = swept(small, cut)
    assert result.exit_code == 0, result.stderr
    assert "bracket 0 restarts" in result.stderr
    assert ended(cut) == whole


def test_a_checkpoint_of_other_shapes_is_refused(small: Path, cut: Path) -> None:
    def widen(tensors: dict[str, Any], _: object) -> None:
        name = next(name for name in tensors if name.endswith("heads.audio.weight"))
        tensors[name] = torch.zeros(1)

    as_saved(cut / CHECKPOINT, widen)
    result = swept(small, cut)
    assert result.exit_code == 5
    assert "checkpoint.safetensors" in result.stderr


PLANS: dict[str, tuple[Callable[[Any], object], int]] = {
    "a list": (lambda plan: [plan], 5),
    "nothing": (lambda plan: "", 5),
    "100,000 brackets": (lambda plan: "[" * 100_000, 5),
    "no trials": (lambda plan: plan.update(trials=[]), 5),
    "trials that are none": (lambda plan: plan.update(trials=[3]), 5),
    "a number in words": (lambda plan: plan["trials"][0].update(number="0"), 5),
    "a negative number": (lambda plan: plan["trials"][0].update(number=-1), 5),
    "an unknown setting": (lambda plan: plan["trials"][0]["config"].update(epochz=3), 5),
    "settings nested deep": (lambda plan: plan["trials"][0]["config"].update(objective=nested(900)), 5),
    "threads in words": (lambda plan: plan.update(threads="x"), 5),
    "threads without end": (lambda plan: plan.update(threads=10**9), 5),
    "no slots": (lambda plan: plan.update(slots=0), 5),
    "done in words": (lambda plan: plan.update(done="no"), 5),
    "of a later version": (lambda plan: plan.pop("trials") and None, 5),
    "another point": (lambda plan: plan["trials"][0]["params"].update(learning_rate=0.5), 4),
    "another setting": (lambda plan: plan["trials"][0]["config"].update(learning_rate=0.5), 4),
    "a trial of nobody": (lambda plan: plan["trials"][0].update(id=77), 4),
}


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_that_is_not_the_studys_is_refused_and_nothing_is_touched(small: Path, cut: Path, case: str) -> None:
    edit, code = PLANS[case]
    plan = json.loads((cut / BRACKET).read_text())
    del plan["digest"]  # as of a release of before, or by a careful editor
    after = edit(plan)
    (cut / BRACKET).write_text(after if isinstance(after, str) else json.dumps(after or plan))
    before, journal = tree(cut, JOURNAL), (cut / JOURNAL).read_bytes()
    result = swept(small, cut)
    assert result.exit_code == code, result.stderr
    assert "brackets/000000" in result.stderr.splitlines()[-1]
    assert tree(cut, JOURNAL) == before
    assert (cut / JOURNAL).read_bytes().startswith(journal)  # Optuna notes each opening


def test_a_journal_cut_in_mid_line_is_gone_on_with(small: Path, cut: Path, whole: Any) -> None:
    """As a power cut leaves it: the next line must not be written behind half of one."""
    with open(cut / JOURNAL, "ab") as journal:
        journal.write(b'{"op_code":5,"worker_id":"x","tri')
    for _ in range(2):
        result = swept(small, cut)
        assert result.exit_code == 0, result.stderr
    assert ended(cut) == whole


@pytest.mark.parametrize("text", ["{\n", "[]\n", '{"op_code": 99}\n', "\x00\x00\n", "[" * 100_000 + "\n"])
def test_a_journal_with_a_line_that_is_none_is_refused_and_nothing_is_touched(
    small: Path, cut: Path, text: str
) -> None:
    lines = (cut / JOURNAL).read_text().splitlines(keepends=True)
    (cut / JOURNAL).write_text("".join([*lines[:2], text, *lines[2:]]))
    before = tree(cut)
    result = swept(small, cut)
    assert result.exit_code == 5, result.stderr
    assert JOURNAL in result.stderr.splitlines()[-1]
    assert tree(cut) == before
    assert swept(small, cut, "--fresh").exit_code == 0


def test_a_pipe_in_place_of_a_journal_is_not_waited_for(small: Path, cut: Path) -> None:
    (cut / JOURNAL).unlink()
    os.mkfifo(cut / JOURNAL)
    assert swept(small, cut).exit_code == 5


@pytest.mark.parametrize("text", ["", "no database", "SQLite format 3\0" + "x" * 5000])
def test_a_database_that_is_none_is_one_line(small: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "study.db").write_text(text)
    result = swept(small, tmp_path / "out", "--storage", f"sqlite:///{tmp_path}/study.db")
    assert result.exit_code == (0 if text == "" else 2), result.stderr


def test_a_changed_bit_of_a_bracket_is_noticed(small: Path, cut: Path) -> None:
    """A history or a number of slots that was changed was read."""
    good, draw = (cut / BRACKET).read_bytes(), random.Random(0)
    for _ in range(200):
        content = bytearray(good)
        content[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        (cut / BRACKET).write_bytes(content)
        with pytest.raises(StoreCorrupt, match=r"bracket\.json: cannot be read"):
            read_bracket(cut / BRACKET_FOLDER)
    assert swept(small, cut).exit_code == 5


@pytest.mark.parametrize("cases", [100, pytest.param(2_000, marks=pytest.mark.exhaustive)])
def test_a_changed_lost_or_moved_line_of_a_journal_is_noticed(stopped: Path, tmp_path: Path, cases: int) -> None:
    """A changed digit that was still a number was read."""
    data, space, draw = (stopped / JOURNAL).read_bytes(), Space(a_sweep(**SETTINGS)), random.Random(0)
    lines = data.splitlines(keepends=True)
    swapped = [*lines[:1], lines[2], lines[1], *lines[3:]]
    cases_of = [b"".join(swapped), b"".join(lines[:2] + lines[3:]), b"".join([*lines[:3], lines[2], *lines[3:]])]
    for _ in range(cases):
        content = bytearray(data)
        place = draw.randrange(len(data) - 1)  # without its last newline a line is none
        content[place] ^= 1 << draw.randrange(8)
        cases_of.append(bytes(content))
    for content in cases_of:
        (tmp_path / JOURNAL).write_bytes(content)
        with pytest.raises(StoreCorrupt, match=r"journal\.log: line \d+ is corrupt"):
            open_study(space, tmp_path, None, {}, fresh=False)


def test_a_journal_of_a_release_without_checksums_is_gone_on_with(small: Path, cut: Path, whole: Any) -> None:
    lines = (cut / JOURNAL).read_text().splitlines()
    (cut / JOURNAL).write_text("".join(re.sub(r',"chain":"[0-9A-F]{8}"}$', "}\n", line) for line in lines))
    assert "chain" not in (cut / JOURNAL).read_text()
    assert swept(small, cut).exit_code == 0
    assert ended(cut) == whole
    assert "chain" in (cut / JOURNAL).read_text().splitlines()[-1]
    assert swept(small, cut).exit_code == 0


@pytest.mark.parametrize("cases", [60, pytest.param(3_000, marks=pytest.mark.exhaustive)])
def test_any_bytes_of_a_journal_may_change_and_it_opens_or_is_refused_in_one_line(
    stopped: Path, tmp_path: Path, cases: int
) -> None:
    data, space = (stopped / JOURNAL).read_bytes(), Space(a_sweep(**SETTINGS))

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=9) | st.sampled_from([b"1", b'"', b"-", b"null"]))
    def check(place: float, removed: int, inserted: bytes) -> None:
        at = int(place * len(data))
        (tmp_path / JOURNAL).write_bytes(data[:at] + inserted + data[at + removed :])
        for leftover in tmp_path.glob("*.lock"):
            leftover.unlink()
        try:
            open_study(space, tmp_path, None, {}, fresh=False)
        except EmotionRankError as error:
            code, said = error.exit_code, str(error)
        else:
            return
        assert code in (4, 5)
        assert said.isprintable()

    check()
