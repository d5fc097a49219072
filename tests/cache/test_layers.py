"""Layered rows: one record of several vectors, of which a reader takes those it chooses, each checked."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.disk import File
from cache.errors import StoreMismatch, UsageError
from cache.header import DONE, FAILED, PENDING
from cache.layers import Axes, Selection, select
from cache.reader import Store
from cache.writer import StoreWriter, open_for_writing
from tests.cache.stores_of import FINGERPRINT, digest_of, filled, rows_of, spec_of, vector_of

AXES = Axes((0, 2, 5), ("mean", "std"), 4, own=3)  # own | 0 mean | 0 std | 2 mean | 2 std | 5 mean | 5 std
SIZE = 27
CHOICES = [  # layers, pooling, the numbers of the row that they are
    ("default", "default", [(0, 3)]),
    ("default", "std", [(23, 27)]),
    ("last", "mean", [(19, 23)]),
    (2, "default", [(11, 15)]),
    (-1, "std", [(23, 27)]),
    (0, "mean_std", [(3, 11)]),
    ((5, 0), "mean", [(19, 23), (3, 7)]),
    ((2, "default"), "mean_std", [(11, 19), (19, 27)]),
    ("weighted", "mean", [(3, 7), (11, 15), (19, 23)]),
    ("weighted", "mean_std", [(3, 27)]),
]


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
@pytest.mark.parametrize(("layers", "pooling", "pieces"), CHOICES)
def test_what_is_chosen_is_read_in_the_order_chosen(tmp_path: Path, layers, pooling, pieces, dtype: str) -> None:
    store, _ = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(9), dim=SIZE, axes=AXES, dtype=dtype))
    with StoreWriter(store) as writer:
        for row in (0, 1, 4, 8):
            writer.commit(row, vector_of(row, SIZE), digest_of(row))
        writer.fail(2, "reason", digest_of(2))
    with h5py.File(store.path) as file:  # plain HDF5 has the whole rows
        whole = file["vectors"][:]
    chosen = store.selected(layers, pooling)
    rows = np.array([8, 0, 2, 3, 4, 1])
    values, done = chosen.read(rows)
    assert done.tolist() == [True, True, False, False, True, True]
    assert chosen.dim == values.shape[1] == sum(stop - start for start, stop in pieces)
    assert values.dtype == dtype
    assert np.array_equal(values, np.concatenate([whole[rows, start:stop] for start, stop in pieces], axis=1))
    assert np.array_equal(chosen.done(rows), done)
    assert np.array_equal(store.read(rows)[0], whole[rows])
    assert store.scan().tolist() == [DONE, DONE, FAILED, PENDING, DONE, PENDING, PENDING, PENDING, DONE]


def test_weighted_says_how_many_layers_lie_in_a_vector() -> None:
    assert select(AXES, "weighted", "mean", subject="a", dim=SIZE).weighted == 3
    assert select(AXES, (0, 2), "mean", subject="a", dim=SIZE).weighted == 1
    assert select(None, "default", "default", subject="a", dim=7) == Selection((0,), 7)


@pytest.mark.parametrize(
    ("axes", "layers", "pooling", "found"),
    [
        (AXES, 1, "mean", "layer 1; expected its own vector, layers 0, 2, 5 (mean, std)"),
        (AXES, (0, 7), "mean", "layer 7;"),
        (AXES, -9, "mean", "layer -3;"),
        (AXES, 0, "cls", "pooling cls; expected"),
        (Axes((1,), ("mean",), 2, layer=1), 1, "mean_std", "pooling std; expected layers 1"),
        (None, 2, "default", "one vector per row, but layers=2 and pooling=default are asked for"),
        (None, "weighted", "default", "one vector per row"),
    ],
)
def test_what_a_row_does_not_hold_is_refused(axes: Axes | None, layers, pooling: str, found: str) -> None:
    with pytest.raises(UsageError, match="audio") as error:
        select(axes, layers, pooling, subject="audio.h5", dim=7)
    assert found in str(error.value)


def test_only_the_bytes_of_what_is_chosen_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = Axes(tuple(range(25)), ("mean",), 256, layer=24)
    store = filled(tmp_path / "a.h5", 40, dim=25 * 256, axes=axes).selected(7, "mean")
    store.names  # noqa: B018 - the header and the names are read once
    read, plain = [], File.read
    monkeypatch.setattr(File, "read", lambda self, array, at: read.append(array.nbytes) or plain(self, array, at))
    assert store.read(np.arange(40))[1].all()
    assert sum(read) < 40 * (256 * 4 + 25 * 4 + 200) + 1000  # the column, the columns' CRCs, the row's other entries


def test_a_flip_in_another_column_costs_the_reader_of_this_one_nothing(tmp_path: Path) -> None:
    """And every flip in its own column, in the CRC of any column, or in the row's other entries costs it the row."""
    store = filled(tmp_path / "a.h5", 3, dim=SIZE, axes=AXES)
    right = store.read(np.arange(3))[0]
    extents, row = store.layout.extents, 1
    chosen = store.selected(2, "std")  # numbers 15 to 19
    for name in ("vectors", "column_crc", "crc", "state", "digest"):
        extent = extents[name]
        for byte in range(extent.row_bytes):
            place = extent.offset + row * extent.row_bytes + byte
            with open(store.path, "r+b", buffering=0) as file:
                file.seek(place)
                old = file.read(1)
                file.seek(place)
                file.write(bytes([old[0] ^ 64]))
                values, done = chosen.read(np.arange(3))
                mine = name != "vectors" or 15 * 4 <= byte < 19 * 4
                assert done.tolist() == [True, not mine, True], (name, byte)
                assert np.array_equal(values[done], right[done, 15:19])
                assert store.scan()[row] == PENDING
                assert store.inconsistent_rows().tolist() == [row]
                file.seek(place)
                file.write(old)
    assert not store.inconsistent_rows().size


