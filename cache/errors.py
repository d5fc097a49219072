"""The exception family: every error names its subject, what was found, what was expected and what to do."""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from importlib import import_module
from typing import Any


def one_line(text: str) -> str:
    """`text` with line breaks, control characters and bytes that are not UTF-8 written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class EmotionRankError(Exception):
    """A failure that the user can act on. Printed as one line; `exit_code` is the command's exit status."""

    exit_code = 1

    def __init__(self, subject: object, found: str, expected: str, action: str) -> None:
        self.subject, self.found, self.expected, self.action = one_line(str(subject)), found, expected, action
        super().__init__(one_line(f"{subject}: {found}; expected {expected}. {action}"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its text and fields: the constructors of this family take other arguments than `args`."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class UsageError(EmotionRankError):
    """A command line, config or manifest that cannot be used (exit 2)."""

    exit_code = 2


class ManyProblems(UsageError):
    """All problems of one input at once, a line each (exit 2). `problems` holds every line, `str` the first 50."""

    shown = 50

    def __init__(self, subject: object, problems: Sequence[str], action: str) -> None:
        self.problems = list(map(one_line, problems))
        count = len(self.problems)
        super().__init__(subject, f"{count} problem{'s' if count != 1 else ''}", "none", action)

    def __str__(self) -> str:
        lines = self.problems[: self.shown]
        rest = len(self.problems) - len(lines)
        more = [f"... and {rest} more"] if rest else []
        return "\n".join([*lines, *more, f"{self.subject}: {self.found}. {self.action}"])


class QuarantinedRows(EmotionRankError):
    """Everything is done, but rows failed and `--strict` is set (exit 3)."""

    exit_code = 3


class StoreMismatch(EmotionRankError):
    """A store made with another fingerprint or another manifest; nothing is mixed (exit 4)."""

    exit_code = 4


class StoreCorrupt(EmotionRankError):
    """A file that is not a store of this format, or whose bytes do not match their checksums (exit 5)."""

    exit_code = 5


class StoreLocked(EmotionRankError):
    """Another process writes to the same stores (exit 75, EX_TEMPFAIL)."""

    exit_code = 75


class Interrupted(EmotionRankError):
    """SIGINT or SIGTERM after a clean commit (exit 130 or 143)."""

    def __init__(self, subject: object, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(
            subject,
            f"stopped by signal {signal_number}",
            "to run to the end",
            "What is finished is safe; run it again to resume.",
        )


def required_library(name: str, extra: str, subject: object, otherwise: str = "") -> Any:
    """The module `name`. Raises UsageError that names the `extra` which brings it, and what else can be done."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise  # it is there, and something that it needs is not
        found = f"{name.partition('.')[0]} is not installed"
        action = f"Run pip install 'emotionrankclap[{extra}]'{otherwise and f', {otherwise}'}"
        raise UsageError(subject, found, f"the extra {extra}", f"{action}.") from None
