"""What each row's source is before it is decoded: the file's size and time, and how long the clip will be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.header import DONE, FAILED, PENDING
from cache.manifest import Manifest, RowNames
from cache.reader import Store
from cache.stores import CONFIG, Stores, open_stores
from cache.writer import StoreRows
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import validate
from pipeline.core.errors import StoreCorrupt, StoreMismatch
from pipeline.core.files import read_yaml
from pipeline.core.resources import cores
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.audio.files import digest_of_file, open_audio, stamp_of

_PART = 1024  # files in one piece of work: a future for each of two million would take gigabytes
_QUICK_SECONDS = 1e-4  # a file; a header from the page cache takes a tenth


def sources_of(manifest: Manifest, decoding: Decoding, store: Path) -> StoreRows:
    """Stamp every file and look up its length in samples: from `store` where it is unchanged, else from its header."""
    root, audio = str(manifest.root), manifest.audio
    stamps = _over(np.arange(len(manifest)), lambda row: _stamp(os.path.join(root, audio[row]))).reshape(-1, 2)
    lengths = _known_lengths(store, manifest.id, stamps)
    new = np.flatnonzero(lengths < 0)
    lengths[new] = _over(new, lambda row: decoding.samples(os.path.join(root, audio[row])))
    return StoreRows(manifest.id, stamps, lengths)


def content_of(path: Path) -> bytes | None:
    """The digest of a file's bytes, None where it cannot be read."""
    try:
        with open_audio(path) as handle:
            return digest_of_file(handle, os.fstat(handle).st_size)
    except (OSError, ValueError):
        return None


