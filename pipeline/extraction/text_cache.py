"""Texts that every corpus has (prompts, class texts, the whole grammar) are encoded once per encoder and machine.

Their vectors are kept in the user's cache folder, an SQLite database an encoder: `$EMOTIONRANKCLAP_CACHE`, else
`$XDG_CACHE_HOME/emotionrankclap`, else `~/.cache/emotionrankclap`. It may be deleted at any time, and a database that
cannot be read or written costs nothing but the time of encoding.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.disk import make_folder, remove
from cache.errors import EmotionRankError
from cache.fingerprint import canonical
from cache.header import PENDING
from cache.reader import Store
from cache.writer import StoreWriter
from pipeline.core.files import cache_folder
from pipeline.extraction.batching import read_text

log = logging.getLogger(__name__)

WAIT_SECONDS = 10.0  # for another process
_AT_ONCE = 500  # texts in one query
_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (text TEXT PRIMARY KEY, vector BLOB NOT NULL, digest BLOB NOT NULL)"


class TextVectorCache:
    """Float32 vectors (dim,) of the texts of one encoder, by its fingerprint; without one nothing is kept."""

    def __init__(self, fingerprint: dict[str, Any] | None, dim: int) -> None:
        self.dim, folder = dim, cache_folder()
        self.path: Path | None = None
        if folder and fingerprint is not None:
            name = hashlib.blake2b(canonical(fingerprint).encode(), digest_size=16).hexdigest()
            self.path = folder / "texts" / f"{name}.sqlite"

    def fill(self, store: Store, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Commit the pending ones of `rows` whose texts are known; returns the pending ones that are not."""
        texts, pending = store.ids, rows[store.column("state")[rows] == PENDING]
        known = self._read([texts[row] for row in pending.tolist()])
        is_known = np.array([texts[row] in known for row in pending.tolist()], dtype=bool)
        if known:
            with StoreWriter(store) as writer:
                for row in pending[is_known].tolist():
                    writer.commit(row, known[texts[row]], read_text(texts[row]).digest)
                writer.sync()
            log.info(f"text: {len(known):,} vectors reused from the cache {self.path}")
        unknown: NDArray[np.int64] = pending[~is_known]
        return unknown

    def keep(self, store: Store, rows: NDArray[np.int64]) -> None:
        """Remember the vectors of `rows` of a float32 store, those that are done."""
        if self.path is None or not len(rows) or store.layout.extents["vectors"].dtype != np.float32:
            return
        vectors, done = store.read(rows)
        entries = [(store.ids[row], vector.tobytes()) for row, vector in zip(rows[done], vectors[done], strict=True)]
        self._with_database(lambda database: _insert(database, entries), make=True)

    def _read(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of those that are known and whole."""
        found: dict[str, NDArray[np.float32]] = {}

        def select(database: sqlite3.Connection) -> None:
            for start in range(0, len(texts), _AT_ONCE):
                part = texts[start : start + _AT_ONCE]
                query = f"SELECT text, vector, digest FROM vectors WHERE text IN ({','.join('?' * len(part))})"
                for text, vector, digest in database.execute(query, part):
                    whole = isinstance(text, str) and isinstance(vector, bytes) and len(vector) == 4 * self.dim
                    if whole and digest == _digest(text, vector):
                        found[text] = np.frombuffer(vector, "<f4")

        self._with_database(select)
        return found

    def _with_database(self, use: Callable[[sqlite3.Connection], None], *, make: bool = False) -> None:
        """`use` the database, where there is one or one is made. What it or the disk refuses costs nothing else."""
        if self.path is None or not (make or self.path.exists()):
            return
        try:
            if make:
                make_folder(self.path.parent)
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS)) as database, database:
                use(database)
        except (sqlite3.Error, EmotionRankError, OSError, UnicodeError) as error:
            log.info(f"{self.path}: the cache cannot be used ({error}); the texts are encoded")
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                with suppress(EmotionRankError):
                    remove(self.path)


def _insert(database: sqlite3.Connection, entries: Sequence[tuple[str, bytes]]) -> None:
    database.execute(_SCHEMA)
    rows = [(text, vector, _digest(text, vector)) for text, vector in entries]
    database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)


def _digest(text: str, vector: bytes) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass") + b"\0" + vector, digest_size=16).digest()
