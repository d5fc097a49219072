"""A sweep that was killed resumes, and several processes share one."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from cache.disk import writer_lock
from cache.stores import open_stores
from pipeline.core.errors import EmotionRankError, StoreCorrupt, StoreLocked, StoreMismatch
from pipeline.experiments.sweeps.bracket import HeadsProgress
from pipeline.experiments.sweeps.config import load_sweep
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.study import Study, open_study
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.experiments.sweeps.tables import result_of
from pipeline.training.heads import load_tensors
from pipeline.training.training_data import TrainingData
from tests.experiments.sweeps.conftest import FIXED, a_sweep
from tests.stage_two import unlisted

pytestmark = pytest.mark.usefixtures("undrawn")
RATES = {"low": 1e-4, "high": 3e-2, "log": True}


def written(tmp_path: Path, **settings: Any) -> Path:
    """A sweep of three brackets of four."""
    tree = {
        "fixed": FIXED | {"epochs": 8},
        "sampler": "random",
        "trials": 12,
        "halving": {"factor": 2, "rungs": 2},
        "score": "dev_loss",
        "space": {"learning_rate": RATES, "objective.symmetric": [True, False]},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree | settings))
    return path


def started(stores: Path, config: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from pipeline.commands.sweep_heads import main; main()", str(stores), str(config)]
    return subprocess.Popen(
        [*command, "--out", str(out), "--no-report"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def study_of(out: Path, name: str = "tiny") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(out / "journal.log"))))


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"seconds": None} for row in rows]


def histories(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(out.glob("brackets/*/bracket.json")):
        tree = json.loads(path.read_text())
        assert tree["done"]
        found |= tree["history"]
    return found


def test_a_killed_sweep_resumes_with_the_same_trials_and_the_same_bits(
    planted: Path,
    tmp_path: Path,
    ended: dict[tuple[int, int], HeadsProgress],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = written(tmp_path, fixed=FIXED | {"epochs": 60}, trials=8)
    whole, _ = sweep(planted, load_sweep(config), out=tmp_path / "whole")
    undisturbed = dict(ended)
    ended.clear()
    process = started(planted, config, tmp_path / "cut")
    checkpoint = tmp_path / "cut/brackets/000000/checkpoint.safetensors"
    while process.poll() is None and not (checkpoint.exists() and load_tensors(checkpoint)[1]["standing"]["rung"] > 1):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    standing = load_tensors(checkpoint)[1]["standing"]
    finished = {trial.number for trial in study_of(tmp_path / "cut").trials if trial.state.is_finished()}
    assert standing["rung"] in (2, 3)
    assert 0 < len(finished) < 4
    known = (tmp_path / "cut/journal.log").read_bytes()
    sizes: list[int] = []
    train = TrainingData.train
    monkeypatch.setattr(
        TrainingData, "train", lambda self, stack, *a: (sizes.append(stack.count), train(self, stack, *a))[1]
    )
    again, _ = sweep(planted, load_sweep(config), out=tmp_path / "cut")
    assert sizes[0] <= len(standing["entered"]) < 4  # those that were stopped are not trained again
    assert (tmp_path / "cut/journal.log").read_bytes().startswith(known)
    assert timeless(again["trials"]) == timeless(whole["trials"])
    assert histories(tmp_path / "cut") == histories(tmp_path / "whole")
    assert ended.keys() == undisturbed.keys()
    for key, member in ended.items():
        assert member.best.keys() == undisturbed[key].best.keys()
        assert all(torch.equal(tensor, undisturbed[key].best[name]) for name, tensor in member.best.items())


@pytest.mark.slow
def test_two_processes_share_a_sweep_and_train_no_trial_twice(planted: Path, tmp_path: Path) -> None:
    config = written(tmp_path)
    workers = [started(planted, config, tmp_path / "out") for _ in range(2)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    trials = study_of(tmp_path / "out").trials
    assert len(trials) == 12
    assert len({tuple(trial.params.items()) for trial in trials}) == 12
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 3
    assert all(trial.state.is_finished() for trial in trials)
    brackets = [json.loads(path.read_text()) for path in (tmp_path / "out/brackets").glob("*/bracket.json")]
    assert sorted(trial["number"] for bracket in brackets for trial in bracket["trials"]) == list(range(12))
    rows = json.loads((tmp_path / "out/sweep.json").read_text())["trials"]
    assert [row["state"] for row in rows].count("complete") == 3


def test_the_same_command_trains_nothing_and_a_larger_number_adds_trials(planted: Path, tmp_path: Path) -> None:
    config = a_sweep(trials=2)
    first, _ = sweep(planted, config, out=tmp_path)
    brackets = sorted((tmp_path / "brackets").glob("*/bracket.json"))
    before = [path.stat().st_mtime_ns for path in brackets]
    again, _ = sweep(planted, config, out=tmp_path)
    assert again == first
    assert [path.stat().st_mtime_ns for path in brackets] == before
    more, _ = sweep(planted, a_sweep(trials=4), out=tmp_path)
    assert sorted(row["number"] for row in more["trials"]) == [0, 1, 2, 3]
    assert {row["params"]["learning_rate"] for row in more["trials"]} == {1e-5, 1e-4, 1e-3, 1e-2}
    kept = {row["number"]: row for row in more["trials"]}
    assert all(kept[row["number"]] == row for row in first["trials"])


def test_another_sweep_or_other_data_is_refused_field_by_field(planted: Path, tmp_path: Path) -> None:
    sweep(planted, a_sweep(), out=tmp_path / "out")
    other = a_sweep(repeats=2, space={"learning_rate": [1e-3]})
    with pytest.raises(StoreMismatch, match=r"config.repeats: the study has 1, now 2; config.space.learning_rate: "):
        sweep(planted, other, out=tmp_path / "out")
    shutil.copytree(planted, tmp_path / "stores")
    table = (tmp_path / "stores/manifest.csv").read_text().splitlines()
    fields = table[1].split(",")
    fields[table[0].split(",").index("valence")] = "6.9"
    (tmp_path / "stores/manifest.csv").write_text("\n".join([table[0], ",".join(fields), *table[2:]]) + "\n")
    unlisted(tmp_path / "stores")
    with pytest.raises(StoreMismatch, match="data: the study has"):
        sweep(tmp_path / "stores", a_sweep(), out=tmp_path / "out")
    result, _ = sweep(planted, other, out=tmp_path / "out", fresh=True)
    assert len(result["trials"]) == 1


def test_starting_over_beside_a_worker_is_refused(planted: Path, tmp_path: Path) -> None:
    sweep(planted, a_sweep(), out=tmp_path)
    with writer_lock(tmp_path / "brackets/000000"), pytest.raises(StoreLocked, match="is writing here"):
        sweep(planted, a_sweep(), out=tmp_path, fresh=True)
    assert (tmp_path / "journal.log").is_file()


def _undone(path: Path) -> None:
    """A bracket that a release of before, without digests, did not finish."""
    path.write_text(re.sub(r',\n "digest": ".*"', "", path.read_text()).replace('"done": true', '"done": false'))


def test_a_bracket_that_another_holds_is_left_to_it(planted: Path, tmp_path: Path) -> None:
    sweep(planted, a_sweep(trials=2), out=tmp_path)
    path = tmp_path / "brackets/000000/bracket.json"
    _undone(path)
    with writer_lock(path.parent):
        result, _ = sweep(planted, a_sweep(trials=4), out=tmp_path)
        assert not json.loads(path.read_text())["done"]
    assert len(result["trials"]) == 4


def test_trials_lost_between_asking_and_writing_are_asked_for_again(planted: Path, tmp_path: Path) -> None:
    space, origin = Space(a_sweep()), {}
    study = open_study(space, tmp_path, None, origin, fresh=False)
    lost = study.ask(3, known=())
    study_of(tmp_path).ask()  # lost before it drew anything
    asked = study.ask(4, known=())
    assert [each.number for each in asked] == [0, 1, 2, 3]
    assert asked[:3] == lost
    assert {each.params["learning_rate"] for each in asked} == {1e-5, 1e-4, 1e-3, 1e-2}
    assert study.ask(4, known={0, 1, 2, 3}) == []


def test_a_result_reported_twice_counts_once(tmp_path: Path) -> None:
    study = open_study(Space(a_sweep()), tmp_path, None, {}, fresh=False)
    one, other, third = study.ask(3, known=())
    for score in (0.5, 0.7):
        study.report(one, 1, score)
    for score in (0.5, 0.7):
        study.report(one, 1, score)
        study.tell(one, "pruned", {"steps": score})
        study.tell(other, "complete", {}, score)
        study.tell(third, "fail", {})
    found = study.trials()
    assert [trial.state.name for trial in found] == ["PRUNED", "COMPLETE", "FAIL"]
    assert (found[0].intermediate_values, result_of(found[0]), found[1].value) == ({1: 0.5}, {"steps": 0.5}, 0.5)


def test_a_bracket_of_another_study_is_refused(planted: Path, tmp_path: Path) -> None:
    sweep(planted, a_sweep(), out=tmp_path)
    path = tmp_path / "brackets/000000/bracket.json"
    _undone(path)
    (tmp_path / "journal.log").unlink()
    with pytest.raises(StoreMismatch, match="trials that the study does not have"):
        sweep(planted, a_sweep(), out=tmp_path)
    path.write_text("{")
    with pytest.raises(StoreCorrupt, match=r"bracket\.json"):
        sweep(planted, a_sweep(), out=tmp_path)


def test_draws_depend_on_the_seed_and_the_trial_and_not_on_who_asks(tmp_path: Path) -> None:
    def points(folder: str, seed: int, *counts: int) -> list[float]:
        (tmp_path / folder).mkdir()
        config = a_sweep(trials=6, sampler="random", seed=seed, space={"learning_rate": RATES})
        found: list[float] = []
        for count in counts:  # a study opened anew is another worker's
            study = open_study(Space(config), tmp_path / folder, None, {}, fresh=False)
            found += [each.params["learning_rate"] for each in study.ask(count, known=range(6))]
        return found

    assert points("one", 0, 6) == points("two", 0, 2, 1, 3) != points("other", 1, 6)


def test_the_stores_need_not_be_where_they_were(planted: Path, tmp_path: Path) -> None:
    first, _ = sweep(planted, a_sweep(), out=tmp_path / "out")
    shutil.copytree(planted, tmp_path / "moved")
    again, _ = sweep(open_stores(tmp_path / "moved"), a_sweep(), out=tmp_path / "out")
    assert again["trials"] == first["trials"]


@pytest.mark.usefixtures("undrawn")
def test_a_storage_that_fails_on_the_way_is_one_line_and_the_sweep_resumes_later(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Study.tell

    def gone(*_: object) -> None:
        raise OperationalError("UPDATE trials", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(Study, "tell", gone)
    with pytest.raises(EmotionRankError, match=r"the storage failed .*server closed the connection"):
        sweep(planted, a_sweep(), out=tmp_path)
    monkeypatch.setattr(Study, "tell", found)
    result, _ = sweep(planted, a_sweep(), out=tmp_path)
    assert sorted(trial["state"] for trial in result["trials"]) == ["complete", "pruned", "pruned", "pruned"]
