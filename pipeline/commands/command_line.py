"""click as the commands use it: settings as options, and usage errors in the one line that all errors have."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any

import click

from cache.errors import UsageError

_ANY_WIDTH = 10_000  # columns: as wide as the terminal, where click ends at 80
_WIDEST = 26  # characters of a cell that the next column keeps clear of; a longer one moves it


class SettingsOption(click.Option):
    """`-o A.B=VALUE`, of the config `model`, "module:class"."""

    def __init__(self, *names: Any, model: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self.model = model


class EverydayOption(click.Option):
    """One setting under a name of its own: `--epochs 5` with the `override` "epochs={}" is `-o epochs=5`."""

    def __init__(self, *names: Any, override: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self.override, self.setting = override, override.partition("=")[0]


class Command(click.Command):
    """A command with -h, -q, -v and --version, and --list-settings where it has -o.

    Its usage errors are one line and exit code 2.
    """

    def __init__(self, name: str, **extra: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": _ANY_WIDTH}
        super().__init__(name, settings, **extra)
        ends = [place for place, param in enumerate(self.params, 1) if isinstance(param, SettingsOption)]
        if ends:
            text = "List every setting, its type and its default, and exit."
            self.params.insert(ends[-1], _printing_option("--list-settings", text, _settings_listing))
        self.params += [
            _log_level_option("-q", "--quiet", logging.WARNING, "Log only warnings and errors."),
            _log_level_option("-v", "--verbose", logging.DEBUG, "Log debug messages and tracebacks too."),
            _printing_option("--version", "Print the version and exit.", _version),
        ]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """click's, under the command's own name however it was started, with what becomes an -o among these."""
        try:
            context = super().make_context(self.name or info_name, args, parent, **extra)
            if not context.resilient_parsing:  # of a TAB
                _everyday_as_overrides(context)
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


def _printing_option(name: str, text: str, printed: Callable[[click.Command], str]) -> click.Option:
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


def _everyday_as_overrides(context: click.Context) -> None:
    """Put the options that are settings before the command's -o. Raises UsageError where an -o differs from one."""
    given = context.params
    for option in [param for param in context.command.params if isinstance(param, EverydayOption)]:
        value = given.pop(str(option.name), None)
        if value is None:
            continue
        mine = option.override.format(value)
        for other in given["overrides"]:
            if _differs(other, mine):
                found = f"conflicts with -o {other}"
                raise UsageError(f"{option.opts[0]} {value}", found, "one of the two", "Remove one.")
        given["overrides"] = (mine, *given["overrides"])


def _differs(override: str, mine: str) -> bool:
    """Whether both give a value to the setting of `mine`, and not the same."""
    from cache.fingerprint import leaves
    from pipeline.core.config_files import parse_override

    theirs, wanted = (dict(leaves(parse_override(each))) for each in (override, mine))
    return any(name in theirs and theirs[name] != value for name, value in wanted.items())


def _nearest_option(command: click.Command, typed: str, close: Sequence[str]) -> str:
    """What to do about an option that `command` has not: the setting of that name, or one `close` to it; or ""."""
    from pipeline.core.settings import setting_names, synonym

    word = typed.lstrip("-").replace("-", "_")
    own = {option.setting: option.opts[0] for option in command.params if isinstance(option, EverydayOption)}
    alike = difflib.get_close_matches(typed.lstrip("-"), [each.lstrip("-") for each in close])  # dashes are in all
    meant = [f"--{each}" for each in alike]
    for option in command.params:
        if isinstance(option, SettingsOption):
            known = setting_names(resolve_name(option.model))
            name = word if word in known else synonym(word, known)
            if option.opts[0] == "-o" and name:  # nothing else is meant
                return f"Did you mean {own.get(name, f'-o {name}=VALUE')}?" if name in known else f"{name}."
            meant += [f"{option.opts[0]} {each}=VALUE" for each in known if f".{each}".endswith(f".{word}")]
    return f"Did you mean {' or '.join(meant[:2])}?" if meant else ""


def _settings_listing(command: click.Command) -> str:
    """Every setting of `command`: name, type, default and what it is, a line each, in groups."""
    from pipeline.core.settings import groups_of

    lines = []
    for option in command.params:
        if isinstance(option, SettingsOption):
            groups = groups_of(resolve_name(option.model))
            rows = [(each.name, each.kind, each.default) for group in groups for each in group.settings]
            widths = [max(len(cell) for cell in cells if len(cell) <= _WIDEST) for cells in zip(*rows, strict=True)]
            lines.append(f"{command.name} {option.opts[0]} NAME=VALUE: name, type, default; a preset may have another")
            for group in groups:
                lines += ["", *([f"{group.name}: {group.about}"] if group.name else [])]
                for each in group.settings:
                    cells = zip((each.name, each.kind, each.default), widths, strict=True)
                    lines.append("  ".join([*(cell.ljust(width) for cell, width in cells), each.description]).rstrip())
            lines.append("")
    return "\n".join(lines).rstrip("\n")


class _UsageLine(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


def _translated(error: click.UsageError, context: click.Context) -> UsageError:
    """click's error as a UsageError."""
    name, usage = context.command.name, " ".join(context.command.collect_usage_pieces(context))
    see_help = f"See {name} --help."
    if isinstance(error, click.NoSuchOption):
        action = _nearest_option(context.command, error.option_name, error.possibilities or ())
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
