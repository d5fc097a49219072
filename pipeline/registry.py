"""Encoders and objectives by name: the built-in ones, and those that a user's own code registers.

    @register_audio_encoder("mine")
    class Mine: ...                      # docs/encoders.md

    @register_objective("my_loss", labels=("valence",))
    def my_loss(logits, batch, margin: float = 0.2): ...     # docs/objectives.md

Configs, stores and runs hold names only. The code behind them is run where the user asks for it (pipeline/plugins.py).
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from pipeline.errors import UsageError

Kind = Literal["audio encoder", "text encoder", "objective"]
F = TypeVar("F", bound=Callable[..., Any])
BUILT_IN: dict[Kind, tuple[str, ...]] = {
    "audio encoder": ("embedded", "wavlm_ser", "transformers"),
    "text encoder": ("embedded", "transformers"),
    "objective": ("rank_n_contrast", "soft_targets"),
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")  # it goes into configs, messages and file names
_LABELS = ("valence", "arousal", "dominance")
_GIVEN = 2  # parameters of a loss that are not settings: logits and batch


@dataclass(frozen=True)
class Part:
    """A registered encoder or objective."""

    kind: Kind
    name: str
    make: Callable[..., Any]  # an encoder's class or factory; an objective's loss
    version: int
    labels: tuple[str, ...] = ()  # without which a row is no use to the objective
    home: Path | str | None = None  # the plugin file or package that registered it; None: this process's own code
    source: str = ""  # the file that its code is in, as tracebacks name it; empty where it is in none

    @property
    def settings(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of a loss that a config may set."""
        return MappingProxyType(dict(list(inspect.signature(self.make).parameters.items())[_GIVEN:]))

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


_PARTS: dict[tuple[Kind, str], Part] = {}
_RUNNING: list[tuple[Path | str, list[Part]]] = []  # what is being run to register parts, and what it did


def register_audio_encoder(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Decorates a class or factory `(config: AudioConfig, device: str)`; its objects need three things.

        register_audio_encoder("mine")(LogMel)

    sample_rate: Hz. width: of a vector. encode(waves): a list of (samples,) float32 arrays -> (B, width).
    Raise `version` when the code changes what comes out; weights are hashed. Raises UsageError.
    """
    return _decorator("audio encoder", name, version)


def register_text_encoder(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Decorates a class or factory `(config: TextConfig, device: str)`; its objects need two things.

        register_text_encoder("my_words")(Words)

    width: of a vector. encode(sentences): a list of str -> (B, width). `version` is that of `register_audio_encoder`.
    Raises UsageError.
    """
    return _decorator("text encoder", name, version)


def register_objective(name: str, *, version: int = 1, labels: Sequence[str] = ()) -> Callable[[F], F]:
    """Decorates a loss `(logits, batch, **named settings) -> scalar`, differentiable in `logits`.

        register_objective("my_triplet", labels=("valence",))(my_triplet)

    logits: (B, B) cosine / temperature; row i is utterance i, column j the caption of utterance j.
    batch: `pipeline.objectives.own.Batch`. Rows without one of `labels` are not trained on. Raise `version` when the
    code changes what it computes. Raises UsageError.
    """
    if unknown := [label for label in labels if label not in _LABELS]:
        raise UsageError(f"objective {name}", f"label {unknown[0]!r:.60}", ", ".join(_LABELS), "Correct labels=(...).")
    return _decorator("objective", name, version, tuple(labels))


@contextmanager
def registering(home: Path | str) -> Iterator[list[Part]]:
    """What is registered meanwhile comes from `home`; yields it as it grows."""
    registered: list[Part] = []
    _RUNNING.append((home, registered))
    try:
        yield registered
    finally:
        _RUNNING.pop()


def registered(kind: Kind, name: str) -> Part | None:
    """The part of that name, if some code registered it."""
    return _PARTS.get((kind, name))


def is_name(name: object) -> bool:
    """Whether a part may be called so."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def is_plain(value: object) -> bool:
    """Whether a setting may be so: what YAML writes and reads back the same, and no more."""
    if isinstance(value, list | tuple):
        return all(not isinstance(each, list | tuple) and is_plain(each) for each in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | str | None) or (isinstance(value, int) and abs(value) < 2**63)


def unknown(kind: Kind, name: str) -> str:
    """What to say of a name that is none."""
    known = [*BUILT_IN[kind], *(part.name for part in _PARTS.values() if part.kind == kind)]
    close = difflib.get_close_matches(name[:60], known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)[:80]};"
    return f"no such {kind}; {hint} one of your own needs its file: --plugin mine.py"


def _decorator(kind: Kind, name: str, version: int, labels: tuple[str, ...] = ()) -> Callable[[F], F]:
    subject = f"{kind} {name!r:.70}"
    if not is_name(name) or name in BUILT_IN[kind]:
        found = "a built-in one's name" if is_name(name) else "no name"
        raise UsageError(subject, found, "a name of your own: a-z, 0-9 and _", "Choose another name.")
    if type(version) is not int or not 1 <= version < 2**31:
        raise UsageError(subject, f"version {version!r:.40}", "1 or more", "Count the changes of its code.")

    def decorate(make: F) -> F:
        if not callable(make):
            raise UsageError(subject, f"a {type(make).__name__}", "a class or a function", "Decorate one.")
        if kind == "objective":
            _check_signature(subject, make)
        home, news = _RUNNING[-1] if _RUNNING else (None, [])
        part = Part(kind, name, make, version, labels, home, _source(make))
        before = _PARTS.get((kind, name))
        if before and _origin(before.make) != _origin(make):
            places = " and ".join(":".join(_origin(each)) for each in (before.make, make))
            raise UsageError(subject, f"registered twice ({places})", "one of each name", "Rename one.")
        _PARTS[kind, name] = part
        news.append(part)
        return make

    return decorate


def _origin(make: Callable[..., Any]) -> tuple[str, str]:
    """Where code is written, so that a file that runs again, or a notebook's cell, replaces what it registered."""
    module = str(getattr(make, "__module__", ""))
    path = "" if module == "__main__" else _source(make)
    return path or module, str(getattr(make, "__qualname__", type(make).__name__))


def _source(make: Callable[..., Any]) -> str:
    try:
        return inspect.getsourcefile(inspect.unwrap(make)) or ""
    except TypeError:  # of a partial, an object with __call__, a notebook's class
        return ""


def _check_signature(subject: str, make: Callable[..., Any]) -> None:
    """Raises UsageError for a loss whose settings cannot be told from its signature."""
    parameters = list(inspect.signature(make).parameters.values())
    taken = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    if len(parameters) < _GIVEN or any(each.kind in taken for each in parameters):
        found = f"({', '.join(map(str, parameters))})"[:120]
        raise UsageError(subject, found, "(logits, batch, each setting by name)", "Correct its parameters.")
    for each in parameters[_GIVEN:]:
        if each.default is not each.empty and not is_plain(each.default):
            found = f"{each.name} = a {type(each.default).__name__}"
            raise UsageError(subject, found, "numbers, text, yes or no, and lists of them", "Make it inside the loss.")
