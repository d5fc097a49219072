"""What design.md promises of a store file."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.disk import writer_lock
from cache.errors import EmotionRankError, StoreLocked, StoreMismatch
from cache.header import DONE, FAILED, PENDING
from cache.reader import Store
from cache.writer import StoreWriter, open_for_writing
from tests.cache.stores_of import FINGERPRINT, digest_of, filled, rows_of, spec_of, vector_of


def test_a_row_reads_back_as_it_was_written(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.h5", 9, failed=(4,))
    values, done = store.read(np.array([8, 0, 4]))
    assert np.array_equal(values[0], vector_of(8, 7))
    assert np.array_equal(values[1], vector_of(0, 7))
    assert done.tolist() == [True, True, False]
    assert not values[2].any()


def test_plain_h5py_reads_every_dataset(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.h5", 5, failed=(1,))
    with h5py.File(store.path) as file:
        assert np.array_equal(file["vectors"][3], vector_of(3, 7))
        assert file["state"][:].tolist() == [DONE, FAILED, DONE, DONE, DONE]
        assert file["reason"][1].tobytes().rstrip(b"\0") == b"reason 1"
        names = file["id_bytes"][:].tobytes()
        ends = file["id_offsets"][:]
        assert [names[a:b].decode() for a, b in itertools.pairwise(ends)] == store.ids
        assert file["vectors"].chunks is None


def test_a_new_store_is_whole_and_pending(tmp_path: Path) -> None:
    store, reused = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(4)))
    assert reused == 0
    assert store.scan().tolist() == [PENDING] * 4
    size = store.path.stat().st_size
    filled(tmp_path / "a.h5", 4)
    assert store.path.stat().st_size == size  # nothing grows once it is allocated


def test_writing_rows_in_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    first = filled(tmp_path / "a.h5", 12)
    store, _ = open_for_writing(spec_of(tmp_path / "b.h5", rows_of(12)))
    for part in (range(11, 5, -1), range(6)):
        with StoreWriter(store) as writer:
            for row in part:
                writer.commit(row, vector_of(row, 7), digest_of(row))
    assert first.path.read_bytes() == store.path.read_bytes()


def test_a_row_torn_anywhere_is_pending(tmp_path: Path) -> None:
    whole = filled(tmp_path / "a.h5", 3, dim=5)
    blank, _ = open_for_writing(spec_of(tmp_path / "b.h5", rows_of(3), dim=5))
    before, after = blank.path.read_bytes(), whole.path.read_bytes()
    changed = [i for i in range(len(after)) if before[i] != after[i]]
    for count in range(0, len(changed), 3):  # any part of the writes reached the disk, in any order
        torn = bytearray(before)
        for i in np.random.default_rng(count).permutation(changed)[:count]:
            torn[i] = after[i]
        (tmp_path / "torn.h5").write_bytes(torn)
        store = Store.open(tmp_path / "torn.h5")
        for row in np.flatnonzero(store.scan() == DONE).tolist():
            assert np.array_equal(store.read(np.array([row]))[0][0], vector_of(row, 5))


def test_zero_and_non_finite_vectors_are_never_done(tmp_path: Path) -> None:
    store, _ = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(4), dtype="<f2"))
    with StoreWriter(store) as writer:
        writer.commit(0, np.zeros(7, np.float32), digest_of(0))
        writer.commit(1, np.full(7, np.nan, np.float32), digest_of(1))
        writer.commit(2, np.full(7, 1e6, np.float32), digest_of(2))  # overflows float16
        writer.commit(3, np.ones(7, np.float32), digest_of(3))
    states = store.scan()
    assert states.tolist() == [FAILED, FAILED, FAILED, DONE]
    assert store.reasons(states)[0] == "the encoder returned a zero vector"
    assert "non-finite" in store.reasons(states)[2]


def test_another_fingerprint_is_refused_field_by_field(tmp_path: Path) -> None:
    filled(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    other = FINGERPRINT | {"encoder": {"name": "test", "weights": "sha256:1"}}
    with pytest.raises(StoreMismatch, match=r"encoder\.weights: the store has \"sha256:0\", now \"sha256:1\""):
        open_for_writing(spec_of(tmp_path / "a.h5", rows_of(9), fingerprint=other))
    assert (tmp_path / "a.h5").read_bytes() == before


def test_a_grown_manifest_reuses_every_unchanged_row(tmp_path: Path) -> None:
    filled(tmp_path / "a.h5", 6, failed=(2,))
    rows = rows_of(8)
    rows.ids[0], rows.ids[5] = rows.ids[5], rows.ids[0]  # order changes too
    rows.stamps[[0, 5]] = rows.stamps[[5, 0]]
    store, reused = open_for_writing(spec_of(tmp_path / "a.h5", rows))
    assert reused == 6
    assert store.scan().tolist() == [DONE, DONE, FAILED, DONE, DONE, DONE, PENDING, PENDING]
    assert np.array_equal(store.read(np.array([0]))[0][0], vector_of(5, 7))
    assert store.reasons(store.scan()) == {2: "reason 2"}


def test_changed_audio_is_encoded_again_and_touched_audio_is_not(tmp_path: Path) -> None:
    filled(tmp_path / "a.h5", 3)
    rows = rows_of(3, mtime=2)  # all touched: same size, another mtime
    rows.stamps[2, 0] += 1  # and one grew
    content = {0: digest_of(0), 1: b"x" * 16, 2: digest_of(2)}
    store, reused = open_for_writing(spec_of(tmp_path / "a.h5", rows), content.__getitem__)
    assert reused == 1
    assert store.scan().tolist() == [DONE, PENDING, PENDING]


def test_the_second_writer_is_refused_with_the_first_ones_process(tmp_path: Path) -> None:
    program = "import sys, pathlib, cache.disk as disk; disk.writer_lock(pathlib.Path(sys.argv[1])).__enter__()"
    with writer_lock(tmp_path):
        other = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert f"process {os.getpid()} on" in other.stderr
        with pytest.raises(StoreLocked), writer_lock(tmp_path):
            pass
    with writer_lock(tmp_path):  # free again
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    program = (
        "from cache.disk import writer_lock\nfrom pathlib import Path\nimport os, sys\n"
        "with writer_lock(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert (tmp_path / ".writer.lock").exists()
    with writer_lock(tmp_path):
        pass


def _read_in_child(path: Path, rows: list[int]) -> bytes:
    return Store.open(path).read(np.array(rows))[0].tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_readers_in_other_processes_see_the_rows(tmp_path: Path, method: str) -> None:
    store = filled(tmp_path / "a.h5")
    store.read(np.array([0]))  # opened before the fork
    with multiprocessing.get_context(method).Pool(1) as pool:
        seen = pool.apply(_read_in_child, (store.path, [3, 1]))
    assert seen == np.stack([vector_of(3, 7), vector_of(1, 7)]).tobytes()


def test_a_store_of_no_rows_and_ids_of_any_text(tmp_path: Path) -> None:
    store, _ = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(0)))
    assert store.ids == []
    assert store.scan().size == 0
    rows = rows_of(3)
    rows.ids[:] = ["spaced out/ümlaut 😀", "", "\udcff not utf-8"]
    store, _ = open_for_writing(spec_of(tmp_path / "b.h5", rows))
    assert Store.open(store.path).ids == rows.ids


def test_no_room_on_the_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EmotionRankError, match=r"No space left on device\); expected 0\.0 MiB free"):
        open_for_writing(spec_of(tmp_path / "a.h5", rows_of(3)))
    assert list(tmp_path.iterdir()) == []
