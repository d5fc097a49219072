"""Responses of the model: the file that keeps every one that was paid for, and which of them become captions.

`responses.sqlite` is an SQLite database. A response counts once its transaction is on the disk. Refused responses are
kept too: they were paid for, and they count as attempts.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from pipeline.core.errors import EmotionRankError, StoreCorrupt
from pipeline.core.files import check_digest, json_with_digest
from pipeline.data.captions.llm.config import WriteConfig
from pipeline.data.captions.llm.requests import CaptionRequest

RESPONSES = "responses.sqlite"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_SCHEMA = "CREATE TABLE responses (id INTEGER PRIMARY KEY, key TEXT NOT NULL, response TEXT NOT NULL)"
_KEYS = {"key", "about", "model", "prompt", "text"}  # of a response
_INSERT = "INSERT INTO responses (key, response) VALUES (?, ?)"  # JSON: SQLite's text takes no half characters


class ResponseCache:
    """Every response that is kept in a folder, as `pairs` of request key and text, oldest first; `append` adds one."""

    def __init__(self, folder: Path) -> None:
        """Open the database or make it, from the log of an earlier version where there is one.

        Raises StoreCorrupt, EmotionRankError for what the disk refuses.
        """
        self._path = folder / RESPONSES
        with _translate_errors(self._path), ExitStack() as opened:
            self._connection = sqlite3.connect(self._path, isolation_level=None)  # a statement is a transaction
            opened.callback(self._connection.close)
            # EXTRA: a commit outlives power loss. FULL lacks the sync of the folder after its journal is deleted.
            self._connection.execute("PRAGMA synchronous = EXTRA")
            pairs = _read_all(self._connection)
            if pairs is None:
                entries = _read_log(folder)
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute(_SCHEMA)
                self._connection.executemany(_INSERT, [(entry["key"], json_with_digest(entry)) for entry in entries])
                self._connection.execute("PRAGMA user_version = 1")
                self._connection.execute("COMMIT")
                pairs = [(entry["key"], entry["text"]) for entry in entries]
            self.pairs = pairs
            opened.pop_all()

    def append(self, key: str, request: CaptionRequest, text: str, *, model: str | None) -> None:
        """Put a response on the disk, for good. Raises EmotionRankError on a full disk."""
        response = {"key": key, "about": str(request), "model": model, "prompt": request.prompt, "text": text}
        with _translate_errors(self._path):
            self._connection.execute(_INSERT, (key, json_with_digest(response)))

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def read_responses(folder: Path) -> list[tuple[str, str]]:
    """What `ResponseCache(folder).pairs` would be; nothing is written. Raises as it does."""
    path, pairs = folder / RESPONSES, None
    if path.exists():
        uri = f"{path.absolute().as_uri()}?mode=rw"  # read-only, it could not roll back what a crash left
        with _translate_errors(path), closing(sqlite3.connect(uri, uri=True)) as connection:
            pairs = _read_all(connection)
    return [(entry["key"], entry["text"]) for entry in _read_log(folder)] if pairs is None else pairs


def _read_all(connection: sqlite3.Connection) -> list[tuple[str, str]] | None:
    """The pairs of a database; None of a new one."""
    if not connection.execute("PRAGMA page_count").fetchone()[0]:
        return None
    if not connection.execute("PRAGMA user_version").fetchone()[0]:
        raise ValueError("no version in its header")
    check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if check != "ok":
        raise ValueError(check)
    rows = connection.execute("SELECT key, response FROM responses ORDER BY id").fetchall()
    return [(key, _text_of(key, response)) for key, response in rows]


def _text_of(key: str, response: str) -> str:
    """The text of a response. Raises ValueError where its row is not as it was written: SQLite has no checksums."""
    entry = json.loads(response)
    if entry.keys() - _KEYS:  # a release of before wrote no digest
        entry = check_digest(response)
    if entry["key"] != key:
        raise ValueError("a response under another key")
    return str(entry["text"])


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, ValueError, LookupError, TypeError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if code & 0xFF in _CORRUPT:
            found, expected = f"cannot be read ({error})", "the responses that write-captions kept"
            raise StoreCorrupt(
                path, found, expected, "Restore it, or move it away: its prompts are then sent (and billed) again."
            ) from None
        found, action = f"cannot be written ({error})", "Free space, check who owns it and run it again."
        raise EmotionRankError(path, found, "a disk with room", action) from None


def _read_log(folder: Path) -> list[dict[str, str]]:
    """The entries of an earlier version's log, without a last line that a crash cut off; none without a log.

    Raises StoreCorrupt, naming the line.
    """
    path = folder / "answers.jsonl"
    content = path.read_bytes() if path.exists() else b""
    entries = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            entry = json.loads(line)
            entries.append({**entry, "key": str(entry["key"]), "text": str(entry["text"])})
        except (ValueError, LookupError, TypeError) as error:
            found, expected = f"cannot be read ({type(error).__name__})", "a response that write-captions kept"
            action = "Remove that line: its prompt is then sent (and billed) again."
            raise StoreCorrupt(f"{path}:{number}", found, expected, action) from None
    return entries


OPENING = "The person is speaking"
MAX_LENGTH = 500  # characters of a caption
_SECOND_SENTENCE = re.compile(r"[.!?…][\"'”’)]*\s+\S")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}


def tidy(response: str) -> str:
    """`response` without the blanks and the quotation marks around it."""
    text = response.strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def problem_of(text: str) -> str | None:
    """Why `text` is not a caption (F11: one sentence, without numbers, "The person is speaking ..."); None if it is."""
    if not text:
        return "empty"
    if not text.startswith(OPENING) or text[len(OPENING) : len(OPENING) + 1].isalnum():
        return f"does not start {OPENING!r}"
    if any(letter.isnumeric() for letter in text):
        return "has digits"
    if not text.isprintable() or len(text) > MAX_LENGTH:
        return "not one plain line"
    if _SECOND_SENTENCE.search(text):
        return "more than one sentence"
    return None if text.rstrip("\"'”’)")[-1] in ".!?…" else "no end of a sentence"


class RequestState:
    """Which requests are settled: a function of the responses in their order, so that a resumed run agrees.

    A response is refused for `problem_of`, for being another paraphrase's sentence, and for being a sentence of the
    other template split: no training caption is a test caption.
    """

    def __init__(self, requests: Iterable[CaptionRequest], config: WriteConfig, pairs: Iterable[tuple[str, str]]):
        """With the (request key, text) `pairs` that are kept already."""
        self.by_key = {request.key(config.llm): request for request in requests}
        self.attempts = config.writing.attempts
        self.texts: dict[CaptionRequest, str] = {}
        self.problems: dict[CaptionRequest, list[str]] = {request: [] for request in self.by_key.values()}
        self._texts_of: defaultdict[tuple[object, ...], set[str]] = defaultdict(set)  # by split; by split and target
        for key, text in pairs:
            self.add(key, text)

    def add(self, key: str, response: str) -> None:
        """Accept or refuse a response. One to a request of another config is passed over."""
        request = self.by_key.get(key)
        if request is None or request in self.texts:
            return
        text, other = tidy(response), "test" if request.split == "train" else "train"
        problem = problem_of(text)
        if problem is None and text in self._texts_of[request.split, request.target]:
            problem = "the same as another paraphrase"
        if problem is None and text in self._texts_of[(other,)]:
            problem = f"the same as a {other} caption"
        if problem:
            self.problems[request].append(problem)
            return
        self.texts[request] = text
        self._texts_of[(request.split,)].add(text)
        self._texts_of[request.split, request.target].add(text)

    def is_open(self, request: CaptionRequest) -> bool:
        """Whether `request` is to be sent (again)."""
        return request not in self.texts and len(self.problems[request]) < self.attempts
