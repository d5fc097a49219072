"""What every command shares: exit codes, one line for an error, results that any terminal and any parser takes."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.commands.command_line import Command
from pipeline.commands.common import handle_errors, print_result
from pipeline.commands.completion import COMMANDS
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.errors import UsageError

NAME = "clip \udcff.wav"  # bytes that are no UTF-8


@click.command("talk", cls=Command)
@handle_errors
def talk() -> None:
    """Log."""
    log = logging.getLogger("pipeline.tests")
    log.debug("a detail")
    log.info("a message")
    log.warning("a warning")
    click.echo("the result")


@pytest.mark.parametrize(
    ("words", "logged"),
    [
        ([], ["a message", "a warning"]),
        (["-q"], ["a warning"]),
        (["--quiet"], ["a warning"]),
        (["-v"], ["a detail", "a message", "a warning"]),
        (["--verbose"], ["a detail", "a message", "a warning"]),
        (["-q", "-v"], ["a detail", "a message", "a warning"]),
        (["-v", "-q"], ["a warning"]),
    ],
)
def test_quiet_and_verbose_choose_what_is_logged(words: list[str], logged: list[str]) -> None:
    result = CliRunner().invoke(talk, words)
    assert (result.stdout, result.stderr.splitlines()) == ("the result\n", logged)


def test_errors_are_printed_when_quiet() -> None:
    result = CliRunner().invoke(train_heads, ["nowhere", "-q"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")


def test_verbose_shows_where_an_error_was_raised_before_its_line() -> None:
    result = CliRunner().invoke(train_heads, ["nowhere", "-v"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in CliRunner().invoke(train_heads, ["nowhere"]).output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_options_in_its_help(name: str) -> None:
    command = import_module(f"pipeline.commands.{name.replace('-', '_')}").main
    texts = [CliRunner().invoke(command, [word]).stdout for word in ("-h", "--help")]
    assert texts[0] == texts[1]
    for option in ("-q, --quiet", "-v, --verbose", "-h, --help"):
        assert option in texts[0]


def _ended(error: BaseException) -> Result:
    @click.command()
    @handle_errors
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
            "error: name: cannot be used (File name too long); expected no error of the operating system. Remove "
            "its cause and run again.\n",
        ),
        (
            OSError(errno.EIO, "bad", "name"),
            1,
            "error: name: cannot be used (Input/output error); expected a disk that works. Check the disk and run it "
            "again.\n",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "error: this process: too little memory or address space"),
        (
            OSError("no number"),
            1,
            "error: a file: cannot be used (no number); expected no error of the operating system. Remove its "
            "cause and run again.\n",
        ),
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
    print_result({"id": NAME}, NAME, as_json)
    said = capsys.readouterr().out
    said.encode()
    assert json.loads(said) == {"id": NAME} if as_json else said == "clip \\udcff.wav\n"


def test_other_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"id": "café 😀"}, "", True)
    assert capsys.readouterr().out == '{"id": "café 😀"}\n'


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:131] DefaultCPUAllocator: can't allocate memory: you tried\nto"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
    ],
)
def test_too_little_memory_is_one_line(error: Exception) -> None:
    @click.command("fail", cls=Command)
    @handle_errors
    def fail() -> None:
        """Fail."""
        raise error

    result = CliRunner().invoke(fail, [])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: this process: too little memory or address space")
    assert len(result.stderr.splitlines()) == 1


def test_another_error_of_python_is_no_lack_of_memory() -> None:
    @click.command("fail", cls=Command)
    @handle_errors
    def fail() -> None:
        """Fail."""
        raise RuntimeError("a bug")

    assert isinstance(CliRunner().invoke(fail, []).exception, RuntimeError)


@pytest.mark.parametrize(("begun", "ends"), [("before", True), ("by the command", False)])
def test_a_thread_of_the_program_that_calls_a_command_does_not_end_it(begun: str, ends: bool) -> None:
    program = f"""
import threading, click
from click.testing import CliRunner
from pipeline.commands.common import handle_errors
from pipeline.core.errors import UsageError

done = threading.Event()
thread = threading.Thread(target=done.wait)

@click.command()
@handle_errors
def refuse():
    if {begun == "by the command"}:
        thread.start()
    raise UsageError("a", "b", "c", "D.")

if {begun == "before"}:
    thread.start()
assert CliRunner().invoke(refuse).exit_code == 2
print("goes on")
done.set()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == ((0, "goes on\n") if ends else (2, "")), ended.stderr
