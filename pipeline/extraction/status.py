"""What is known without encoding: each source before it is read, and each store's counts, reasons and checksums."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.header import DONE, FAILED, PENDING
from cache.joint import SideBySide
from cache.manifest import Manifest, RowNames
from cache.reader import Store
from cache.stores import CONFIG, Stores, open_stores
from cache.writer import StoreRows
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import validate_file
from pipeline.core.errors import StoreCorrupt, StoreMismatch, UsageError
from pipeline.core.resources import cores
from pipeline.data.corpora.leaks import shared_speakers
from pipeline.extraction.audio.decoding import Decoding, digest_of, digest_of_file, open_audio, stamp_of

OF_TEXT = ("text", "words")
STORE_NAMES = ("audio", "acoustic", *OF_TEXT)
STATES = {"done": DONE, "failed": FAILED, "pending": PENDING}
MANY_FAILED = 0.05  # of the utterances: more are no accident
MAX_REASONS = 3  # shown
MAX_SHOWN = 5  # of each kind of finding, on a terminal
PART_FILES = 1024  # in one task of a thread: a future for each of two million would take gigabytes
QUICK_SECONDS = 3e-4  # a file; a header from the page cache takes a third


def digest_of_path(path: Path) -> bytes | None:
    """The digest of a file's bytes, None where it cannot be read."""
    try:
        with open_audio(path) as handle:
            return digest_of_file(handle, os.fstat(handle).st_size)
    except (OSError, ValueError):
        return None


def sources_of(manifest: Manifest, decoding: Decoding, store: Path) -> StoreRows:
    """Each file's stamp and its clip's length in samples: from `store` for an unchanged file, else from its header."""
    root, audio = str(manifest.root), manifest.audio
    all_rows = np.arange(len(manifest))
    stamps = _for_each_row(all_rows, lambda row: _stamp(os.path.join(root, audio[row]))).reshape(-1, 2)
    lengths = _known_lengths(store, manifest.id, stamps)
    new = np.flatnonzero(lengths < 0)
    lengths[new] = _for_each_row(new, lambda row: decoding.samples(os.path.join(root, audio[row])))
    return StoreRows(manifest.id, stamps, lengths)


def transcripts_of(manifest: Manifest) -> StoreRows:
    """Each transcript's size and hash, as a file's stamp is its size and time, so that a changed one is another."""
    texts = [text.encode() for text in manifest.transcript or ()]
    stamps = [(len(text), int.from_bytes(digest_of(text)[:8], "little", signed=True)) for text in texts]
    lengths = np.array([len(text) for text in manifest.transcript or ()], np.int64)
    return StoreRows(manifest.id, np.array(stamps, np.int64).reshape(-1, 2), lengths)


def _for_each_row(rows: NDArray[np.int64], measure: Callable[[int], object]) -> NDArray[np.int64]:
    """`measure` of every row, one or several integers: in this thread, or, once that is slow, in many.

    A network's file system answers many threads at once; on a local one they only wait for each other (twice the time).
    """

    def measure_part(start: int) -> NDArray[np.int64]:
        return np.array([measure(row) for row in rows[start : start + PART_FILES].tolist()], dtype=np.int64)

    starts = iter(range(0, len(rows), PART_FILES))
    parts = []
    for start in starts:
        began = time.monotonic()
        parts.append(measure_part(start))
        if time.monotonic() - began > PART_FILES * QUICK_SECONDS:
            break
    with ThreadPoolExecutor(4 * cores()) as pool:
        parts += pool.map(measure_part, starts)
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _stamp(path: str) -> tuple[int, int]:
    try:
        return stamp_of(os.stat(path))
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return (-1, 0)


