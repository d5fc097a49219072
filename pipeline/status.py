"""What a folder of stores holds: counts, failed rows with their reasons, and whether every byte is as written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cache.layout import DONE, FAILED, PENDING
from cache.reader import Store
from cache.stores import Stores, open_stores
from pipeline.errors import StoreCorrupt

_STORES = ("audio", "acoustic", "text")


def status_of(folder: Path) -> dict[str, Any]:
    """Rows, done, failed, pending and width of every store, and every failed row with its reason."""
    stores = open_stores(folder)
    failures: list[dict[str, str]] = []
    counts: dict[str, Any] = {"stores": str(folder)}
    for name, store in _named(stores):
        states = store.scan()
        counts[name] = {
            "rows": len(store),
            "done": int((states == DONE).sum()),
            "failed": int((states == FAILED).sum()),
            "pending": int((states == PENDING).sum()),
            "width": store.width,
        }
        for row, reason in store.reasons(states).items():
            source = "" if name == "text" else stores.manifest.audio[row]
            failures.append({"store": name, "id": store.ids[row], "audio": source, "reason": reason})
    return counts | {"failures": failures}


def status_table(status: dict[str, Any]) -> str:
    """`status_of` for people."""
    lines = [f"{status['stores']}"]
    for name, c in ((name, status[name]) for name in _STORES if name in status):
        parts = f"{c['done']:,} done, {c['failed']:,} failed, {c['pending']:,} pending"
        lines.append(f"  {name + '.h5':11} {c['rows']:>9,} rows x {c['width']}: {parts}")
    lines += [f"  failed: {f['id']} ({f['audio'] or f['store']}): {f['reason']}" for f in status["failures"]]
    return "\n".join(lines)


def verify(folder: Path) -> int:
    """Check every byte of every store; returns the number of rows checked.

    Raises StoreCorrupt naming the file and the rows whose bytes do not match their checksums.
    """
    stores = open_stores(folder)
    checked = 0
    for _, store in _named(stores):
        if not store.header_intact():
            raise StoreCorrupt(
                store.path, "its header was changed", "the bytes laid out", "Restore it or run with --fresh."
            )
        damaged = store.damaged()
        if damaged.size:
            names = ", ".join(store.ids[row] for row in damaged[:5].tolist()) + (", ..." if damaged.size > 5 else "")
            raise StoreCorrupt(
                store.path,
                f"{damaged.size} damaged rows ({names})",
                "rows that match their checksums",
                "Run extract-features again: damaged rows are encoded anew.",
            )
        checked += int(np.count_nonzero(store.column("state")))
        _refuse_foreign_bytes(store)
    return checked


def _named(stores: Stores) -> Iterator[tuple[str, Store]]:
    for name in _STORES:
        store = getattr(stores, name)
        if store is not None:
            yield name, store


def _refuse_foreign_bytes(store: Store) -> None:
    """A pending row has never been written: its state is 0 and so is its CRC."""
    pending = store.column("state") == PENDING
    stray = np.flatnonzero(pending & (store.column("crc") != 0))
    if stray.size:
        raise StoreCorrupt(
            store.path,
            f"{stray.size} rows lost their state",
            "a state with every checksum",
            "Run extract-features again: they are encoded anew.",
        )