def test_a_layered_row_torn_anywhere_is_pending(tmp_path: Path) -> None:
    whole = filled(tmp_path / "a.h5", 3, dim=SIZE, axes=AXES)
    blank, _ = open_for_writing(spec_of(tmp_path / "b.h5", rows_of(3), dim=SIZE, axes=AXES))
    before, after = blank.path.read_bytes(), whole.path.read_bytes()
    changed = [i for i in range(len(after)) if before[i] != after[i]]
    for count in range(0, len(changed), 3):  # any part of the writes reached the disk, in any order
        torn = bytearray(before)
        for i in np.random.default_rng(count).permutation(changed)[:count]:
            torn[i] = after[i]
        (tmp_path / "torn.h5").write_bytes(torn)
        store = Store.open(tmp_path / "torn.h5")
        for row in np.flatnonzero(store.scan() == DONE).tolist():
            assert np.array_equal(store.read(np.array([row]))[0][0], vector_of(row, SIZE))
        values, done = store.selected(5, "std").read(np.arange(3))
        for row in np.flatnonzero(done).tolist():  # the column is whole, whatever became of the others
            assert np.array_equal(values[row], vector_of(row, SIZE)[23:])


def test_layered_rows_are_reused_by_a_manifest_that_grew(tmp_path: Path) -> None:
    filled(tmp_path / "a.h5", 5, dim=SIZE, axes=AXES, failed=(2,))
    store, reused = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(8), dim=SIZE, axes=AXES))
    assert reused == 5
    values, done = store.selected("weighted", "mean").read(np.arange(8))
    assert done.tolist() == [True, True, False, True, True, False, False, False]
    assert np.array_equal(values[3], np.concatenate([vector_of(3, SIZE)[start : start + 4] for start in (3, 11, 19)]))
    assert not store.inconsistent_rows().size
    with StoreWriter(store) as writer:
        for row in (2, 5, 6, 7):
            writer.reset([row])
            writer.commit(row, vector_of(row, SIZE), digest_of(row))
    assert store.path.read_bytes() == filled(tmp_path / "b.h5", 8, dim=SIZE, axes=AXES).path.read_bytes()


@pytest.mark.parametrize("then", [None, AXES, Axes((0, 2, 5), ("std", "mean"), 4, own=3)])
@pytest.mark.parametrize("now", [None, AXES])
def test_other_axes_are_another_store(tmp_path: Path, then: Axes | None, now: Axes | None) -> None:
    filled(tmp_path / "a.h5", 2, dim=SIZE, axes=then)
    wanted = spec_of(tmp_path / "a.h5", rows_of(2), dim=SIZE, axes=now)
    if then == now:
        assert open_for_writing(wanted)[1] == 0
        return
    with pytest.raises(StoreMismatch, match=r"poolings: the store has (nothing|\[.*\]), now"):
        open_for_writing(wanted)


def test_float16_is_measured_column_by_column(tmp_path: Path) -> None:
    """A large last layer does not hide what is lost of a small first one."""
    axes = Axes((0, 1), ("mean",), 4, layer=1)
    small, large = vector_of(0, 4) * 1e-6, vector_of(1, 4) * 1e3
    store, _ = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(1), dim=8, axes=axes, dtype="<f2"))
    with StoreWriter(store) as writer:
        writer.commit(0, np.concatenate([small, large]), digest_of(0))
        kept = small.astype(np.float16).astype(np.float64)
    expected = small @ kept / np.linalg.norm(small.astype(np.float64)) / np.linalg.norm(kept)
    assert writer.rounding.least_cosine == pytest.approx(expected, abs=1e-9)
    assert writer.rounding.rows == 1


@pytest.mark.parametrize(
    "lie",
    [
        {"layers": []},
        {"layers": [2, 0]},
        {"layers": [0, 2.5]},
        {"poolings": []},
        {"poolings": ["mean", "mean"]},
        {"dim": 0},
        {"dim": True},
        {"own": -1},
        {"own": 0, "layer": None},
        {"layer": 1},
        {"layers": list(range(5000)), "layer": 0},
        {"more": 1},
    ],
    ids=str,
)
def test_axes_that_no_store_has_are_refused(lie: dict) -> None:
    assert Axes.parse(AXES.as_json()) == AXES
    with pytest.raises((ValueError, TypeError)):
        Axes.parse(AXES.as_json() | lie)


def test_a_store_of_one_vector_a_row_is_byte_for_byte_of_version_2(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.h5", 2).path
    first = path.read_bytes()[:4096]
    assert first.split(b"\n")[0].endswith(b" 4096 2")
    assert b"axes" not in first
    layered = filled(tmp_path / "b.h5", 2, dim=SIZE, axes=AXES).path.read_bytes()
    assert layered.split(b"\n")[0].endswith(b" 4096 3")
    assert Store.open(path).fingerprint == FINGERPRINT