def _known_lengths(path: Path, ids: list[str], stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) lengths of unchanged files as an existing store has them; -1 elsewhere."""
    lengths = np.full(len(ids), -1, dtype=np.int64)
    if not path.exists():
        return lengths
    old, old_rows = Store.open(path), np.arange(len(ids))
    if old.names != RowNames.of(ids):
        row_of = {name: row for row, name in enumerate(old.ids)}
        old_rows = np.array([row_of.get(name, -1) for name in ids], dtype=np.int64)
    known = np.flatnonzero(old_rows >= 0)
    known = known[(old.column("stamp")[old_rows[known]] == stamps[known]).all(axis=1)]
    lengths[known] = old.column("length")[old_rows[known]]
    return lengths


def open_alone(folder: str | Path) -> Stores:
    """`open_stores` of one folder. Raises UsageError for several, side by side."""
    stores = open_stores(folder)
    if isinstance(stores.audio, SideBySide):
        found = "stores of several speech encoders side by side"
        raise UsageError(folder, found, "one folder", "Pass one folder at a time.")
    return stores


def status_of(folder: str | Path) -> dict[str, Any]:
    """Rows, done, failed, pending and width of every store, every failed row with its reason, the ids that share
    the same audio, and the speakers that are in more than one split.

        status_of("stores/mine")["audio"]    # {"rows": 200, "done": 199, "failed": 1, "pending": 0, "width": 384}

    Raises UsageError where there are no stores, StoreCorrupt.
    """
    stores = open_alone(folder)
    failures: list[dict[str, str]] = []
    result: dict[str, Any] = {"stores": str(folder)}
    for name, store in _by_name(stores).items():
        states = store.scan()
        counts = {key: int((states == state).sum()) for key, state in STATES.items()}
        result[name] = {"rows": len(store), **counts, "width": store.dim}
        for row, reason in store.reasons(states).items():
            source = "" if name in OF_TEXT else stores.manifest.audio[row]
            failures.append({"store": name, "id": store.ids[row], "audio": source, "reason": reason})
        if name == "audio":
            result["same_audio"] = _same_audio(stores, np.flatnonzero(states == DONE))
    shared = shared_speakers(stores.manifest.speaker, stores.manifest.split)
    return result | {"failures": failures, "shared_speakers": shared}


def failure_warning(status: dict[str, Any]) -> str | None:
    """The loud line about `status_of` stores of which more than 5 % of the utterances failed: how many, and why."""
    failed, rows = status["audio"]["failed"], status["audio"]["rows"]
    if failed <= MANY_FAILED * rows:
        return None
    reasons = Counter(failure["reason"] for failure in status["failures"] if failure["store"] == "audio")
    shown = "; ".join(f"{count:,} times {reason}" for reason, count in reasons.most_common(MAX_REASONS))
    return f"{failed:,} of {rows:,} utterances failed ({failed / rows:.1%}): {shown}"


def _by_name(stores: Stores) -> dict[str, Store]:
    return {name: store for name in STORE_NAMES if (store := getattr(stores, name)) is not None}


def _same_audio(stores: Stores, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Ids whose files hold the same bytes, and the splits they are in."""
    digests = stores.audio.column("digest")[rows].view("<u8")  # (n, 2)
    order = np.lexsort(digests.T)
    equal_to_next = (np.diff(digests[order].astype("<u8"), axis=0) == 0).all(axis=1)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], equal_to_next, [0]]).astype(np.int8)))
    groups = [np.sort(rows[order[start : stop + 1]]).tolist() for start, stop in ends.reshape(-1, 2).tolist()]
    manifest = stores.manifest
    return [
        {"ids": [manifest.id[row] for row in group], "splits": sorted({manifest.split[row] for row in group})}
        for group in sorted(groups)
    ]


