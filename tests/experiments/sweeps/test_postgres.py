"""A sweep on a PostgreSQL server of its own, which is restarted while its workers are killed.

pytest -n 0 -s -m slow tests/experiments/sweeps/test_postgres.py      # some minutes; prints what happened
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from pipeline.experiments.sweeps.config import load_sweep
from pipeline.experiments.sweeps.sweep import sweep
from tests.experiments.sweeps.conftest import FIXED
from tests.experiments.sweeps.test_sharing import written

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]
TRIALS, KILLS, RESTARTS = 40, 20, 5
GRACE_SECONDS = 8  # as minutes are too long here
WORKER = (
    "from pipeline.experiments.sweeps import storage, study; "
    f"storage.HEARTBEAT_SECONDS, storage.GRACE_SECONDS = study.HEARTBEAT_SECONDS, study.GRACE_SECONDS = "
    f"1, {GRACE_SECONDS}; "
    "from pipeline.commands.sweep_heads import main; main()"
)


class Server:
    """PostgreSQL in a temporary folder, on a free port."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.data, self.log = programs, folder / "data", folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg2://sweeper@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "--auth=trust", "--username=sweeper", "--no-sync", "--locale=C")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -k {self.data} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "start", "--wait", f"--log={self.log}", f"--options={options}")

    def stop(self, mode: str) -> None:
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def execute(self, statement: str) -> None:
        import psycopg2

        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="sweeper", dbname="postgres")
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    def _run(self, program: str, *options: str) -> None:
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*user, str(self.programs / program), f"--pgdata={self.data}", *options]
        found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", text=True)
        assert found.returncode == 0, found.stdout


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg2", reason="no psycopg2: pip install psycopg2-binary")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")  # the server refuses to run as root
    running = Server(installed[-1].parent, folder)
    yield running
    running.stop("immediate")
    shutil.rmtree(folder)


class Workers:
    """Processes of one command, each in a folder of its own; the log of each is kept."""

    def __init__(self, stores: Path, config: Path, out: Path, url: str) -> None:
        self.words, self.out, self.url, self.count = [str(stores), str(config)], out, url, 0
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, folder: str = "") -> str:
        folder = folder or f"worker{self.count}"
        self.count += 1
        words = [*self.words, "--out", str(self.out / folder), "--storage", self.url, "--no-report"]
        with open(self.out / f"{folder}.log", "ab") as log:
            command = [sys.executable, "-c", WORKER, *words]
            self.running[folder] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        return folder

    def kill(self, folder: str) -> None:
        process = self.running.pop(folder)
        process.kill()
        process.wait()

    def ended(self) -> dict[str, int]:
        """The exit codes of those that ended by themselves."""
        codes = {folder: process.poll() for folder, process in self.running.items()}
        return {folder: code for folder, code in codes.items() if code is not None}

    def start_ended_again(self) -> None:
        """In the same folders; none may have failed."""
        for folder, code in self.ended().items():
            assert code == 0, self.logs()
            self.kill(folder)
            self.start(folder)

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.out.glob("*.log")))


def trials_of(url: str) -> list[optuna.trial.FrozenTrial]:
    trials = optuna.load_study(study_name="tiny", storage=url).get_trials()
    return [trial for trial in trials if "surplus" not in trial.user_attrs]


def plant_orphans(server: Server) -> list[int]:
    """Two running trials whose workers died an hour ago: before it said where it was, and after."""
    study = optuna.load_study(study_name="tiny", storage=server.url)
    silent, known = study.ask(), study.ask()
    known.set_user_attr("home", "elsewhere:/gone")
    aged = "SET {0} = {0} - interval '1 hour' WHERE trial_id = {1}"
    server.execute("UPDATE trials " + aged.format("datetime_start", silent._trial_id))
    server.execute(
        f"INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES ({known._trial_id}, now() - interval '1 hour')"
    )
    return [silent.number, known.number]


def has_begun(url: str) -> bool:
    try:
        return bool(trials_of(url))
    except Exception:  # noqa: BLE001 - no table, or no study, yet
        return False


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Without halving a score does not depend on who trains it beside whom."""
    return written(tmp_path, fixed=FIXED | {"epochs": 200}, trials=TRIALS, slots=2, halving=None)


@pytest.fixture
def workers(server: Server, planted: Path, config: Path, tmp_path: Path) -> Iterator[Workers]:
    (tmp_path / "workers").mkdir()
    group = Workers(planted, config, tmp_path / "workers", server.url)
    yield group
    for folder in list(group.running):
        group.kill(folder)


def disturb(server: Server, workers: Workers, draw: random.Random) -> None:
    """Kill one worker after the other, in whose folder or a new one another starts, and restart the server."""
    kills, restarts = 0, 0
    while kills < KILLS or restarts < RESTARTS:
        time.sleep(draw.uniform(0.5, 6))
        workers.start_ended_again()
        if restarts < RESTARTS and draw.random() < RESTARTS / KILLS:
            server.stop(draw.choice(["immediate", "fast"]))
            time.sleep(draw.uniform(0, 3))
            server.start()
            restarts += 1
        elif kills < KILLS:
            folder = draw.choice(sorted(workers.running))
            workers.kill(folder)
            workers.start(folder if draw.random() < 0.5 else "")
            kills += 1


def unfinished(url: str) -> int:
    return sum(not trial.state.is_finished() for trial in trials_of(url))


def test_twenty_kills_five_restarts_and_orphans_lose_no_trial(
    server: Server, workers: Workers, planted: Path, config: Path, tmp_path: Path
) -> None:
    whole, _ = sweep(planted, load_sweep(config), out=tmp_path / "whole")
    begun = time.monotonic()
    workers.start()
    while not has_begun(server.url):
        assert not workers.ended(), workers.logs()
        time.sleep(0.2)
    orphans = plant_orphans(server)
    workers.start()
    disturb(server, workers, random.Random(0))
    late = TRIALS - sum(trial.state.is_finished() for trial in trials_of(server.url))
    while unfinished(server.url):
        assert time.monotonic() - begun < 600, workers.logs()
        workers.start_ended_again()
        time.sleep(0.5)
    assert {process.wait(120) for process in workers.running.values()} <= {0}, workers.logs()
    found, logs = {trial.number: trial for trial in trials_of(server.url)}, workers.logs()
    expected = {row["number"]: row for row in whole["trials"]}
    assert sorted(found) == sorted(expected) == list(range(TRIALS))
    assert {trial.state for trial in found.values()} == {TrialState.COMPLETE}
    assert all(trial.params == expected[number]["params"] for number, trial in found.items())
    scores = np.array([[trial.value, expected[number]["score"]] for number, trial in found.items()])
    differences = np.abs(scores[:, 0] / scores[:, 1] - 1)
    print(
        f"\n{time.monotonic() - begun:.0f} s, {late} trials left after the last kill; storage asked again "
        f"{logs.count('retrying in')} times; trials of dead workers {logs.count('is trained here')}; brackets "
        f"resumed {logs.count('resuming')}; scores differ by {differences.max():.1e}, equal: {(differences == 0).sum()}"
    )
    assert differences.max() < 1e-4
    assert "Traceback" not in logs, logs
    assert set(orphans) <= found.keys()
    assert "its worker in elsewhere:/gone is gone" in logs
    assert "its worker in an unknown folder is gone" in logs
