"""Plugins: custom encoders and losses, by name. Only files named on the command line and installed packages are run."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import logging
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationInfo
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from pipeline.core.errors import EmotionRankError, UsageError

log = logging.getLogger(__name__)

_LONGEST = 300  # of a reason


@contextmanager
def translate_errors(
    subject: object, source: str, expected: str, *, kind: type[EmotionRankError] = EmotionRankError
) -> Iterator[None]:
    """Raise `kind` in place of what code in the file `source` raises; memory's errors are whoever calls it's own."""
    try:
        yield
    except EmotionRankError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, RuntimeError) and _of_memory(error):
            raise
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST].rstrip(": ")
        raise kind(subject, f"{found} ({_place(error, source)})", expected, "Correct the code.") from error


def _of_memory(error: RuntimeError) -> bool:
    from pipeline.core.resources import out_of_memory

    return out_of_memory(error)


def _place(error: BaseException, source: str) -> str:
    """File and line: of the innermost call in `source`, else of where it was raised."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{Path(error.filename or source).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


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
class Plugin:
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


_PARTS: dict[tuple[Kind, str], Plugin] = {}
_RUNNING: list[tuple[Path | str, list[Plugin]]] = []  # what is being run to register parts, and what it did


def register_audio_encoder(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Decorates a class or factory `(config: AudioConfig, device: str)`; its objects need three things.

        register_audio_encoder("mine")(LogMel)

    sample_rate: Hz. dim: numbers in a vector. encode(waves): a list of (samples,) float32 arrays -> (B, dim).
    Raise `version` when the code changes what comes out; weights are hashed. Raises UsageError.
    """
    return _decorator("audio encoder", name, version)


def register_text_encoder(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Decorates a class or factory `(config: TextConfig, device: str)`; its objects need two things.

        register_text_encoder("my_words")(Words)

    dim: numbers in a vector. encode(sentences): a list of str -> (B, dim). `version`: see `register_audio_encoder`.
    Raises UsageError.
    """
    return _decorator("text encoder", name, version)


def register_objective(name: str, *, version: int = 1, labels: Sequence[str] = ()) -> Callable[[F], F]:
    """Decorates a loss `(logits, batch, **named settings) -> scalar`, differentiable in `logits`.

        register_objective("my_triplet", labels=("valence",))(my_triplet)

    logits: (B, B) cosine / temperature; row i is utterance i, column j the caption of utterance j.
    batch: `pipeline.objectives.base.Batch`. Rows without one of `labels` are not trained on. Raise `version` when the
    code changes what it computes. Raises UsageError.
    """
    if unknown := [label for label in labels if label not in _LABELS]:
        raise UsageError(f"objective {name}", f"label {unknown[0]!r:.60}", ", ".join(_LABELS), "Correct labels=(...).")
    return _decorator("objective", name, version, tuple(labels))


@contextmanager
def registering(home: Path | str) -> Iterator[list[Plugin]]:
    """What is registered meanwhile comes from `home`; yields it as it grows."""
    registered: list[Plugin] = []
    _RUNNING.append((home, registered))
    try:
        yield registered
    finally:
        _RUNNING.pop()


def registered(kind: Kind, name: str) -> Plugin | None:
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
        part = Plugin(kind, name, make, version, labels, home, _source(make))
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
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    if len(parameters) < _GIVEN or any(each.kind in variadic for each in parameters):
        found = f"({', '.join(map(str, parameters))})"[:120]
        raise UsageError(subject, found, "(logits, batch, each setting by name)", "Correct its parameters.")
    for each in parameters[_GIVEN:]:
        if each.default is not each.empty and not is_plain(each.default):
            found = f"{each.name} = a {type(each.default).__name__}"
            raise UsageError(subject, found, "numbers, text, yes or no, and lists of them", "Make it inside the loss.")


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


def find(kind: Kind, name: str) -> Plugin:
    """What is registered under `name`, by a file or an installed package. Raises UsageError."""
    part = _look_up(kind, name)
    if part is None:
        found, _, action = unknown(kind, name).partition("; ")
        raise UsageError(f"{kind} {name}", found, "a registered one", f"{action[0].upper()}{action[1:]}")
    return part


def is_known(kind: Kind, name: str) -> bool:
    """Whether `name` is built in or registered."""
    return name in BUILT_IN[kind] or (is_name(name) and _look_up(kind, name) is not None)


def _look_up(kind: Kind, name: str) -> Plugin | None:
    part = registered(kind, name)
    if part is None:  # so that packages cost nothing until a name is missing
        _import_packages()
    return part or registered(kind, name)


@cache
def _import_packages() -> None:
    """Import every installed package that declares itself, once; one that fails is said and left out."""
    from importlib.metadata import entry_points  # here: it takes a tenth of loading a config

    for point in entry_points(group=GROUP):
        home = f"package {point.dist.name if point.dist else point.value}"
        try:
            with registering(home), translate_errors(f"plugin {point.name}", "", "a package that can be imported"):
                point.load()
        except EmotionRankError as error:
            log.warning(f"{home} is left out: {error.subject}: {error.found}")


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
    with registering(path) as parts, translate_errors(f"--plugin {path}", str(path), expected, kind=UsageError):
        spec.loader.exec_module(module)
    if not parts:
        expected = "register_audio_encoder, register_text_encoder or register_objective in it"
        raise UsageError(f"--plugin {path}", "registers nothing", expected, "Decorate a class or a function.")


ASKED = {"asked": True}  # the context of a config that somebody asks for
CUSTOM = "own_objective"  # the tag of an objective that is not built in
_FIELDS = ("name", "version", "settings")  # of such an objective's model


def _plain(value: Any) -> Any:
    if not is_plain(value):
        raise _problem("a setting is a number, text, yes or no, or a list of them")
    return list(value) if isinstance(value, tuple) else value


Setting = Annotated[Any, AfterValidator(_plain)]


def encoder_name(kind: Kind) -> AfterValidator:
    """A name that is, or where the code is not needed may be, that of an encoder."""

    def check(name: str, info: ValidationInfo) -> str:
        if not is_name(name) or (info.context == ASKED and not is_known(kind, name)):
            raise _problem(unknown(kind, name))
        return name

    return AfterValidator(check)


def objective_tag(tree: Any) -> str | None:
    """Which model of an objective a tree is of; None where it has no name."""
    name = tree.get("name") if isinstance(tree, Mapping) else getattr(tree, "name", None)
    if not is_name(name):
        return None
    return name if name in BUILT_IN["objective"] else CUSTOM


def known_objective(tree: Any, info: ValidationInfo) -> Any:
    """`tree`, if its objective is registered, or need not be, and its settings stand where they belong."""
    if info.context != ASKED:
        return tree
    name = str(tree["name"] if isinstance(tree, Mapping) else tree.name)
    if not is_known("objective", name):
        raise _problem(unknown("objective", name))
    astray = [key for key in find("objective", name).settings if isinstance(tree, Mapping) and key in tree]
    if astray := [key for key in astray if key not in _FIELDS]:
        raise _problem(f"a setting of your own stands under settings: objective.settings.{astray[0]}")
    return tree


def version_of(name: str, given: int | None) -> int:
    """The version of the registered code, which must be the one `given`, if any is."""
    version = find("objective", name).version
    if given not in (None, version):
        raise _problem(f"the code that is registered is version {version}; leave it out for that, or restore the code")
    return version


def settings_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` as the registered loss takes them, with its defaults."""
    part = find("objective", name)
    if astray := [key for key in given if key not in part.settings]:
        close = difflib.get_close_matches(astray[0], part.settings, n=1)
        rest = f"did you mean {close[0]}?" if close else f"{name} has {', '.join(part.settings) or 'none'}"
        raise _problem(f"no such setting: {ascii(astray[0])[:60]}; {rest}")
    adapter = _adapter_of(part)
    defaults = {key: each.default for key, each in part.settings.items() if each.default is not each.empty}
    checked: dict[str, Any] = adapter.dump_python(adapter.validate_python(defaults | dict(given)), mode="json")
    return checked


@lru_cache(maxsize=64)
def _adapter_of(part: Plugin) -> TypeAdapter[Any]:
    """The settings of a loss as its annotations have them, or else as its defaults are."""
    try:
        annotated = inspect.signature(part.make, eval_str=True).parameters
        # no model: a setting may be called whatever a parameter may
        fields = TypedDict("fields", {key: _type(annotated[key]) for key in part.settings})  # type: ignore[misc]
        fields.__pydantic_config__ = ConfigDict(allow_inf_nan=False)  # type: ignore[attr-defined]
        return TypeAdapter(fields)
    except (NameError, AttributeError, TypeError, PydanticUserError) as error:
        reason = str(error).splitlines()[0][:80]
        raise _problem(f"its annotations cannot be used ({reason}); plain ones, such as float, can") from None


def _type(parameter: inspect.Parameter) -> Any:
    if parameter.annotation is not parameter.empty:
        return parameter.annotation
    kind = type(parameter.default)
    return kind if kind in (bool, int, float, str) else Setting


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("own_part", "{text}", {"text": text})
