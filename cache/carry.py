"""Opening a store for writing: a new one is laid out, a finished part is kept, a changed manifest is carried over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import fingerprint as fingerprints
from cache.errors import StoreMismatch
from cache.layout import DIGEST_BYTES, DONE, FAILED, Rows, lay_out, sync_folder
from cache.reader import Store
from cache.writer import StoreWriter


@dataclass(frozen=True)
class Plan:
    """The store that is wanted."""

    path: Path
    kind: str
    rows: Rows
    width: int
    dtype: str  # "<f4" or "<f2"
    fingerprint: Mapping[str, Any]


def open_for_writing(plan: Plan, digest_of: Callable[[int], bytes | None] = lambda _: None) -> tuple[Store, int]:
    """The store of `plan` and how many of its rows were carried over from one with another manifest.

    A row is carried over when its id is the same and its source unchanged: equal size and mtime, or equal size and
    equal content by `digest_of(row)`. Raises StoreMismatch, field by field, when the fingerprints differ.
    """
    if not plan.path.exists():
        return _laid_out(plan, plan.path), 0
    old = Store.open(plan.path)
    fields = fingerprints.differences(old.fingerprint, plan.fingerprint)
    if old.layout.extents["vectors"].dtype.str != plan.dtype:
        fields.append(f"dtype: the store has {old.layout.extents['vectors'].dtype.str}, now {plan.dtype}")
    if fields:
        raise StoreMismatch(
            plan.path, "; ".join(fields), "the same fingerprint", "Choose another --out, or --fresh to start over."
        )
    if _same(old.rows, plan.rows):
        return old, 0
    partial = plan.path.with_name(plan.path.name + ".carried")
    new = _laid_out(plan, partial)
    carried = _carry(old, new, digest_of)
    partial.replace(plan.path)
    sync_folder(plan.path.parent)
    return Store.open(plan.path), carried


def _laid_out(plan: Plan, path: Path) -> Store:
    return Store(lay_out(path, plan.kind, plan.rows, width=plan.width, dtype=plan.dtype, fingerprint=plan.fingerprint))


def _same(old: Rows, new: Rows) -> bool:
    return old.ids == new.ids and np.array_equal(old.stamps, new.stamps) and np.array_equal(old.lengths, new.lengths)


def _carry(old: Store, new: Store, digest_of: Callable[[int], bytes | None]) -> int:
    states = old.scan()
    values = old.column("vectors")
    digests, reasons = old.column("digest"), old.reasons(states)
    was, now = old.column("stamp"), new.column("stamp")
    row_of = {name: row for row, name in enumerate(old.ids)}
    carried = 0
    with StoreWriter(new) as writer:
        for row, name in enumerate(new.ids):
            before = row_of.get(name)
            if before is None or states[before] not in (DONE, FAILED):
                continue
            digest = digests[before].tobytes()
            same = np.array_equal(was[before], now[row])
            if not same and was[before][0] == now[row][0] and digest != bytes(DIGEST_BYTES):
                same = digest_of(row) == digest
            if not same:
                continue
            if states[before] == DONE:
                writer.commit(row, values[before], digest)
            else:
                writer.fail(row, reasons[before], digest)
            carried += 1
        writer.sync()
    return carried
