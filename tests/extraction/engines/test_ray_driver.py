"""A driver on Ray that is stopped: what is committed stays, what it started ends, and it resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipeline.extraction.extract import extract
from pipeline.extraction.status import verify
from tests.extraction.engines import machines
from tests.extraction.engines.test_ray import FILES
from tests.speech import QUICK, QUICK_OPTIONS, write_corpus


def _spawn(manifest: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from pipeline.commands.extract_features import main; main()", str(manifest)]
    command += ["--out", str(out), "--engine", "ray", *QUICK_OPTIONS]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_a_driver_killed_in_the_middle_and_started_again_fills_the_same_store(cluster: Cluster, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "c", 90)
    extract(manifest, out=tmp_path / "threads", overrides=QUICK)
    process = _spawn(manifest, tmp_path / "ray")
    machines.until(lambda: machines.committed(tmp_path / "ray") > 3)
    process.kill()
    process.communicate()
    assert 3 < machines.committed(tmp_path / "ray") < 90
    extract(manifest, out=tmp_path / "ray", overrides=QUICK, engine="ray")  # beside what the dead one left
    for name in FILES:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "threads" / name).read_bytes(), name
    machines.until(lambda: not machines.actors(os.getpid()), 30.0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_with_what_was_committed_and_nothing_left_running(tmp_path: Path, number: int) -> None:
    manifest = write_corpus(tmp_path / "c", 90)
    with machines.own_temporary_folder():
        process = _spawn(manifest, tmp_path / "stores")  # no cluster there: it starts its own
        machines.until(lambda: machines.committed(tmp_path / "stores") > 3)
        started = machines.descendants(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
        machines.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 120.0)  # Ray's own, after 9
    assert "Traceback" not in said
    assert "What is finished is safe" in said or number == signal.SIGKILL
    assert 3 < machines.committed(tmp_path / "stores") < 90
    verify(tmp_path / "stores")
