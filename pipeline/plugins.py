"""A user's own code is run here and nowhere else: files named on the command line, and installed packages.

    extract-features my/manifest.csv --plugin my_encoder.py -o audio.encoder=mine

A file is run because `--plugin` names it. A package is imported because it is installed and declares itself:

    [project.entry-points."emotionrankclap.plugins"]
    mine = "my_package.my_encoder"

No config, store, run or hub can make either happen: they hold names, and a name without code is an error.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from pipeline.errors import EmotionRankError, UsageError
from pipeline.own_code import told
from pipeline.registry import BUILT_IN, Kind, Part, is_name, registered, registering, unknown

GROUP = "emotionrankclap.plugins"
_RUN: list[Path] = []  # files, in the order that they were run in


def load_plugins(files: Sequence[str | Path]) -> None:
    """Run each Python file, once in a process, as `--plugin` does.

        load_plugins(["my_encoder.py"])

    Raises UsageError where one fails, or registers nothing.
    """
    for file in files:
        path = Path(file).expanduser().absolute()
        if path not in _RUN:
            _run(path)
            _RUN.append(path)


def loaded_files() -> list[Path]:
    """The files that were run in this process."""
    return list(_RUN)


def find(kind: Kind, name: str) -> Part:
    """What is registered under `name`, by a file or an installed package. Raises UsageError."""
    part = _look_up(kind, name)
    if part is None:
        found, _, action = unknown(kind, name).partition("; ")
        raise UsageError(f"{kind} {name}", found, "a registered one", f"{action[0].upper()}{action[1:]}")
    return part


def is_known(kind: Kind, name: str) -> bool:
    """Whether `name` is built in or registered."""
    return name in BUILT_IN[kind] or (is_name(name) and _look_up(kind, name) is not None)


def _look_up(kind: Kind, name: str) -> Part | None:
    part = registered(kind, name)
    if part is None:  # so that packages cost nothing until a name is missing
        _import_packages()
    return part or registered(kind, name)


@cache
def _import_packages() -> None:
    """Import every installed package that declares itself, once; one that fails is said and left out."""
    from importlib.metadata import entry_points  # here: it takes a tenth of loading a config

    from pipeline.progress import say

    for point in entry_points(group=GROUP):
        home = f"package {point.dist.name if point.dist else point.value}"
        try:
            with registering(home), told(f"plugin {point.name}", "", "a package that can be imported"):
                point.load()
        except EmotionRankError as error:
            say(f"{home} is left out: {error.subject}: {error.found}")


class _Loader(SourceFileLoader):
    """Python's, but that no bytecode is left beside the user's file."""

    def set_data(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def _run(path: Path) -> None:
    if path.suffix != ".py" or not path.is_file():
        found = "no Python file" if path.exists() else "no such file"
        raise UsageError(f"--plugin {path}", found, "a file like my_encoder.py", "Check the path.")
    name = f"plugin_{path.stem}_{hashlib.blake2b(bytes(path), digest_size=4).hexdigest()}"  # two may share a stem
    spec = spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what it imports from beside it; last, so that it hides nothing
    expected = "a file that Python can run"
    with registering(path) as parts, told(f"--plugin {path}", str(path), expected, kind=UsageError):
        spec.loader.exec_module(module)
    if not parts:
        expected = "register_audio_encoder, register_text_encoder or register_objective in it"
        raise UsageError(f"--plugin {path}", "registers nothing", expected, "Decorate a class or a function.")
