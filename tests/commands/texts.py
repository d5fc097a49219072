"""What users read, kept as plain text files: one file a topic, each command with its exit code and every line it said.

UPDATE_TEXTS=1 python -m pytest tests/commands/test_texts.py    # writes them anew: read the difference
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import pipeline
from pipeline.core.errors import EmotionRankError

FOLDER = Path(__file__).parent / "kept"
WIDE = {"COLUMNS": "80"}


def ended(line: str) -> Result:
    """The end of a command line in this process."""
    name, *words = shlex.split(line)
    main = import_module(f"pipeline.commands.{name.replace('-', '_')}").main
    return CliRunner(env=WIDE).invoke(main, words)


def said(line: str) -> str:
    """`line`, the exit code, and all that was said; a line of Python begins with >>>."""
    if line.startswith(">>> "):
        return _said_in_python(line)
    result = ended(line)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 3 or not result.stdout  # rows that failed are a result beside the error
    return f"$ {line}\nexit {result.exit_code}\n{result.output}"


def _said_in_python(line: str) -> str:
    names = {name: getattr(pipeline, name) for name in ("EmotionRankCLAP", "train", "search", "extract")}
    with pytest.raises(EmotionRankError) as caught:
        eval(line.removeprefix(">>> "), names)
    return f"{line}\n{type(caught.value).__name__}, exit code {caught.value.exit_code}\n{caught.value}\n"


def same_as_kept(topic: str, parts: Iterable[str], places: dict[str, str]) -> None:
    """Compare with the kept file of `topic`; `places` are this machine's paths and the words that stand for them."""
    text = "\n".join(parts)
    for place, word in places.items():
        text = text.replace(place, word)
    path = FOLDER / f"{topic}.txt"
    if os.environ.get("UPDATE_TEXTS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
