"""Readers in other processes, forked and spawned, see only whole rows while a writer runs, and never another file's."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from cache.errors import StoreCorrupt
from cache.header import DONE, FAILED
from cache.reader import Store
from cache.writer import StoreWriter, open_for_writing
from tests.cache.stores_of import digest_of, rows_of, spec_of, vector_of

ROWS, WIDTH = 40, 300


def _read_until_all_are_done(path: Path, warm: Store | None) -> tuple[int, int, str]:
    """How often the store was read, how often a part was done, and what was wrong."""
    store = warm or Store.open(path)
    right = [vector_of(row, WIDTH) for row in range(ROWS)]
    reads, parts, before, deadline = 0, 0, 0, time.monotonic() + 30
    draw = np.random.default_rng(0)
    while before < ROWS - 1 and time.monotonic() < deadline:
        rows = draw.permutation(ROWS)
        values, done = store.read(rows)
        for row, value in zip(rows[done].tolist(), values[done], strict=True):
            if not np.array_equal(value, right[row]):
                return reads, parts, f"row {row} is wrong"
        if done.sum() < before:
            return reads, parts, "a row was done and is not"
        if set(store.reasons(store.scan()).values()) - {"reason 7"}:
            return reads, parts, "a reason is wrong"
        before = int(done.sum())
        reads, parts = reads + 1, parts + (0 < before < ROWS - 1)
    return reads, parts, "" if before == ROWS - 1 else "the writer was not seen to the end"


def _imported() -> None:
    """The process has come up."""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.exhaustive)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_reader_beside_a_writer_sees_whole_rows_only(tmp_path: Path, method: str, rounds: int) -> None:
    for attempt in range(rounds):
        path = tmp_path / f"{attempt}.h5"
        store, _ = open_for_writing(spec_of(path, rows_of(ROWS), dim=WIDTH))
        store.scan()
        warm = store if method == "fork" else None  # a store that was opened and read before the fork
        with multiprocessing.get_context(method).Pool(1) as pool, StoreWriter(store) as writer:
            pool.apply(_imported)
            seen = pool.apply_async(_read_until_all_are_done, (path, warm))
            for row in np.random.default_rng(attempt).permutation(ROWS).tolist():
                if row == 7:
                    writer.fail(row, "reason 7", digest_of(row))
                else:
                    writer.commit(row, vector_of(row, WIDTH), digest_of(row))
                time.sleep(0.01)
            reads, parts, wrong = seen.get(60)
        assert not wrong
        assert reads > parts > 2, "it read while rows were written"


def test_a_torn_row_is_not_seen(tmp_path: Path) -> None:
    """The writer stands still at every byte of a row: no reader takes it for done before the last."""
    path = tmp_path / "a.h5"
    store, _ = open_for_writing(spec_of(path, rows_of(3), dim=5))
    before = path.read_bytes()
    with StoreWriter(store) as writer:
        writer.commit(1, vector_of(1, 5), digest_of(1))
    after = path.read_bytes()
    changed = [i for i in range(len(after)) if before[i] != after[i]]
    for order in (changed, changed[::-1], np.random.default_rng(0).permutation(changed).tolist()):
        torn = bytearray(before)
        for i in order[:-1]:
            torn[i] = after[i]
            path.write_bytes(torn)
            assert not Store.open(path).scan().any()


def test_a_reader_of_a_file_that_was_replaced_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    old, _ = open_for_writing(spec_of(path, rows_of(ROWS), dim=WIDTH))
    with StoreWriter(old) as writer:
        writer.commit(3, vector_of(3, WIDTH), digest_of(3))
    new, reused = open_for_writing(spec_of(path, rows_of(ROWS + 1), dim=WIDTH))
    assert reused == 1
    for read in (
        old.scan,
        lambda: old.read(np.array([3])),
        lambda: old.column("crc"),
        old.inconsistent_rows,
        old.checksum_matches,
    ):
        with pytest.raises(StoreCorrupt, match="replaced since it was opened"):
            read()
    assert new.scan()[3] == DONE
    assert FAILED not in new.scan()
