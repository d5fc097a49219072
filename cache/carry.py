"""Opening a store for writing: a new one is laid out, a finished part is kept, a changed manifest is carried over."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cache import fingerprint as fingerprints
from cache.errors import StoreMismatch
from cache.header import DONE, FAILED
from cache.layout import Plan, Rows, laid_out
from cache.names import Names
from cache.reader import Store, block_rows
from cache.writer import StoreWriter


def open_for_writing(plan: Plan, digest_of: Callable[[int], bytes | None] = lambda _: None) -> tuple[Store, int]:
    """The store of `plan` and how many of its rows were carried over from one with another manifest.

    A row is carried over when its id is the same and its source unchanged: equal size and mtime, or equal size and
    equal content by `digest_of(row)`. Raises StoreMismatch, field by field, when the fingerprints differ.
    """
    if not plan.path.exists():
        with laid_out(plan):
            pass
        return Store.open(plan.path), 0
    old = Store.open(plan.path)
    fields = fingerprints.differences(old.fingerprint, plan.fingerprint)
    if old.layout.extents["vectors"].dtype.str != plan.dtype:
        fields.append(f"dtype: the store has {old.layout.extents['vectors'].dtype.str}, now {plan.dtype}")
    if fields:
        raise StoreMismatch(
            plan.path, "; ".join(fields), "the same fingerprint", "Choose another --out, or --fresh to start over."
        )
    if _same(old, plan.rows):
        return old, 0
    with laid_out(plan) as layout:
        carried = _carry(old, Store(layout), digest_of)
    return Store.open(plan.path), carried


def _same(old: Store, new: Rows) -> bool:
    return (
        np.array_equal(old.column("stamp"), new.stamps)
        and np.array_equal(old.column("length"), new.lengths)
        and old.names == Names.of(new.ids)
    )


def _carry(old: Store, new: Store, digest_of: Callable[[int], bytes | None]) -> int:
    """Copy every unchanged row, in the order of `old`, a block of it in memory at a time."""
    states = old.scan()
    reasons, digests = old.reasons(states), old.column("digest")
    rows, before = _unchanged(old, new, states, digest_of)
    step, carried = block_rows(old), 0
    with StoreWriter(new) as writer:
        for start in range(0, len(rows), step):
            row, was = rows[start : start + step], before[start : start + step]
            values, done = old.read(was)  # checked once more: what has changed since the scan stays pending
            for run in _runs(row[done]):
                writer.copy(int(row[done][run.start]), values[done][run], digests[was[done]][run])
            for i in np.flatnonzero(states[was] == FAILED).tolist():
                writer.fail(int(row[i]), reasons[int(was[i])], digests[was[i]].tobytes())
            carried += int(np.count_nonzero(done | (states[was] == FAILED)))
    return carried


def _runs(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Cut rows (n,) into runs that lie side by side."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    ends = [0, *cuts.tolist(), len(rows)] if len(rows) else []
    return itertools.starmap(slice, itertools.pairwise(ends))


def _unchanged(
    old: Store, new: Store, states: NDArray[np.uint8], digest_of: Callable[[int], bytes | None]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of `new` to carry over and what each was in `old`, ascending there."""
    row_of = {name: row for row, name in enumerate(old.ids)}
    before = np.array([row_of.get(name, -1) for name in new.ids], dtype=np.int64)
    rows = np.flatnonzero(before >= 0)
    rows = rows[np.isin(states[before[rows]], (DONE, FAILED))]
    was, now, digests = old.column("stamp")[before[rows]], new.column("stamp")[rows], old.column("digest")[before[rows]]
    same = (was == now).all(axis=1)
    for i in np.flatnonzero(~same & (was[:, 0] == now[:, 0]) & digests.any(axis=1)).tolist():
        same[i] = digest_of(int(rows[i])) == digests[i].tobytes()
    rows = rows[same]
    rows = rows[np.argsort(before[rows], kind="stable")]
    return rows, before[rows]