def _over(rows: NDArray[np.int64], look: Callable[[int], object]) -> NDArray[np.int64]:
    """`look` of every row, an integer or some: here, and as soon as that is slow, by threads.

    A network's file system answers many at once; on a local one threads only wait for each other (twice the time).
    """

    def part(start: int) -> NDArray[np.int64]:
        return np.array([look(row) for row in rows[start : start + _PART].tolist()], dtype=np.int64)

    starts = iter(range(0, len(rows), _PART))
    parts = []
    for start in starts:
        began = time.monotonic()
        parts.append(part(start))
        if time.monotonic() - began > _PART * _QUICK_SECONDS:
            break
    with ThreadPoolExecutor(4 * cores()) as pool:
        parts += pool.map(part, starts)
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _known_lengths(path: Path, ids: list[str], stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) lengths that an existing store knows of unchanged files; -1 elsewhere."""
    lengths = np.full(len(ids), -1, dtype=np.int64)
    if not path.exists():
        return lengths
    old = Store.open(path)
    if old.names == RowNames.of(ids):
        was = np.arange(len(ids))
    else:
        row_of = {name: row for row, name in enumerate(old.ids)}
        was = np.array([row_of.get(name, -1) for name in ids], dtype=np.int64)
    known = np.flatnonzero(was >= 0)
    known = known[(old.column("stamp")[was[known]] == stamps[known]).all(axis=1)]
    lengths[known] = old.column("length")[was[known]]
    return lengths


def _stamp(path: str) -> tuple[int, int]:
    try:
        return stamp_of(os.stat(path))
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return (-1, 0)


_STORES = ("audio", "acoustic", "text")
_SHOWN = 5  # of each kind of finding, on a terminal


def status_of(folder: str | Path) -> dict[str, Any]:
    """Rows, done, failed, pending and width of every store, every failed row with its reason, and the same audio
    under several ids.

        status_of("stores/mine")["audio"]    # {"rows": 200, "done": 199, "failed": 1, "pending": 0, "width": 384}

    Raises UsageError where there are no stores, StoreCorrupt.
    """
    stores = open_stores(folder)
    failures: list[dict[str, str]] = []
    found: dict[str, Any] = {"stores": str(folder)}
    for name, store in _named(stores):
        states = store.scan()
        found[name] = {
            "rows": len(store),
            "done": int((states == DONE).sum()),
            "failed": int((states == FAILED).sum()),
            "pending": int((states == PENDING).sum()),
            "width": store.dim,
        }
        for row, reason in store.reasons(states).items():
            source = "" if name == "text" else stores.manifest.audio[row]
            failures.append({"store": name, "id": store.ids[row], "audio": source, "reason": reason})
        if name == "audio":
            found["same_audio"] = _same_audio(stores, np.flatnonzero(states == DONE))
    return found | {"failures": failures}


def status_table(status: dict[str, Any]) -> str:
    """`status_of` for people."""
    lines = [f"{status['stores']}"]
    for name, c in ((name, status[name]) for name in _STORES if name in status):
        parts = f"{c['done']:,} done, {c['failed']:,} failed, {c['pending']:,} pending"
        lines.append(f"  {name + '.h5':11} {c['rows']:>9,} rows x {c['width']}: {parts}")
    lines += [f"  failed: {f['id']} ({f['audio'] or f['store']}): {f['reason']}" for f in status["failures"]]
    return "\n".join([*lines, *_same_audio_lines(status["same_audio"])])


def verify(folder: str | Path) -> int:
    """Check every byte of every store; returns the number of rows checked.

        verify("stores/mine")    # 396

    Raises StoreCorrupt naming the file and the rows whose bytes are not what was committed.
    """
    stores = open_stores(folder)
    checked = 0
    for _, store in _named(stores):
        if not store.checksum_matches():
            found, expected = "names, times or metadata were changed", "the bytes first written"
            raise StoreCorrupt(store.path, found, expected, "Restore it or run with --fresh.")
        inconsistent = store.inconsistent_rows()
        if inconsistent.size:
            names = _some([store.ids[row] for row in inconsistent.tolist()])
            found, expected = f"{inconsistent.size} rows half-written or corrupt ({names})", "rows whole or not begun"
            raise StoreCorrupt(store.path, found, expected, "Run extract-features again: they are encoded anew.")
        checked += int(np.count_nonzero(store.column("state")))
    return checked


def verify_sources(folder: str | Path, audio_root: str | Path | None = None) -> int:
    """Read every audio file and text again and compare its hash with the one its row was made from; returns how many.

        verify_sources("stores/mine", audio_root="/data/mine")    # 396

    `audio_root` is where the audio lies now, when it moved. Raises StoreMismatch, naming the files that changed.
    """
    folder = Path(folder)
    stores = open_stores(folder)
    config = validate(ExtractConfig, read_yaml(folder / CONFIG), subject=str(folder / CONFIG))
    root = Path(audio_root or config.corpus.root or folder)
    changed, checked = [], 0
    for name, store in _named(stores):
        digests = store.column("digest")
        rows = np.flatnonzero(digests.any(axis=1))
        for row in rows.tolist():
            path = root / stores.manifest.audio[row] if name != "text" else None
            now = content_of(path) if path else _digest_of(store.ids[row])
            if now != digests[row].tobytes():
                changed.append(f"{path or store.ids[row]!s}" + (" (cannot be read)" if now is None else ""))
        checked += len(rows)
    if changed:
        found = f"{len(changed)} sources have changed: {_some(changed)}"
        action = "Restore them, or touch them and run extract-features again: they are encoded anew."
        raise StoreMismatch(folder, found, "the bytes that were encoded", action)
    return checked


def _digest_of(text: str) -> bytes:
    from pipeline.extraction.audio.files import digest_of

    return digest_of(text.encode("utf-8", "surrogateescape"))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _named(stores: Stores) -> Iterator[tuple[str, Store]]:
    for name in _STORES:
        store = getattr(stores, name)
        if store is not None:
            yield name, store


def _same_audio(stores: Stores, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Ids whose files hold the same bytes, and the splits they are in."""
    digests = stores.audio.column("digest")[rows].view("<u8")  # (n, 2)
    order = np.lexsort(digests.T)
    same = (np.diff(digests[order].astype("<u8"), axis=0) == 0).all(axis=1)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], same, [0]]).astype(np.int8)))
    groups = (np.sort(rows[order[start : stop + 1]]).tolist() for start, stop in ends.reshape(-1, 2).tolist())
    manifest = stores.manifest
    return [
        {"ids": [manifest.id[row] for row in group], "splits": sorted({manifest.split[row] for row in group})}
        for group in sorted(groups)
    ]


def _same_audio_lines(groups: list[dict[str, Any]]) -> list[str]:
    leaks = sum(len(group["splits"]) > 1 for group in groups)
    lines = [f"  same audio: {' = '.join(g['ids'])} ({', '.join(g['splits'])})" for g in groups[:_SHOWN]]
    if len(groups) > _SHOWN:
        lines.append(f"  same audio: ... and {len(groups) - _SHOWN:,} more")
    if leaks:
        lines.append(f"  same audio: {leaks:,} of {len(groups):,} lie in more than one split, which leaks")
    return lines
