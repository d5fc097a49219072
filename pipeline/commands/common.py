"""What every command shares: one line for an error, the promised exit codes, JSON or text on stdout."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar

import click

from cache.errors import EmotionRankError
from pipeline.commands.completion import Offer, values

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:1 ...",
    shell_complete=values("auto", "cpu", "cuda"),
)
fresh_option = click.option("--fresh", is_flag=True, help="Start over instead of resuming.")
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE",
    help="Run this Python file first: it registers an encoder or a loss of your own. Repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def overrides_option(offered: Offer) -> Callable[[F], F]:
    """`-o`, and what a TAB after it offers."""
    return click.option(
        "-o",
        "overrides",
        multiple=True,
        metavar="A.B=VALUE",
        help="Change one setting. Repeatable.",
        shell_complete=offered,
    )


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors a user can act on into one line on stderr and their exit code; run --plugin first."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _terminable(), _narrated():
                _run_plugins(kwargs.pop("plugins", ()))
                command(*args, **kwargs)
        except EmotionRankError as error:
            click.echo(f"error: {error}", err=True)
            _leave_workers(error.exit_code)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            sys.exit(1)
        except OSError as error:
            from cache.disk import one_line_failure

            click.echo(f"error: {one_line_failure(error.filename or 'a file', error, 'used')}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            sys.exit(130)

    return wrapped


def _narrated() -> AbstractContextManager[None]:
    """Log messages on stderr as -q and -v ask."""
    from pipeline.core.progress import narration

    given = click.get_current_context().meta
    return narration(logging.WARNING if given.get("quiet") else logging.DEBUG if given.get("verbose") else logging.INFO)


def _run_plugins(files: Any) -> None:
    if files:
        from pipeline.core.plugins import load_plugins

        load_plugins(files)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as SIGINT does, where it has no better way (`pipeline.interrupt`)."""

    def end(*_: object) -> None:
        click.echo("stopped", err=True)
        sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_workers(code: int) -> None:
    """End the process at once where a thread still encodes a batch that nobody waits for: Python would join it."""
    others = {*threading.enumerate()} - {threading.current_thread()}
    if any(not thread.daemon for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def show(result: Any, text: str, as_json: bool) -> None:
    """Print the result: one JSON object, or text for people. A name that is no UTF-8 is written with escapes."""
    said = json.dumps(result, ensure_ascii=False, allow_nan=False) if as_json else text
    try:
        said.encode()
    except UnicodeEncodeError:
        said = json.dumps(result) if as_json else text.encode("utf-8", "backslashreplace").decode()
    click.echo(said)


def listed(tree: Mapping[str, Any]) -> str:
    """A line for each value of a tree, by its dotted name."""
    from cache.fingerprint import leaves

    return "\n".join(f"{name}: {value}" for name, value in leaves(tree))
