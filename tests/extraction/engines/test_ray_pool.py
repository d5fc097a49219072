"""Actors that die, hang or disagree: every batch is encoded once, or the run ends with one line."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.cluster_utils import Cluster

from pipeline.core.config import ExtractConfig, TextConfig
from pipeline.core.errors import EmotionRankError, StoreMismatch, UsageError
from pipeline.extraction.audio.praat import load_praat
from pipeline.extraction.batching import AudioFile, EncodedBatch, EncodeTask, batch_encoder
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.engines.ray_cluster import ray_cluster
from pipeline.extraction.engines.ray_pool import ActorBatch, ActorState, Node
from pipeline.extraction.engines.threads import Threads
from tests.extraction.encoders.test_transformers_text import change
from tests.extraction.encoders.test_transformers_text import save as save_roberta
from tests.extraction.engines import machines
from tests.speech import write_corpus

CPU = torch.device("cpu")


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    write_corpus(tmp_path / "c", 40)
    return sorted((tmp_path / "c/audio").glob("*.wav"))


def _job(clips: list[Path], gates: Sequence[int] = ()) -> EncodeTask:
    """Praat's features of clips: the work that is quickest to load."""
    return EncodeTask(
        name="acoustic",
        encode=batch_encoder("acoustic", load_praat(), ExtractConfig(), CPU),
        sources=lambda rows: [
            AudioFile(machines.Gate(clips[row]) if row in gates else clips[row], 8000) for row in rows.tolist()
        ],
    )


def _batches(count: int) -> list[np.ndarray]:
    return [np.array([row]) for row in range(count)]


