"""Plugins: custom encoders and losses, registered by name in Python files and installed packages.

    extract-features my/manifest.csv --plugin my_encoder.py -o audio.encoder=my_encoder

Only a file that the user names and a package that declares the entry point group `emotionrankclap.plugins` are run.
The chapter's four parts: the registry, loading, the settings of a loss, errors of a plugin's code.
"""

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
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError
from typing_extensions import TypedDict

from cache.errors import EmotionRankError, UsageError

log = logging.getLogger(__name__)

Kind = Literal["audio encoder", "text encoder", "objective"]
F = TypeVar("F", bound=Callable[..., Any])
BUILT_IN: dict[Kind, tuple[str, ...]] = {
    "audio encoder": ("embedded", "wavlm_ser", "transformers", "paraspeechclap"),
    "text encoder": ("embedded", "transformers", "paraspeechclap"),
    "objective": ("rank_n_contrast", "soft_targets", "ridge", "no_heads"),
}
CUSTOM_OBJECTIVE = "custom_objective"  # what pydantic calls an objective that is not built in
ENTRY_POINT_GROUP = "emotionrankclap.plugins"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")  # it goes into configs, messages and file names
_LABELS = ("valence", "arousal", "dominance")


@dataclass(frozen=True)
class Plugin:
    """A registered encoder or objective."""

    kind: Kind
    name: str
    make: Callable[..., Any]  # an encoder's class or factory; an objective's loss
    version: int
    labels: tuple[str, ...]  # an objective trains only on rows that have all of them
    registered_by: Path | str | None  # the plugin file or package; None: code of this process alone
    source: str  # the code's file, as tracebacks name it; empty where there is none

    @property
    def settings(self) -> dict[str, inspect.Parameter]:
        """The parameters of a loss that a config may set: all after (logits, batch)."""
        return dict(list(inspect.signature(self.make).parameters.items())[2:])

    @property
    def definition(self) -> str:
        """File (or module) and name of the code: a file or a notebook's cell that runs again has the same one."""
        module = str(getattr(self.make, "__module__", ""))
        place = module if module == "__main__" else self.source or module
        return f"{place}:{getattr(self.make, '__qualname__', type(self.make).__name__)}"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


_REGISTRY: dict[tuple[Kind, str], Plugin] = {}
_LOADING: list[Path | str] = []  # the plugin files and packages that are being run, innermost last
_LOADED_FILES: list[Path] = []  # in the order in which they were run


