"""Settings on the command line: -o and -e, options that are one setting each, and --list-settings."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

import click

from cache.errors import UsageError

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


def everyday_as_overrides(context: click.Context) -> None:
    """Put the options that are settings before the command's -o. Raises UsageError where an -o differs from one."""
    given = context.params
    for option in [param for param in context.command.params if isinstance(param, EverydayOption)]:
        value = given.pop(str(option.name), None)
        if value is None:
            continue
        mine = option.override.format(value)
        for other in given["overrides"]:
            if _differs(other, mine):
                found = f"-o {other} beside it"
                raise UsageError(f"{option.opts[0]} {value}", found, "one of the two", "Leave one of them out.")
        given["overrides"] = (mine, *given["overrides"])


def _differs(override: str, mine: str) -> bool:
    """Whether both give a value to the setting of `mine`, and not the same."""
    from cache.fingerprint import leaves
    from pipeline.core.config_files import parse_override

    theirs, wanted = (dict(leaves(parse_override(each))) for each in (override, mine))
    return any(name in theirs and theirs[name] != value for name, value in wanted.items())


def nearest_option(command: click.Command, typed: str, close: Sequence[str]) -> str:
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


def settings_listing(command: click.Command) -> str:
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