def _by_row(results: list[EncodedBatch | None]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for batch in results:
        if batch is not None:
            assert not found.keys() & set(batch.rows.tolist())
            found |= {row: vector.tobytes() for row, vector in zip(batch.rows.tolist(), batch.vectors, strict=True)}
    return found


def _by_threads(clips: list[Path]) -> dict[int, bytes]:
    with closing(Threads().encode_batches(_job(clips), _batches(len(clips)))) as results:
        return _by_row(list(results))


@pytest.mark.slow
def test_batches_in_a_dead_actors_hand_are_done_again(
    cluster: Cluster, clips: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    expected = _by_threads(clips)

    def kill_and_mend() -> None:
        machines.until(lambda: machines.holding(clips[11]))
        machines.kill(machines.holding(clips[11]))
        machines.open_gate(clips[11])

    killer = threading.Thread(target=kill_and_mend)
    killer.start()
    with (
        ray_cluster(ExtractConfig(), out=tmp_path) as engine,
        closing(engine.encode_batches(_job(clips, [11]), _batches(40))) as results,
    ):
        found = _by_row(list(results))
        assert 0 < engine.workers <= 2
    killer.join()
    assert found == expected
    said = capsys.readouterr()
    assert "acoustic: an actor on" in said.err
    assert not said.out  # the place of results


@pytest.mark.slow
def test_a_batch_that_kills_its_actors_ends_the_run_with_one_line(
    cluster: Cluster, clips: list[Path], tmp_path: Path
) -> None:
    ended = threading.Event()

    def kill_all_readers() -> None:
        while not ended.wait(0.05):
            machines.kill(machines.holding(clips[20]))

    killer = threading.Thread(target=kill_all_readers)
    killer.start()
    results = []
    try:
        with (
            ray_cluster(ExtractConfig(), out=tmp_path) as engine,
            closing(engine.encode_batches(_job(clips, [20]), _batches(40))) as coming,
            pytest.raises(EmotionRankError, match=r"u20\.wav: 3 actors died on its batch of 1 \(.+\); expected .+"),
        ):
            results.extend(coming)
    finally:
        ended.set()
        killer.join()
    assert len(_by_row(results)) >= 20  # what was sent before it is not lost
    machines.until(lambda: not machines.actors(os.getpid()), 10.0)


def test_a_batch_that_an_actor_died_on_is_encoded_alone() -> None:
    actor = ActorState(None, Node("1", "one", actors=1, calls=2), loading=None)
    fresh, suspect = ActorBatch(np.arange(2)), ActorBatch(np.arange(2), deaths=1)
    for place in range(4):
        assert actor.accepts(fresh)
        assert actor.accepts(suspect) == (place == 0)
        actor.batches[place] = fresh
    assert not actor.accepts(fresh)
    actor.batches = {0: suspect}
    assert not actor.accepts(fresh)
    actor.batches, actor.loading = {}, "not yet"
    assert not actor.accepts(fresh)


@pytest.mark.slow
def test_leaving_stops_the_actors_and_gives_up_what_they_have_in_hand(
    cluster: Cluster, clips: list[Path], tmp_path: Path
) -> None:
    with ray_cluster(ExtractConfig(), out=tmp_path) as engine:
        with closing(engine.encode_batches(_job(clips, [0]), _batches(40))) as results:
            while next(results) is None:
                pass
            assert machines.actors(os.getpid())
        machines.until(lambda: not machines.actors(os.getpid()), 20.0)


@pytest.mark.slow
def test_a_file_that_only_the_driver_can_see_ends_the_run_and_fails_no_row(
    cluster: Cluster, clips: list[Path], tmp_path: Path
) -> None:
    with open(clips[0], "rb") as file:
        unseen = Path(f"/proc/self/fd/{os.dup2(file.fileno(), 399)}")  # another process has no such file
    gone = clips[1].with_suffix(".gone")
    try:
        with ray_cluster(ExtractConfig(), out=tmp_path) as engine:
            with closing(engine.encode_batches(_job([gone]), _batches(1))) as results:
                assert [batch.reasons for batch in results if batch] == [["cannot be read (No such file or directory)"]]
            with (
                closing(engine.encode_batches(_job([unseen]), _batches(1))) as results,
                pytest.raises(
                    UsageError, match=r"node .+: /proc/self/fd/399 cannot be read .+ under one path everywhere"
                ),
            ):
                list(results)
    finally:
        os.close(399)


@pytest.mark.slow
def test_a_node_that_joins_gets_an_actor_and_one_that_leaves_costs_its_batches_in_flight(
    cluster: Cluster, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _by_threads(clips)
    gates = [0, 2]  # the first of either actor's first two batches
    held: list[int] = []
    with (
        ray_cluster(ExtractConfig(), out=tmp_path / "stores") as engine,
        closing(engine.encode_batches(_job(clips, gates), _batches(40))) as results,
    ):
        found: list[EncodedBatch | None] = []
        while len(held) < 2:
            found.append(next(results))
            held += [pid for row in gates for pid in machines.holding(clips[row]) if pid not in held]
        assert not any(found)  # both actors are held up, and there is no third
        node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        while sum(batch is not None for batch in found) < 10:
            found.append(next(results))
        cluster.remove_node(node, allow_graceful=False)
        machines.kill(held)
        for row in gates:
            machines.open_gate(clips[row])
        found.extend(results)
        machines.until(lambda: (tmp_path / "stores/ray.log").exists(), 20.0)
    assert _by_row(found) == expected
    printed = capsys.readouterr()
    assert "Raylet is terminated" in (tmp_path / "stores/ray.log").read_text()
    assert "aylet" not in printed.out + printed.err
    assert printed.err.count(f"what Ray itself prints is in {tmp_path / 'stores/ray.log'}\n") == 1


@pytest.mark.slow
def test_another_checkpoint_on_a_node_is_refused_by_name(cluster: Cluster, tmp_path: Path) -> None:
    folder = save_roberta(tmp_path)
    config = ExtractConfig(text=TextConfig(encoder="transformers", model=str(folder)))
    encoder = load_encoder("text", config.text, "cpu")
    job = EncodeTask("text", batch_encoder("text", encoder, config, CPU), lambda rows: ["calm"] * len(rows))
    change(folder, lambda state: state[next(iter(state))].add_(1.0))
    with (
        ray_cluster(config, out=tmp_path) as engine,
        closing(engine.encode_batches(job, _batches(3))) as results,
        pytest.raises(
            StoreMismatch, match=f"node {os.uname().nodename}: text encoder: weights_sha256 differ"
        ) as caught,
    ):
        list(results)
    assert "\n" not in str(caught.value)
    shutil.rmtree(folder)
    gone = config.model_copy(update={"text": config.text.model_copy(update={"model": "/gone"})})
    with (
        ray_cluster(gone, out=tmp_path) as engine,
        closing(engine.encode_batches(job, _batches(3))) as results,
        pytest.raises(UsageError, match=f"node {os.uname().nodename}: /gone: no such folder"),
    ):
        list(results)


@pytest.mark.slow
def test_an_error_of_the_work_arrives_as_it_was(cluster: Cluster, tmp_path: Path) -> None:
    job = _job([])
    broken = EncodeTask(job.name, job.encode, lambda rows: [3] * len(rows))
    with (
        ray_cluster(ExtractConfig(), out=tmp_path) as engine,
        closing(engine.encode_batches(broken, _batches(3))) as results,
        pytest.raises(AttributeError, match="'int' object has no attribute 'path'"),
    ):
        list(results)


@pytest.mark.slow
def test_a_warning_of_an_actor_reaches_the_user(
    cluster: Cluster, clips: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job = EncodeTask("acoustic", _job([]).encode, lambda rows: [AudioFile(machines.WarningPath(clips[0]), 8000)])
    with (
        ray_cluster(ExtractConfig(), out=tmp_path) as engine,
        closing(engine.encode_batches(job, _batches(1))) as results,
    ):
        assert len(_by_row(list(results))) == 1
    assert f"acoustic: node {os.uname().nodename}: not enough memory\n" in capsys.readouterr().err


def test_what_ray_prints_goes_into_a_file_and_one_line_says_so(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it prints of a dead node; 42 of 53 lines on the terminal were that."""
    from ray._private.worker import print_to_stdstream

    dump = "Raylet is terminated. Last 20 lines of the Raylet logs:\n" + "".join(f"    line {n}\n" for n in range(20))
    with ray_cluster(ExtractConfig(), out=tmp_path / "new"):
        for node in (1, 2):
            print_to_stdstream({"lines": [f"{node} {dump}"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "line 7" not in printed.err
    assert printed.err.count("what Ray itself prints is in") == 1
    written = (tmp_path / "new/ray.log").read_text()
    assert [written.count(text) for text in ("1 Raylet is", "2 Raylet is", "line 7\n")] == [1, 1, 2]