def register_audio_encoder(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Decorates a class or factory `(config: AudioConfig, device: str)` of speech encoders with three members.

        register_audio_encoder("mine")(LogMel)

    sample_rate: Hz. dim: numbers in a vector. encode(waves): a list of (samples,) float32 arrays -> (B, dim).
    Raise `version` when the code changes what comes out; weights are hashed. Raises UsageError.
    """
    return _decorator("audio encoder", name, version)


def register_text_encoder(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Decorates a class or factory `(config: TextConfig, device: str)` of text encoders with two members.

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
    for label in labels:
        if label not in _LABELS:
            found, expected = f"label {label!r:.60}", ", ".join(_LABELS)
            raise UsageError(f"objective {name}", found, expected, "Correct labels=(...).")
    return _decorator("objective", name, version, tuple(labels))


def _decorator(kind: Kind, name: str, version: int, labels: tuple[str, ...] = ()) -> Callable[[F], F]:
    subject = f"{kind} {name!r:.70}"
    if not is_valid_name(name) or name in BUILT_IN[kind]:
        found = "the name of a built-in one" if is_valid_name(name) else "not a valid name"
        raise UsageError(subject, found, "a name of a-z, 0-9 and _ that is not taken", "Choose another name.")
    if type(version) is not int or not 1 <= version < 2**31:
        raise UsageError(subject, f"version {version!r:.40}", "1 or more", "Count the changes of its code.")

    def decorate(make: F) -> F:
        if not callable(make):
            raise UsageError(subject, f"a {type(make).__name__}", "a class or a function", "Decorate one.")
        if kind == "objective":
            _check_signature(subject, make)
        registered_by = _LOADING[-1] if _LOADING else None
        plugin = Plugin(kind, name, make, version, labels, registered_by, _source_file(make))
        before = _REGISTRY.get((kind, name), plugin)
        if before.definition != plugin.definition:
            found = f"registered twice ({before.definition} and {plugin.definition})"
            raise UsageError(subject, found, "one of each name", "Rename one.")
        _REGISTRY[kind, name] = plugin
        return make

    return decorate


def is_valid_name(name: object) -> bool:
    """Whether a plugin may be called so."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _source_file(make: Callable[..., Any]) -> str:
    try:
        return inspect.getsourcefile(inspect.unwrap(make)) or ""
    except TypeError:  # of a partial, an object with __call__, a notebook's class
        return ""


def _check_signature(subject: str, loss: Callable[..., Any]) -> None:
    """Raises UsageError for a loss whose settings cannot be read from its signature."""
    parameters = list(inspect.signature(loss).parameters.values())
    if len(parameters) < 2 or any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):
        found = f"({', '.join(map(str, parameters))})"[:120]
        raise UsageError(subject, found, "(logits, batch, each setting by name)", "Correct its parameters.")
    for each in parameters[2:]:
        try:
            _check_setting(None if each.default is each.empty else each.default)
        except ValueError:
            found, expected = (
                f"{each.name} = a {type(each.default).__name__}",
                "numbers, text, yes or no, lists of them",
            )
            raise UsageError(subject, found, expected, "Make it inside the loss.") from None


def load_plugins(files: Sequence[str | Path]) -> None:
    """Run each Python file, once in a process, as `--plugin` does.

        load_plugins(["my_encoder.py"])

    Raises UsageError where one fails, or registers nothing.
    """
    for file in files:
        path = Path(file).expanduser().absolute()
        if path not in _LOADED_FILES:
            _run_file(path)
            _LOADED_FILES.append(path)


def loaded_files() -> list[Path]:
    """The plugin files that were run in this process."""
    return list(_LOADED_FILES)


def find(kind: Kind, name: str) -> Plugin:
    """The plugin registered as `name`, by this process, a plugin file or an installed package. Raises UsageError."""
    if (kind, name) not in _REGISTRY and is_valid_name(name):  # packages cost nothing until a name is missing
        _import_packages()
    if (kind, name) in _REGISTRY:
        return _REGISTRY[kind, name]
    known = [*BUILT_IN[kind], *(plugin.name for plugin in _REGISTRY.values() if plugin.kind == kind)]
    close = difflib.get_close_matches(name[:60], known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(known)[:80]};"
    action = f"{hint} a custom one needs its plugin file: --plugin mine.py"
    raise UsageError(f"{kind} {name}", f"no such {kind}", "a registered one", action)


@cache
def _import_packages() -> None:
    """Import every installed package that declares itself, once; one that fails is logged and left out."""
    from importlib.metadata import entry_points  # here: it takes a tenth of loading a config

    for point in entry_points(group=ENTRY_POINT_GROUP):
        package = f"package {point.dist.name if point.dist else point.value}"
        try:
            with translate_errors(f"plugin {point.name}", "", "a package that can be imported"):
                _run(package, point.load)
        except EmotionRankError as error:
            log.warning(f"{package} is left out: {error.subject}: {error.found}")


def _run(registered_by: Path | str, code: Callable[[], object]) -> None:
    _LOADING.append(registered_by)
    try:
        code()
    finally:
        _LOADING.pop()


class _Loader(SourceFileLoader):
    """Python's, without bytecode written beside the user's file."""

    def set_data(self, *_: Any, **__: Any) -> None:
        """Write nothing."""


