"""click's usage errors in the form of all others: one line with subject, found, expected and what to do."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from typing import Any

import click

from cache.errors import UsageError
from pipeline.commands.settings import everyday_as_overrides, nearest_option

_ANY_WIDTH = 10_000  # columns: as wide as the terminal, where click ends at 80


class Command(click.Command):
    """A command with -h, -q, -v and --version, whose usage errors are one line and exit code 2."""

    def __init__(self, *args: Any, **extra: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": _ANY_WIDTH}
        super().__init__(*args, **{"context_settings": settings} | extra)
        self.params += [
            _log_level_option("-q", "--quiet", logging.WARNING, "Log only warnings and errors."),
            _log_level_option("-v", "--verbose", logging.DEBUG, "Log debug messages and tracebacks too."),
            printing_option("--version", "Print the version and exit.", _version),
        ]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """click's, under the command's own name however it was started, with what becomes an -o among these."""
        try:
            context = super().make_context(self.name or info_name, args, parent, **extra)
            if not context.resilient_parsing:  # of a TAB
                everyday_as_overrides(context)
            return context
        except UsageError as error:
            raise _UsageLine(str(error)) from None
        except click.UsageError as error:
            raise _UsageLine(str(_translated(error, click.Context(self, info_name=self.name)))) from None


def _log_level_option(short: str, name: str, level: int, text: str) -> click.Option:
    def set_level(context: click.Context, _: click.Parameter, given: bool) -> None:
        if given:
            context.meta["log_level"] = level  # of -q and -v the last one wins

    return click.Option([short, name], is_flag=True, expose_value=False, callback=set_level, help=text)


def printing_option(name: str, text: str, printed: Callable[[click.Command], str]) -> click.Option:
    """A flag that prints and exits, whatever else the command needs; `text` is its help."""

    def print_and_exit(context: click.Context, _: click.Parameter, given: bool) -> None:
        if given and not context.resilient_parsing:
            click.echo(printed(context.command))
            context.exit()

    return click.Option([name], is_flag=True, is_eager=True, expose_value=False, callback=print_and_exit, help=text)


def _version(_: click.Command) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"emotionrankclap {version('emotionrankclap')}"
    except PackageNotFoundError:
        return "emotionrankclap, run from a checkout that is not installed"


class _UsageLine(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


def _translated(error: click.UsageError, context: click.Context) -> UsageError:
    """click's error as a UsageError."""
    name, usage = context.command.name, " ".join(context.command.collect_usage_pieces(context))
    see_help = f"See {name} --help."
    if isinstance(error, click.NoSuchOption):
        action = nearest_option(context.command, error.option_name, error.possibilities or ())
        return UsageError(error.option_name, "no such option", f"an option of {name}", action or see_help)
    if isinstance(error, click.BadOptionUsage):
        found = "takes no value" if "not take" in error.message else "no value after it"
        return UsageError(error.option_name, found, f"{name} {usage}", see_help)
    if isinstance(error, click.MissingParameter) and error.param:
        return UsageError(name, f"no {_as_typed(error.param)}", f"{name} {usage}", see_help)
    if isinstance(error, click.BadParameter) and error.param:
        return _bad_value(error.message, error.param, see_help)
    return UsageError(name, error.message.rstrip(".").removeprefix("Got ").lower(), f"{name} {usage}", see_help)


def _bad_value(message: str, param: click.Parameter, see_help: str) -> UsageError:
    found, kind = message.split(" is not ")[0], param.type
    if isinstance(kind, click.Choice):
        choices = [str(choice) for choice in kind.choices]
        close = difflib.get_close_matches(found.strip("'"), choices, n=1)
        action = f"Did you mean {close[0]}?" if close else see_help
        return UsageError(_as_typed(param), found, " or ".join(choices), action)
    if isinstance(kind, click.IntRange):
        return UsageError(_as_typed(param), found, f"a whole number, {kind.min} or more", see_help)
    if isinstance(kind, click.FloatRange):
        return UsageError(_as_typed(param), found, f"a number above {kind.min}", see_help)
    return UsageError(_as_typed(param), message.rstrip("."), "a value of its kind", see_help)


def _as_typed(param: click.Parameter) -> str:
    """--engine for an option, CONFIG for an argument."""
    return max(param.opts, key=len) if isinstance(param, click.Option) else str(param.name).upper()
