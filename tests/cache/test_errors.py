"""An error is one line, whatever is in it."""

from __future__ import annotations

import pytest

from cache.errors import EmotionRankError, ManyProblems

HOSTILE = "a\nb\r\x1b[31mred\x00\udcff\u2028 café 😀"
SHOWN = r"a\nb\r\x1b[31mred\x00\udcff\u2028 café 😀"


def test_line_breaks_control_characters_and_bytes_that_are_no_text_are_written_as_escapes() -> None:
    error = EmotionRankError(HOSTILE, HOSTILE, "b", "c")
    assert str(error) == f"{SHOWN}: {SHOWN}; expected b. c"
    assert error.subject == SHOWN
    assert str(error).isprintable()


def test_each_of_many_problems_is_a_line() -> None:
    error = ManyProblems("file.csv", [f"file.csv:{i}: {HOSTILE}" for i in range(3)], "Correct it.")
    assert str(error).split("\n") == [
        *(f"file.csv:{i}: {SHOWN}" for i in range(3)),
        "file.csv: 3 problems. Correct it.",
    ]


@pytest.mark.parametrize("text", ["plain", "two words", "naïve 😀", ""])
def test_text_is_left_as_it_is(text: str) -> None:
    assert str(EmotionRankError(text, "a", "b", "c")) == f"{text}: a; expected b. c"
