"""The contract of bad input: it does no harm, or exit 2 with lines that say what, where and what to do about it.

`contract` runs a piece of work and `command` a whole click command; both check the same promises and give back the exit
code and the error's lines.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from click.testing import CliRunner

from pipeline.core.errors import EmotionRankError, ManyProblems

LONGEST = 1_500  # characters of a line; a path may be long, a value is cut
SECONDS = 20  # no input may keep a command longer: a pipe would for ever


@dataclass(frozen=True)
class Outcome:
    """An exit code, the lines of the error, and what the work gave where there is none."""

    code: int
    lines: tuple[str, ...] = ()
    result: object = None

    @property
    def said(self) -> str:
        return "\n".join(self.lines)


def contract(work: Callable[[], object], *subjects: object) -> Outcome:
    """Run `work`; any exception that is no refusal by exit 2 fails the test, as does an error that breaks a promise."""
    try:
        with at_most(SECONDS):
            return Outcome(0, result=work())
    except EmotionRankError as error:
        whole = error.problems if isinstance(error, ManyProblems) else []
        lines = (*whole, str(error).split("\n")[-1]) if whole else (str(error),)
        _check(lines, subjects, error.exit_code)
        if error.action not in lines[-1]:
            raise AssertionError(f"no word about what to do: {lines}") from error
        return Outcome(error.exit_code, lines)


def command(main: click.Command, arguments: Sequence[object], *subjects: object, out: Path) -> Outcome:
    """Call `main`. Where it refuses, `out` is bit for bit as it was, or not there as it was not before."""
    before = contents(out)
    with at_most(SECONDS):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.output
    if done.exit_code == 0:
        return Outcome(0, result=done.output)
    found = re.search(r"^(?:error|Error): (.*)", done.stderr, re.MULTILINE | re.DOTALL)
    assert found, done.stderr
    lines = tuple(found[1].rstrip("\n").split("\n"))
    _check(lines, subjects, done.exit_code)
    assert contents(out) == before, "a refusal left something behind"
    return Outcome(done.exit_code, lines)


def contents(folder: Path) -> dict[str, bytes] | None:
    """Every file below `folder` and its bytes; None where there is no folder."""
    if not folder.exists():
        return None
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail a test that hangs, in place of waiting with it."""

    def late(*_: object) -> None:
        raise AssertionError(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def _check(lines: Sequence[str], subjects: Sequence[object], code: int) -> None:
    said = "\n".join(lines)
    assert code == 2, f"exit {code}: {said}"
    assert any(str(subject) in said for subject in subjects), f"none of {subjects} in {said!r}"
    for line in lines:
        assert line.strip(), "an empty line"
        assert not re.search("[\x00-\x1f\x7f\x85\u2028\u2029]", line), f"not one line: {line!r}"
        assert len(line) <= LONGEST, f"{len(line)} characters: {line[:200]!r}..."
        assert not re.search(r"Error\(|__init__|__new__|Errno|sys\.set_|object at 0x", line), (
            f"Python's words: {line!r}"
        )
