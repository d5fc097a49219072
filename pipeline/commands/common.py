"""What the commands share: options, errors as one line with an exit code, results as JSON or text on stdout."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from cache.errors import EmotionRankError, one_line
from pipeline.commands.command_line import Command, EverydayOption, SettingsOption
from pipeline.commands.completion import FOLDER, presets, settings, values
from pipeline.core.presets import preset_names

log = logging.getLogger(__name__)
_NO_MEMORY = ("llocate memory", "failed to map segment", "can't start new thread")  # of a library, torch, Python
P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

audio_root_option = click.option("--audio-root", type=FOLDER, help="The corpus folder on this machine.")
_devices = values("auto", "cpu", "cuda")
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...", shell_complete=_devices
)
fresh_option = click.option("--fresh", is_flag=True, help="Start over instead of resuming.")
conventions_option = click.option(
    "--conventions", is_flag=True, help="Print how each measure is taken, as numbered footnotes."
)
CONVENTIONS_HINT = "[1], [2] ...: how each measure is taken, by --conventions or in report.html."
no_report_option = click.option("--no-report", is_flag=True, help="Write no report.html.")
_plugin_help = "Run this Python file first: it registers a custom encoder or loss. Repeatable."
plugin_option = click.option("--plugin", "plugins", multiple=True, metavar="FILE", help=_plugin_help)
tensorboard_option = click.option(
    "--tensorboard",
    is_flag=True,
    help="Write curves for TensorBoard while it trains (needs emotionrankclap[tensorboard]).",
)
wandb_option = click.option(
    "--wandb", is_flag=True, help="Log to Weights & Biases while it trains (needs emotionrankclap[wandb])."
)
trackio_option = click.option(
    "--trackio", is_flag=True, help="Log to trackio while it trains (needs emotionrankclap[trackio])."
)
_training_help = f"A preset of configs/training: {', '.join(preset_names('training'))}."
_trainings = presets("training", or_file=False)
training_option = click.option("--training", help=_training_help, shell_complete=_trainings)


def overrides_option(model: str, *names: str, metavar: str = "A.B=VALUE", of: str = "") -> Callable[[F], F]:
    """`-o`, or `names`, completed with the settings of the config model "module:class"."""
    text = f"Change one setting{of}. Repeatable."
    made: dict[str, Any] = {"cls": SettingsOption, "model": model, "multiple": True, "shell_complete": settings(model)}
    return click.option(*(names or ("-o", "overrides")), **made, metavar=metavar, help=text)


def everyday_option(name: str, override: str, **extra: Any) -> Callable[[F], F]:
    """The option `name`, whose value in the place of `{}` makes an -o, such as "epochs={}"."""
    return click.option(name, cls=EverydayOption, override=override, **extra)


_TEMPERATURE = "Initial temperature, by which similarities are divided."
_ABOVE_0 = click.FloatRange(min=0, min_open=True)
_EVERYDAY = [
    everyday_option("--epochs", "epochs={}", type=click.IntRange(min=1), help="Passes over the training pairs."),
    everyday_option("--batch-size", "batch_size={}", type=click.IntRange(min=2), help="Pairs in one batch."),
    everyday_option("--learning-rate", "learning_rate={}", type=_ABOVE_0, help="Adam's learning rate."),
    everyday_option("--temperature", "temperature={}", type=_ABOVE_0, help=_TEMPERATURE),
]


def everyday_training_options(main: F) -> F:
    """The settings that most trainings change, as options."""
    for option in reversed(_EVERYDAY):
        main = option(main)
    return main


def command(name: str, presets_of: str = "") -> Callable[[Callable[..., None]], click.Command]:
    """The command `name` with --json and what each `Command` has, whose errors are one line and an exit code.

    In its help, which is the docstring, `{presets}` stands for the names of the presets in configs/`presets_of`.
    """

    def decorate(main: Callable[..., None]) -> click.Command:
        text = inspect.getdoc(main) or ""
        if presets_of:
            text = text.format(presets=", ".join(preset_names(presets_of)))
        made = click.command(name, cls=Command, help=text)(handle_errors(main))
        as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object on stdout.")
        made.params.insert(-3, as_json)  # before -q, -v and --version
        return made

    return decorate


def handle_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Log as -q and -v ask, run --plugin first, and turn errors into one line on stderr and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from pipeline.core.progress import narration

        level = click.get_current_context().meta.get("log_level", logging.INFO)
        before = set(threading.enumerate())
        try:
            with _exit_on_sigterm(), narration(level):
                if files := kwargs.pop("plugins", ()):
                    from pipeline.core.plugins import load_plugins

                    load_plugins(files)  # type: ignore[arg-type]
                command(*args, **kwargs)
        except BrokenPipeError:
            sys.exit(1)
        except (EmotionRankError, MemoryError, ImportError, OSError, RuntimeError) as error:
            known = error if isinstance(error, EmotionRankError) else _failure(error)
            if known is None:
                raise
            with narration(level):
                log.debug("where it was raised:", exc_info=True)
            click.echo(f"error: {known}", err=True)
            _exit(known.exit_code, before)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            sys.exit(130)

    return wrapped


def _failure(error: Exception) -> EmotionRankError | None:
    """The line for too little memory, a package that cannot be imported, or what the operating system refused."""
    from pipeline.core.errors import broken_package

    if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
        found = "too little memory or address space" + (f" ({one_line(str(error))[:120]})" if str(error) else "")
        return EmotionRankError("this process", found, "more", "Raise `ulimit -v`, or ask for less.")
    package = broken_package(error)
    if package is None and isinstance(error, OSError):
        from cache.disk import one_line_failure

        return one_line_failure(error.filename or "a file", error, "used")
    return package


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """End a command by SIGTERM as by SIGINT, where it does not commit first (`pipeline.core.progress`)."""

    def stop(*_: object) -> None:
        click.echo("stopped", err=True)
        sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(code: int, before: set[threading.Thread]) -> None:
    """Exit; at once where a thread still encodes a batch that nobody waits for, because Python would join it.

    Threads of `before` the command are a program's that called it, which is not ended.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread not in before):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def more_stores(first: Path, words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders of stores that stand at the head of `words`, after `first`; and the other words."""
    named, rest = [first], list(words)
    while rest and os.path.isfile(os.path.join(rest[0], "audio.h5")):
        named.append(Path(rest.pop(0)))
    return named, rest


def joint_name(stores: Sequence[Path]) -> str:
    """What a folder of runs on `stores` is named after."""
    return "+".join(Path(folder).name for named in stores for folder in str(named).split(","))


def print_tables(result: Any, tables: str, *, conventions: bool, as_json: bool) -> None:
    """`print_result` of tables with footnotes, or with a line that says how to see them."""
    print_result(result, tables if conventions else f"{tables.rstrip()}\n\n{CONVENTIONS_HINT}", as_json)


def print_result(result: Any, text: str, as_json: bool) -> None:
    """Print one JSON object, or `text`. Names that are not UTF-8 are written with escapes."""
    output = json.dumps(result, ensure_ascii=False, allow_nan=False) if as_json else text
    try:
        output.encode()
    except UnicodeEncodeError:
        output = json.dumps(result) if as_json else text.encode("utf-8", "backslashreplace").decode()
    click.echo(output)


def as_lines(tree: Mapping[str, Any]) -> str:
    """One line `dotted.name: value` for each value of nested dicts."""
    from cache.fingerprint import leaves

    return "\n".join(f"{name}: {value}" for name, value in leaves(tree))