def _run_file(path: Path) -> None:
    subject = f"--plugin {path}"
    if path.suffix != ".py" or not path.is_file():
        found = "not a Python file" if path.exists() else "no such file"
        raise UsageError(subject, found, "a file like my_encoder.py", "Check the path.")
    name = f"plugin_{path.stem}_{hashlib.blake2b(bytes(path), digest_size=4).hexdigest()}"  # two may share a stem
    loader = _Loader(name, str(path))
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = sys.modules[name] = module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what it imports from beside it; last, so that it hides nothing
    with translate_errors(subject, str(path), "a file that Python can run", kind=UsageError):
        _run(path, lambda: loader.exec_module(module))
    if not any(plugin.registered_by == path for plugin in _REGISTRY.values()):
        expected = "register_audio_encoder, register_text_encoder or register_objective in it"
        raise UsageError(subject, "registers nothing", expected, "Decorate a class or a function.")


def _check_setting(value: Any) -> Any:
    """A setting that YAML writes and reads back the same: a number, text, yes or no, none, or a flat list of them."""
    for each in value if isinstance(value, list | tuple) else [value]:
        finite = not isinstance(each, float) or math.isfinite(each)
        short = not isinstance(each, int) or abs(each) < 2**63
        if not (isinstance(each, int | float | str | None) and finite and short):
            raise ValueError("a setting is a number, text, yes or no, or a list of them")
    return list(value) if isinstance(value, tuple) else value


SettingValue = Annotated[Any, AfterValidator(_check_setting)]


def check_settings(loss: Plugin, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` as the `loss` takes them, with its defaults. Raises ValueError (pydantic's for what it can place)."""
    for key in settings:
        if key not in loss.settings:
            close = difflib.get_close_matches(key, loss.settings, n=1)
            hint = f"did you mean {close[0]}?" if close else f"{loss.name} has {', '.join(loss.settings) or 'none'}"
            raise ValueError(f"no such setting: {ascii(key)[:60]}; {hint}")
    adapter = _settings_adapter(loss)
    defaults = {key: each.default for key, each in loss.settings.items() if each.default is not each.empty}
    checked: dict[str, Any] = adapter.dump_python(adapter.validate_python(defaults | dict(settings)), mode="json")
    return checked


@lru_cache(maxsize=64)
def _settings_adapter(loss: Plugin) -> TypeAdapter[Any]:
    """Types each setting by its annotation, else by its default."""
    types: dict[str, Any] = {}
    try:
        for key, parameter in list(inspect.signature(loss.make, eval_str=True).parameters.items())[2:]:
            default = type(parameter.default)
            types[key] = default if default in (bool, int, float, str) else SettingValue
            if parameter.annotation is not parameter.empty:
                types[key] = parameter.annotation
        fields = TypedDict("fields", types)  # type: ignore[misc]  # not a model: a setting may be called `copy`
        fields.__pydantic_config__ = ConfigDict(allow_inf_nan=False)  # type: ignore[attr-defined]
        return TypeAdapter(fields)
    except (NameError, AttributeError, TypeError, PydanticUserError) as error:
        reason = str(error).splitlines()[0][:80]
        raise ValueError(f"its annotations cannot be used ({reason}); plain ones, such as float, can") from None


@contextmanager
def translate_errors(
    subject: object, source: str, expected: str, *, kind: type[EmotionRankError] = EmotionRankError
) -> Iterator[None]:
    """Raise `kind`, with file and line, for any error of a plugin's code in the file `source` but a lack of memory."""
    try:
        yield
    except EmotionRankError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, RuntimeError):
            from pipeline.core.resources import out_of_memory  # here: it imports torch

            if out_of_memory(error):
                raise
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip(": ")
        raise kind(subject, f"{found} ({_location(error, source)})", expected, "Correct the code.") from error


def _location(error: BaseException, source: str) -> str:
    """File and line of the innermost call in `source`, else of where `error` was raised."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{Path(error.filename or source).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    in_source = [frame for frame in frames if frame.filename == source]
    innermost = (in_source or frames)[-1]
    return f"{Path(innermost.filename).name}:{innermost.lineno}"
