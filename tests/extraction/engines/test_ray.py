"""Stage one on Ray: the store of the single process, or one line that says why not."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
import ray
from click.testing import CliRunner
from ray.cluster_utils import Cluster

from cache.writer import StoreWriter
from pipeline.commands.extract_features import main
from pipeline.core.errors import EmotionRankError, Interrupted, ManyProblems, UsageError
from pipeline.extraction.extract import extract
from tests.extraction.engines import machines
from tests.speech import QUICK, QUICK_OPTIONS, write_corpus

FILES = ("audio.h5", "text.h5", "manifest.csv", "captions.jsonl", "config.yaml")


def test_two_actors_fill_the_store_of_the_single_process(
    cluster: Cluster, corpus: Path, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus.parent)  # not the actors' folder
    result = extract(corpus.name, out=tmp_path, overrides=QUICK, engine="ray")
    assert result["audio"]["done"] == 24
    for name in FILES[:-1]:
        assert (tmp_path / name).read_bytes() == (stores / name).read_bytes(), name
    assert not ray.is_initialized()
    machines.until(lambda: not machines.actors(os.getpid()), 10.0)
    assert any("raylet" in name for name in machines.of_ray(os.getpid()))  # a cluster that was there stays


@pytest.mark.slow
def test_transcripts_are_encoded_as_by_the_single_process(cluster: Cluster, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "corpus", 4)
    head, *rows = manifest.read_text().splitlines()
    manifest.write_text(
        "\n".join([f"{head},transcript", *map(",".join, zip(rows, ("no", "", "so?", "no"), strict=True))])
    )
    for engine in ("threads", "ray"):
        extract(manifest, out=tmp_path / engine, overrides=QUICK, engine=engine)
    for name in ("words.h5", "audio.h5", "digests.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "threads" / name).read_bytes(), name


@pytest.mark.slow
def test_an_actor_killed_in_the_middle_changes_no_byte_of_the_store(
    cluster: Cluster, corpus: Path, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, killed = StoreWriter.commit, []

    def commit_and_kill(self: StoreWriter, row: int, *rest) -> str | None:
        if self.store.layout.kind == "audio" and not killed:
            killed.extend(machines.actors(os.getpid())[:1])
            machines.kill(killed)
        return commit(self, row, *rest)

    monkeypatch.setattr(StoreWriter, "commit", commit_and_kill)
    extract(corpus, out=tmp_path, overrides=QUICK, engine="ray")
    assert len(killed) == 1
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (stores / name).read_bytes(), name


def test_every_error_of_the_family_survives_the_way_back() -> None:
    for error in (
        EmotionRankError("a clip", "too long", "room", "Crop it."),
        ManyProblems("weights", ["one is missing", "two is left over"], "Use others."),
        Interrupted("stores", 15),
    ):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_without_ray_or_a_gpu_the_command_says_so_in_one_line(
    cluster: Cluster, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [str(corpus), "--out", str(tmp_path / "stores"), "--engine", "ray", *QUICK_OPTIONS]
    no_gpu = CliRunner().invoke(main, [*asked, "--device", "cuda"])
    monkeypatch.setitem(sys.modules, "ray", None)
    no_ray = CliRunner().invoke(main, asked)
    assert (no_gpu.exit_code, no_ray.exit_code) == (2, 2)
    assert "a Ray cluster without GPUs; expected a GPU" in no_gpu.stderr
    last = no_ray.stderr.splitlines()[-1]
    assert "ray is not installed; expected the extra ray. Run pip install 'emotionrankclap[ray]'" in last


def test_an_address_where_no_cluster_answers_is_one_line(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UsageError, match=r"Ray cluster 127\.0\.0\.1:9: .*; expected a cluster that answers"):
        extract(corpus, out=tmp_path, overrides=QUICK, engine="ray")
