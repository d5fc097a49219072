"""A sweep in a database: signs of life, trials of workers that died, and a storage that fails for a moment."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from pipeline.core.errors import Interrupted
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.study import Study, open_study, true_cause
from tests.experiments.sweeps.conftest import a_sweep

pytestmark = pytest.mark.usefixtures("undrawn")
RATES = {"low": 1e-4, "high": 3e-2, "log": True}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def of_worker(url: str, folder: Path) -> Study:
    folder.mkdir(exist_ok=True)
    return open_study(Space(a_sweep()), folder, url, {}, fresh=False)


def aged(url: str, trial: int, *, asked: bool = False) -> None:
    """An hour passes for a trial: since its last sign of life, or since it was asked for."""
    table, column = ("trials", "datetime_start") if asked else ("trial_heartbeats", "heartbeat")
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute(f"UPDATE {table} SET {column} = datetime({column}, '-1 hour') WHERE trial_id = ?", (trial,))


def test_a_trial_whose_worker_died_before_it_said_where_is_anybodys(url: str, tmp_path: Path) -> None:
    """It was "still training" on every later start."""
    lost = of_worker(url, tmp_path / "dead")._ask()  # and is killed here
    worker = of_worker(url, tmp_path / "alive")
    assert [each.number for each in worker.ask(4, known=())] == [1, 2, 3]
    assert worker.elsewhere() == {0: ""}
    aged(url, lost._trial_id, asked=True)
    (adopted,) = of_worker(url, tmp_path / "alive").ask(4, known={1, 2, 3})
    assert adopted.number == 0
    assert adopted.params["learning_rate"] in (1e-5, 1e-4, 1e-3, 1e-2)
    assert worker.elsewhere() == {}
    assert of_worker(url, tmp_path / "third").ask(4, known=()) == []


def test_a_trial_without_a_sign_of_life_is_anybodys_and_whose_it_was_is_said(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead, alive = of_worker(url, tmp_path / "dead"), of_worker(url, tmp_path / "alive")
    lost, other = dead.ask(2, known=())
    aged(url, lost.id)
    assert [each.number for each in alive.ask(1, known=())] == [0]
    assert re.search(r"trial 0 is trained here: its worker in \S+:/\S*/dead is gone", caplog.text)
    assert alive.elsewhere() == {1: f"{os.uname().nodename}:{(tmp_path / 'dead').resolve()}"}
    aged(url, other.id)
    dead.give_signs_of_life([lost, other])
    assert [each.number for each in alive.ask(4, known={0})] == [2, 3]
    dead.tell(lost, "complete", {}, 0.25)  # it was only slow: whose result comes first counts
    alive.tell(lost, "complete", {}, 0.5)
    assert alive.trials()[0].value == 0.25


def test_a_storage_that_fails_for_a_moment_is_asked_again_and_the_last_error_is_the_true_cause(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = of_worker(url, tmp_path / "w")
    waited: list[float] = []
    # the module's own clock: a server of other tests in this process would sleep for hours by the system's
    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr("pipeline.experiments.sweeps.study.time", clock)
    left = 3

    def fail(*_: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            below = OperationalError("COMMIT", {}, Exception("terminating connection due to administrator command"))
            raise StorageInternalError("invalid data in the commit") from below

    worker._retry(fail)
    assert sum(waited) == pytest.approx(0.5 + 1 + 2)
    assert caplog.text.count("terminating connection due to administrator command") == 3
    left = 1000
    with pytest.raises(StorageInternalError) as error:
        worker._retry(fail)
    assert true_cause(error.value) == "terminating connection due to administrator command"
    assert sum(waited) > 60

    def stop() -> None:
        raise Interrupted(tmp_path, 15)

    worker.check = stop
    with pytest.raises(Interrupted):
        worker._retry(fail)


def test_of_trials_asked_at_once_in_two_folders_the_lower_numbers_count(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    config = a_sweep(trials=2, sampler="random", space={"learning_rate": RATES})
    studies = [open_study(Space(config), tmp_path / name, url, {}, fresh=False) for name in ("a", "b")]
    look = studies[1].trials
    looks = iter([list])  # the first look is before the other has asked
    studies[1].trials = lambda: next(looks, look)()  # type: ignore[method-assign]
    assert [each.number for each in studies[0].ask(2, known=())] == [0, 1]
    assert studies[1].ask(1, known=()) == []
    assert len(studies[0].trials()) == 2
    lost = studies[1]._ask()  # of a worker that is killed before it sees that there are enough
    aged(url, lost._trial_id, asked=True)
    assert not studies[0].full
    assert studies[0].ask(1, known=(0, 1)) == []
    assert len(studies[0].trials()) == 2
