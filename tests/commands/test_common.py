"""What every command shares: exit codes, one line for an error, results that any terminal and any parser takes."""

from __future__ import annotations

import errno
import json

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.commands.common import guarded, show
from pipeline.core.errors import UsageError

NAME = "clip \udcff.wav"  # bytes that are no UTF-8


def _ended(error: BaseException) -> Result:
    @click.command()
    @guarded
    def command() -> None:
        raise error

    return CliRunner().invoke(command)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("x", "a", "b", "Do c."), 2, "error: x: a; expected b. Do c.\n"),
        (
            OSError(errno.ENAMETOOLONG, "too long", "name"),
            1,
            "error: name: cannot be used (File name too long); expected a disk that works. Check the disk and run it "
            "again.\n",
        ),
        (OSError("no number"), 1, "error: a file: cannot be used (Input/output error)"),
        (BrokenPipeError(), 1, ""),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_an_error_is_its_line_and_its_exit_code(error: BaseException, code: int, said: str) -> None:
    result = _ended(error)
    assert result.exit_code == code
    assert result.stderr.startswith(said)
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_an_error_of_our_own_making_is_not_hidden() -> None:
    assert isinstance(_ended(ZeroDivisionError()).exception, ZeroDivisionError)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_name_that_is_no_utf_8_is_shown(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    show({"id": NAME}, NAME, as_json)
    said = capsys.readouterr().out
    said.encode()
    assert json.loads(said) == {"id": NAME} if as_json else said == "clip \\udcff.wav\n"


def test_other_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show({"id": "café 😀"}, "", True)
    assert capsys.readouterr().out == '{"id": "café 😀"}\n'
