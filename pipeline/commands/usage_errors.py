"""Slips of the command line, told as every other error is: one line with subject, found, expected and what to do."""

from __future__ import annotations

import difflib
from typing import Any

import click

from cache.errors import UsageError


class Command(click.Command):
    """A command whose refusals of its own words are one line and exit 2, without click's page of usage."""

    def __init__(self, *args: Any, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.params += [_level("-q", "--quiet", "Log warnings alone."), _level("-v", "--verbose", "Log details too.")]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """click's, under the command's own name however it was started."""
        try:
            return super().make_context(self.name or info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _Refused(str(_told(error, click.Context(self, info_name=self.name)))) from None


def _level(short: str, name: str, text: str) -> click.Option:
    def keep(context: click.Context, _: click.Parameter, given: bool) -> None:
        context.meta[name.removeprefix("--")] = given

    return click.Option([short, name], is_flag=True, expose_value=False, callback=keep, help=text)


class _Refused(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


def _told(error: click.UsageError, context: click.Context) -> UsageError:
    """What click found, in the words of the house."""
    name, usage = context.command.name, " ".join(context.command.collect_usage_pieces(context))
    see = f"See {name} --help."
    if isinstance(error, click.NoSuchOption):
        close = (error.possibilities or [])[:2]
        advice = f"Did you mean {' or '.join(close)}?" if close else see
        return UsageError(error.option_name, "no such option", f"an option of {name}", advice)
    if isinstance(error, click.BadOptionUsage):
        alone = "takes no value" if "not take" in error.message else "no value after it"
        return UsageError(error.option_name, alone, f"{name} {usage}", see)
    if isinstance(error, click.MissingParameter) and error.param:
        return UsageError(name, f"no {_spelled(error.param)}", f"{name} {usage}", see)
    if isinstance(error, click.BadParameter) and error.param:
        return _bad_value(error.message, error.param, see)
    return UsageError(name, error.message.rstrip(".").removeprefix("Got ").lower(), f"{name} {usage}", see)


def _bad_value(message: str, param: click.Parameter, see: str) -> UsageError:
    found, kind = message.split(" is not ")[0], param.type
    if isinstance(kind, click.Choice):
        choices = [str(choice) for choice in kind.choices]
        close = difflib.get_close_matches(found.strip("'"), choices, n=1)
        return UsageError(_spelled(param), found, " or ".join(choices), f"Did you mean {close[0]}?" if close else see)
    if isinstance(kind, click.IntRange):
        return UsageError(_spelled(param), found, f"a whole number, {kind.min} or more", see)
    return UsageError(_spelled(param), message.rstrip("."), "what it takes", see)


def _spelled(param: click.Parameter) -> str:
    """As a person writes it: --engine, or CONFIG."""
    return max(param.opts, key=len) if isinstance(param, click.Option) else str(param.name).upper()