def status_table(status: dict[str, Any]) -> str:
    """`status_of` as text for a terminal."""
    lines = [str(status["stores"])]
    for name in STORE_NAMES:
        if name in status:
            c = status[name]
            parts = f"{c['done']:,} done, {c['failed']:,} failed, {c['pending']:,} pending"
            lines.append(f"  {name + '.h5':11} {c['rows']:>9,} rows x {c['width']}: {parts}")
    lines += [f"  failed: {f['id']} ({f['audio'] or f['store']}): {f['reason']}" for f in status["failures"]]
    groups = status["same_audio"]
    lines += [f"  same audio: {' = '.join(g['ids'])} ({', '.join(g['splits'])})" for g in groups[:MAX_SHOWN]]
    if len(groups) > MAX_SHOWN:
        lines.append(f"  same audio: ... and {len(groups) - MAX_SHOWN:,} more")
    leaks = audio_leaks(status)
    if leaks:
        lines.append(f"  same audio: {leaks:,} of {len(groups):,} lie in more than one split, which leaks")
    shared = status["shared_speakers"]
    if shared:
        lines.append(
            f"  speakers: {len(shared):,} are in more than one split, which leaks ({_first_few(list(shared))})"
        )
    return "\n".join(lines)


def audio_leaks(status: dict[str, Any]) -> int:
    """How many recordings lie in more than one split, under names that differ."""
    return sum(len(group["splits"]) > 1 for group in status["same_audio"])


def verify(folder: str | Path) -> int:
    """Check every byte of every store; returns the number of rows checked.

        verify("stores/mine")    # 396

    Raises StoreCorrupt naming the file and the rows whose bytes are not what was committed.
    """
    checked = 0
    for store in _by_name(open_alone(folder)).values():
        if not store.checksum_matches():
            found, expected = "names, times or metadata were changed", "the bytes that were allocated"
            action = "Restore it from a backup, or run extract-features --fresh."
            raise StoreCorrupt(store.path, found, expected, action)
        corrupt = store.inconsistent_rows()
        if corrupt.size:
            names = _first_few([store.ids[row] for row in corrupt.tolist()])
            found = f"{corrupt.size:,} corrupt or half-written row{'s' * (corrupt.size > 1)} ({names})"
            action = "Run extract-features again: it re-encodes such rows."
            raise StoreCorrupt(store.path, found, "complete or pending rows", action)
        checked += int(np.count_nonzero(store.column("state")))
    return checked


def verify_sources(folder: str | Path, audio_root: str | Path | None = None) -> int:
    """Read every audio file and text again and compare its hash with the one its row was made from; returns how many.

        verify_sources("stores/mine", audio_root="/data/mine")    # 396

    `audio_root` is where the audio lies now, when it moved. Raises StoreMismatch, naming the files that changed.
    """
    folder = Path(folder)
    stores = open_alone(folder)
    config = validate_file(ExtractConfig, folder / CONFIG)
    root = Path(audio_root or config.corpus.root or folder)
    changed: dict[str, bool] = {}  # source -> whether it is audio, which two stores may share
    checked = 0
    for name, store in _by_name(stores).items():
        digests = store.column("digest")
        for row in np.flatnonzero(digests.any(axis=1)).tolist():
            checked += 1
            source = store.ids[row] if name in OF_TEXT else str(root / stores.manifest.audio[row])
            text = (stores.manifest.transcript or [])[row] if name == "words" else source
            encoded = text.encode("utf-8", "surrogateescape")
            digest = digest_of(encoded) if name in OF_TEXT else digest_of_path(Path(source))
            if digest != digests[row].tobytes():
                what = f"transcript of {source}" if name == "words" else source
                changed[what + (" (cannot be read)" if digest is None else "")] = name not in OF_TEXT
    if changed:
        noun, again = "source", "run extract-features"
        if all(changed.values()):
            noun, again = "audio file", "run touch FILE and then extract-features"
        found = f"{len(changed):,} {noun}{'s' * (len(changed) > 1)} changed after encoding: {_first_few(list(changed))}"
        action = f"Restore what was encoded, or {again} to re-encode what changed."
        raise StoreMismatch(folder, found, "the same bytes", action)
    return checked


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "")
