"""The file that keeps every answer that was paid for.

`answers.jsonl` is append-only. An answer counts once its line is on the disk; a last line that a crash cut off is
dropped. Refused answers are kept too: they were paid for, and they count as attempts.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pipeline.core.errors import EmotionRankError, StoreCorrupt
from pipeline.data.captions.llm.config import LlmConfig
from pipeline.data.captions.llm.requests import Ask


@dataclass(frozen=True)
class Answer:
    """A line of `answers.jsonl`."""

    key: str
    text: str


def read_answers(path: Path) -> tuple[list[Answer], int]:
    """The answers kept in `path`, oldest first, and the bytes that hold them. Raises StoreCorrupt, naming the line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    whole = content[: content.rfind(b"\n") + 1]
    answers = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            answers.append(Answer(str(entry["key"]), str(entry["text"])))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(
                f"{path}:{number}",
                f"cannot be read ({type(error).__name__})",
                "an answer that write-captions kept",
                "Remove that line; its prompt is asked again.",
            ) from None
    return answers, len(whole)


class AnswerLog:
    """Appends to `answers.jsonl`, from byte `size` on: a line cut off by a crash is dropped."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(size)

    def __enter__(self) -> AnswerLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, answer: Answer, ask: Ask, model: str | None) -> None:
        """Put `answer` on the disk, for good. Raises EmotionRankError on a full disk."""
        about = {"about": str(ask), "model": model, "prompt": ask.prompt}
        line = json.dumps({"key": answer.key, **about, "text": answer.text}).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._size)
            raise EmotionRankError(self._path, str(error.strerror), "to be written", "Make room there.") from None
        self._size += len(line)


OPENING = "The person is speaking"
_LONGEST = 500
_SECOND = re.compile(r"[.!?…][\"'”’)]*\s+\S")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}


def tidy(answer: str) -> str:
    """`answer` without the blanks and the quotation marks around it."""
    text = answer.strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def problem_of(text: str) -> str | None:
    """Why `text` is no caption (F11: one sentence, without numbers, "The person is speaking ..."); none if it is."""
    if not text:
        return "empty"
    if not text.startswith(OPENING) or text[len(OPENING) : len(OPENING) + 1].isalnum():
        return f"does not start {OPENING!r}"
    if any(letter.isnumeric() for letter in text):
        return "has digits"
    if not text.isprintable() or len(text) > _LONGEST:
        return "not one plain line"
    if _SECOND.search(text):
        return "more than one sentence"
    return None if text.rstrip("\"'”’)")[-1] in ".!?…" else "no end of a sentence"


class Ledger:
    """Which asks are settled. A function of the answers in the order they came, so that a resumed run agrees.

    An answer is refused for `problem_of`, for being another paraphrase's sentence, and for being a sentence of the
    other phrasing: no training caption is a test caption.
    """

    def __init__(self, asks: Iterable[Ask], llm: LlmConfig, attempts: int) -> None:
        self.asks = {ask.key(llm): ask for ask in asks}
        self.keys = {ask: key for key, ask in self.asks.items()}
        self.texts: dict[Ask, str] = {}
        self.problems: dict[Ask, list[str]] = defaultdict(list)
        self.attempts = attempts
        self._said: defaultdict[str, set[str]] = defaultdict(set)  # by phrasing
        self._told: defaultdict[tuple[object, ...], set[str]] = defaultdict(set)  # by phrasing and target

    def take(self, answer: Answer) -> str | None:
        """Accept `answer`, or say why not. Answers to what is not asked (another config's) are passed over."""
        ask = self.asks.get(answer.key)
        if ask is None or ask in self.texts:
            return None
        text = tidy(answer.text)
        problem = problem_of(text) or self._clash(ask, text)
        if problem:
            self.problems[ask].append(problem)
        else:
            self.texts[ask] = text
            self._said[ask.phrasing].add(text)
            self._told[ask.phrasing, ask.target].add(text)
        return problem

    def tried(self, ask: Ask) -> int:
        """Answers of `ask` that were refused."""
        return len(self.problems.get(ask, ()))

    def open(self, ask: Ask) -> bool:
        """Whether `ask` is to be asked (again)."""
        return ask not in self.texts and self.tried(ask) < self.attempts

    def _clash(self, ask: Ask, text: str) -> str | None:
        if text in self._told[ask.phrasing, ask.target]:
            return "the same as another paraphrase"
        other = "test" if ask.phrasing == "train" else "train"
        return f"the same as a {other} caption" if text in self._said[other] else None
