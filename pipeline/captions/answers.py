"""Answers: what counts as one, and which prompts have theirs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from pipeline.captions.answer_log import Answer
from pipeline.captions.asks import Ask
from pipeline.captions.write_config import LlmConfig

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
