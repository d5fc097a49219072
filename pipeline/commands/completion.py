"""Shell completion for bash, zsh and fish: click's own classes, and the settings after -o with their values.

    eval "$(python -m pipeline.commands.completion bash)"    # in ~/.bashrc; zsh: the same with zsh
    python -m pipeline.commands.completion fish | source     # in config.fish

By hand: settings, because click knows nothing of nested models. Two things click's scripts do not do for them: bash
splits `audio.pooling=mean` into three words, and no space may follow a setting that ends in `.` or `=`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Literal

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from pipeline.commands.command_line import Command
from pipeline.core.presets import preset_names

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

COMMANDS = [
    "make-manifest", "write-captions", "extract-features", "train-heads", "evaluate-heads", "compare-methods",
    "sweep-heads", "search-speech", "run-demo",
]  # fmt: skip
MAX_MANIFEST_BYTES = 1 << 24  # a larger manifest is not read while somebody waits


class _Folder(click.Path):
    """A path that shells complete with folders; click's own Path(file_okay=False) would also refuse files itself."""

    def shell_complete(self, _context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


FOLDER = _Folder(path_type=Path)


def values(*known: str) -> Completer:
    """Complete with the words of `known`."""
    return lambda _context, _param, incomplete: [CompletionItem(word) for word in known if word.startswith(incomplete)]


def presets(kind: str, *, or_file: bool = True) -> Completer:
    """Complete with the presets of configs/`kind`; with `or_file` also with files."""

    def complete(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        files = [CompletionItem(incomplete, type="file")] if or_file else []  # first: bash forgets what stands before
        return [*files, *values(*preset_names(kind))(context, param, incomplete)]

    return complete


def manifest_column(name: str) -> Completer:
    """Complete with the values in one column of the manifest of STORES, if STORES stands on the command line."""

    def complete(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        words = [context.params.get("stores"), *context.args]  # in args while the option before TAB has no value yet
        path = next((Path(word) for word in words if word), Path()) / "manifest.csv"
        try:
            if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
                return []
            with open(path, newline="", encoding="utf-8", errors="replace") as file:
                names = {row.get(name) or "" for row in csv.DictReader(file)}
        except (OSError, csv.Error):
            return []
        every = ["all"] if name == "split" else []
        return values(*sorted(names - {""}), *every)(context, param, incomplete)

    return complete


def settings(model: str) -> Completer:
    """Complete `-o` with the settings of a config model ("module:class") level by level, then with their values."""

    def complete(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from pipeline.core.settings import groups_of

        known = [each for group in groups_of(resolve_name(model)) for each in group.settings]
        name, equals, _ = incomplete.partition("=")
        items: dict[str, CompletionItem] = {}  # `audio.` once, objective.name with the values of every objective
        for each in known:
            path = each.name.split(".")
            part = ".".join(path[: name.count(".") + 1])
            if equals:
                words = [f"{name}={choice}" for choice in each.choices if each.name == name]
                items |= {word: CompletionItem(word) for word in words}
            elif part == each.name:
                items[part] = CompletionItem(f"{part}=", help=each.description or None)
            else:
                items[part] = CompletionItem(f"{part}.")
        return [item for item in items.values() if item.value.startswith(incomplete)]

    return complete


class _Bash(BashComplete):
    """Joins what bash splits at `=`, and answers with the part after the `=`."""

    source_template = f"""{BashComplete.source_template}
%(complete_func)s_without_space() {{
    %(complete_func)s "$@"
    [[ ${{COMPREPLY[0]}} == *[.=] ]] && compopt -o nospace
    return 0
}}
complete -o nosort -F %(complete_func)s_without_space %(prog_name)s
"""
    _before = ""  # the part of the last word that bash holds to be words of its own

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        joined: list[str] = []
        for word in [*words, incomplete]:
            if joined and (word == "=" or (joined[-1].endswith("=") and not word.startswith("--"))):
                joined[-1] += word
            else:
                joined.append(word)
        last = joined.pop()
        split = incomplete == "=" or words[-1:] == ["="]
        self._before = last[: last.rindex("=") + 1] if split and "=" in last else ""
        return joined, last

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value.removeprefix(self._before)}"


class _WholeWord(ShellComplete):
    """Answers with `--option=value`, where click answers with the value alone."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        items = super().get_completions(args, incomplete)
        option = incomplete[: incomplete.index("=") + 1] if incomplete.startswith("--") and "=" in incomplete else ""
        return [CompletionItem(option + item.value, item.type, item.help) for item in items]


class _Zsh(_WholeWord, ZshComplete):
    """Completes paths after `--option=` too, and puts no space after a setting that ends in `.` or `=`."""

    source_template = f"""{ZshComplete.source_template}
%(complete_func)s_without_space() {{
    compset -P '--*='
    compadd() {{
        [[ "$completions[1]$completions_with_descriptions[1]" == *[.=](|:*) ]] && set -- -S '' "$@"
        builtin compadd "$@"
    }}
    %(complete_func)s "$@"
    unfunction compadd
}}
compdef %(complete_func)s_without_space %(prog_name)s
"""


class _Fish(_WholeWord, FishComplete):
    """fish puts no space after `=` and `.` by itself."""


for _shell in (_Bash, _Zsh, _Fish):
    add_completion_class(_shell)


@click.command("python -m pipeline.commands.completion", cls=Command)
@click.argument("shell", type=click.Choice([_Bash.name, _Zsh.name, _Fish.name]))
def main(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the script by which your SHELL completes every command with TAB.

    \b
    eval "$(python -m pipeline.commands.completion bash)"    (in ~/.bashrc; in ~/.zshrc with zsh)
    python -m pipeline.commands.completion fish | source     (in ~/.config/fish/config.fish)
    """
    scripts = get_completion_class(shell)
    for name in COMMANDS:
        variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
        click.echo(scripts(click.Command(name), {}, name, variable).source())


if __name__ == "__main__":
    main()
