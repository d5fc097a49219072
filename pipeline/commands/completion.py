"""What a TAB offers, in bash, zsh and fish.

    eval "$(python -m pipeline.commands.completion bash)"    # in ~/.bashrc; zsh: the same with zsh
    python -m pipeline.commands.completion fish | source     # in config.fish

click's own mechanism; its shell scripts lack two things that settings need: bash takes `audio.pooling=mean` for three
words, and a setting that is half written wants no space after it. Values are of three types for the scripts: `plain`,
`part` (no space after it), and `dir` or `file`, which the shell completes itself.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from pipeline.commands.usage_errors import Command

if TYPE_CHECKING:
    from pydantic import BaseModel

Offer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

COMMANDS = (
    "write-captions",
    "extract-features",
    "train-heads",
    "evaluate-heads",
    "compare-methods",
    "sweep-heads",
    "search-speech",
    "run-demo",
)
_MOST_BYTES = 1 << 24  # of a manifest that a TAB reads
_EITHER = (Union, UnionType)


class _Folder(click.Path):
    """A path that the shell completes among folders; what is no folder is the command's to refuse."""

    def shell_complete(self, _context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


FOLDER = _Folder(path_type=Path)


def values(*known: str) -> Offer:
    """These words."""
    return lambda _context, _param, begun: [CompletionItem(each) for each in known if each.startswith(begun)]


def presets(kind: str, *, or_file: bool = True) -> Offer:
    """The presets of a folder of configs/; with `or_file`, files too."""

    def offer(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from pipeline.core.config_files import preset_names as names

        files = [CompletionItem(incomplete, type="file")] if or_file else []
        return [*values(*names(kind))(context, param, incomplete), *files]

    return offer


def settings(model: Callable[[], type[BaseModel]]) -> Offer:
    """`-o`: a model's settings part by part, then the values of one that has a choice."""

    def offer(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        key, equals, _ = incomplete.partition("=")
        if equals:
            found = {path: choices for path, choices, _ in _leaves(model())}.get(key, [])
            said = [CompletionItem(f"{key}={choice}") for choice in found]
        else:
            said = list(_next_parts(model(), incomplete))
        return [item for item in said if item.value.startswith(incomplete)]

    return offer


def of_extraction() -> type[BaseModel]:
    from pipeline.core.config import ExtractConfig

    return ExtractConfig


def of_writing() -> type[BaseModel]:
    from pipeline.data.captions.llm.config import WriteConfig

    return WriteConfig


def of_training() -> type[BaseModel]:
    from pipeline.core.config import TrainConfig

    return TrainConfig


def of_evaluation() -> type[BaseModel]:
    from pipeline.core.config import EvaluateConfig

    return EvaluateConfig


def of_sweep() -> type[BaseModel]:
    from pipeline.experiments.sweeps.config import SweepConfig

    return SweepConfig


def column(name: str) -> Offer:
    """The names in one column of the manifest of STORES, as far as they stand on the command line."""

    def offer(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        given = [context.params.get("stores"), *context.args]  # click leaves it in args before an option with no value
        path = next((Path(each) for each in given if each), Path()) / "manifest.csv"
        try:
            if not path.is_file() or path.stat().st_size > _MOST_BYTES:
                return []
            with open(path, newline="", encoding="utf-8", errors="replace") as file:
                names = {row.get(name) or "" for row in csv.DictReader(file)}
        except (OSError, csv.Error):
            return []
        return values(*sorted(names - {""}))(context, param, incomplete)

    return offer


def _next_parts(model: type[BaseModel], incomplete: str) -> Iterator[CompletionItem]:
    """`audio.` for what lies deeper than the name begun, `audio.pooling=` for a setting, each once."""
    depth = incomplete.count(".") + 1
    seen = set()
    for path, _, about in _leaves(model):
        parts = path.split(".")
        deeper = len(parts) > depth
        part = ".".join(parts[:depth]) + ("." if deeper else "=")
        if part not in seen:
            seen.add(part)
            yield CompletionItem(part, type="part", help=None if deeper else about)


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, list[str], str | None]]:
    """Every setting of `model`: its dotted name, the values it may have where they can be listed, what it is."""
    known: dict[str, tuple[list[str], str | None]] = {}
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        for path, choices, about in (leaf for each in inner for leaf in _leaves(each, f"{prefix}{name}.")):
            known[path] = ([*known.get(path, ([], None))[0], *choices], about)  # objective.name: of every objective
        if not inner:
            known[prefix + name] = (list(_choices(field.annotation)) or field.examples or [], field.description)
    yield from ((path, list(dict.fromkeys(choices)), about) for path, (choices, about) in known.items())


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    from pydantic import BaseModel

    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    elif get_origin(kind) is Annotated:
        yield from _models(get_args(kind)[0])
    elif get_origin(kind) in _EITHER:
        yield from (model for part in get_args(kind) for model in _models(part))


def _choices(kind: Any) -> Iterator[str]:
    """Of a Literal, a yes or no, an optional one, and lists of them, as YAML writes them."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        yield from map(str, parts)
    elif kind is bool:
        yield from ("true", "false")
    elif kind is type(None):
        yield "null"
    elif origin in _EITHER:
        found = [choice for part in parts for choice in _choices(part)]
        yield from found
    elif origin is tuple:
        yield from (f"[{choice}]" for choice in _choices(parts[0]))


class _Bash(BashComplete):
    """Puts together what bash takes apart at `=`, and gives back the part after it."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' each
    COMPREPLY=()
    for each in $(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1"); do
        case "${each%%%%,*}" in
            dir) compopt -o filenames; COMPREPLY+=($(compgen -d -- "${each#*,}")) ;;
            file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "${each#*,}")) ;;
            part) compopt -o nospace; COMPREPLY+=("${each#*,}") ;;
            plain) COMPREPLY+=("${each#*,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
    _before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words as they were typed, of the parts before and after each `=`."""
        words, incomplete = super().get_completion_args()
        whole: list[str] = []
        for word in [*words, incomplete]:
            if whole and (word == "=" or (whole[-1].endswith("=") and not word.startswith("--"))):
                whole[-1] += word
            else:
                whole.append(word)
        last = whole.pop() if whole else ""
        apart = incomplete == "=" or words[-1:] == ["="]
        self._before = last[: last.rindex("=") + 1] if apart and "=" in last else ""
        return whole, last

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{str(item.value).removeprefix(self._before)}"


class _Zsh(ZshComplete):
    source_template = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local -a plain parts described response
    local type key about
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
%(complete_var)s=zsh_complete %(prog_name)s)}")
    for type key about in ${response}; do
        case "$type" in
            dir) compset -P "--*="; _path_files -/ ;;
            file) compset -P "--*="; _path_files -f ;;
            part) parts+=("$key") ;;
            plain) if [[ "$about" == "_" ]]; then plain+=("$key"); else described+=("$key":"$about"); fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#parts )) && compadd -U -S '' -V unsorted -a parts
    (( $#plain )) && compadd -U -V unsorted -a plain
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        self._before = _option_of(incomplete)
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        about = item.help if item.type == "plain" else None
        return super().format_completion(CompletionItem(self._before + item.value, item.type, about))


class _Fish(FishComplete):
    """fish puts no space after `=` and `.` by itself."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        self._before = _option_of(incomplete)
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        kind = "plain" if item.type == "part" else item.type
        return super().format_completion(CompletionItem(self._before + item.value, kind, item.help))


def _option_of(incomplete: str) -> str:
    """`--verify=` of `--verify=de`: click completes what comes after it, zsh and fish want the whole."""
    return incomplete[: incomplete.index("=") + 1] if incomplete.startswith("--") and "=" in incomplete else ""


for _shell in (_Bash, _Zsh, _Fish):
    add_completion_class(_shell)


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice([_Bash.name, _Zsh.name, _Fish.name]))
def main(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print what makes SHELL complete every command."""
    scripts = get_completion_class(shell)
    for name in COMMANDS:
        variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
        click.echo(scripts(click.Command(name), {}, name, variable).source())


if __name__ == "__main__":
    main()
