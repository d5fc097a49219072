"""The file that keeps every answer that was paid for.

`answers.jsonl` is append-only. An answer counts once its line is on the disk; a last line that a crash cut off is
dropped. Refused answers are kept too: they were paid for, and they count as attempts.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pipeline.captions.asks import Ask
from pipeline.errors import EmotionRankError, StoreCorrupt


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
