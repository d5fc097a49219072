"""What a folder of stores holds: counts, failed rows with their reasons, and whether every byte is as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cache.layout import DONE, FAILED, PENDING
from cache.reader import Store
from cache.stores import open_stores
from pipeline.errors import StoreCorrupt


def status_of(folder: Path) -> dict[str, Any]:
    """Rows, done, failed, pending and width of both stores, and every failed row with its reason."""
    stores = open_stores(folder)
    failures: list[dict[str, str]] = []
    counts: dict[str, Any] = {"stores": str(folder)}
    for name, store in (("audio", stores.audio), ("text", stores.text)):
        states = store.scan()
        counts[name] = {
            "rows": len(store),
            "done": int((states == DONE).sum()),
            "failed": int((states == FAILED).sum()),
            "pending": int((states == PENDING).sum()),
            "width": store.width,
        }
        for row, reason in store.reasons(states).items():
            source = stores.manifest.audio[row] if name == "audio" else ""
            failures.append({"store": name, "id": store.ids[row], "audio": source, "reason": reason})
    return counts | {"failures": failures}


def status_table(status: dict[str, Any]) -> str:
    """`status_of` for people."""
    lines = [f"{status['stores']}"]
    for name in ("audio", "text"):
        c = status[name]
        parts = f"{c['done']:,} done, {c['failed']:,} failed, {c['pending']:,} pending"
        lines.append(f"  {name + '.h5':9} {c['rows']:>9,} rows x {c['width']}: {parts}")
    lines += [f"  failed: {f['id']} ({f['audio'] or f['store']}): {f['reason']}" for f in status["failures"]]
    return "\n".join(lines)


def verify(folder: Path) -> int:
    """Check every byte of both stores; returns the number of rows checked.

    Raises StoreCorrupt naming the file and the rows whose bytes do not match their checksums.
    """
    stores = open_stores(folder)
    checked = 0
    for store in (stores.audio, stores.text):
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
