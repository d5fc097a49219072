"""Settings out of presets, YAML files and the command line, and what is wrong with one in one line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.core.config import CustomObjectiveConfig as CustomObjectiveConfig
from pipeline.core.config import Model as Model
from pipeline.core.config import Seed as Seed
from pipeline.core.config import SoftTargetsConfig as SoftTargetsConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.core.files import ValuesRefused, parse_yaml, read_yaml
from pipeline.core.plugins import ASKED, CUSTOM

_TAGS = ("rank_n_contrast", "soft_targets", CUSTOM)  # pydantic puts them into the path of an error
_BRANCH = re.compile(r"(literal|function-\w+|constrained-\w+|nullable)\[.*")  # pydantic's names of a union's parts
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


def explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    """`subject.setting = value: reason`, on one line, with a suggestion for a name that there is not."""
    path = ".".join(str(part) for part in detail["loc"] if part not in _TAGS and not _BRANCH.match(str(part)))
    name = path if path.isprintable() and len(path) < 120 else quoted_value(path)
    if detail["type"] == "extra_forbidden":
        return f"{name}: no such setting{_nearest(path[:60], tuple(_fields(model)))}"
    if detail["type"] == "missing":
        return f"{name}: not given"
    message = detail["msg"] if detail["msg"].isprintable() else quoted_value(detail["msg"])
    said = message[:200].lower().removeprefix("value error, ")
    return f"{name} = {quoted_value(detail['input'])}: {said}" if name else said  # no name: the whole makes no sense


def quoted_value(value: object) -> str:
    """`value` on one line, cut where it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number too long"


@lru_cache(maxsize=1024)
def _nearest(path: str, known: tuple[str, ...]) -> str:
    if path in known:  # of one part of a union, and another was chosen
        return f" of this {path.split('.')[0]}"
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.5) or [
        name for name in known if name.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]
    ]
    return f"; did you mean {close[0]}?" if close else ""


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield prefix + name
        for annotated in (info.annotation, *get_args(info.annotation)):
            part = getattr(annotated, "__origin__", annotated)
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _fields(part, f"{prefix}{name}.")


Tree = dict[str, Any]
_HERE = Path(__file__).resolve().parents[1]  # pipeline/
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".json")
_DEEPEST = 8  # levels of an override's key, and of presets that build on each other
M = TypeVar("M", bound=Model)


def load_config(
    model: type[M], name: str | Path | Sequence[str] | None, overrides: Sequence[str] = (), *, kind: str
) -> M:
    """Resolve `name` (presets, YAML or manifest paths, later ones on top) and `overrides` (`a.b=value`) into a `model`.

    `kind` is the folder of `configs/` that presets are looked up in. Raises UsageError with all problems at once.
    """
    names = [] if name is None else [str(name)] if isinstance(name, str | Path) else list(name)
    tree: Tree = {}
    for each in names:
        tree = merge(tree, _named(each, kind))
    for override in overrides:
        tree = merge(tree, _override(override))
    return validate(model, tree, subject=" + ".join(names) or "the settings", context=ASKED)


def validate(model: type[M], tree: Mapping[str, Any], *, subject: str, context: dict[str, bool] | None = None) -> M:
    """Check `tree` against `model`. Raises UsageError that lists every wrong key and value.

    In the `context` ASKED, encoders and objectives of one's own must be registered.
    """
    try:
        return model.model_validate(tree, context=context)
    except ValidationError as error:
        lines = dict.fromkeys(f"{subject}: {explain(model, detail)}" for detail in error.errors(include_url=False))
        raise ManyProblems(subject, list(lines), "Correct the config or the -o overrides.") from None


def merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    """`base` with `over` laid on top, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def dump(config: Model) -> str:
    """The resolved config as YAML, every field written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def preset_names(kind: str) -> list[str]:
    """Names of the presets of `kind` (`corpora`, `methods`, `encoders`)."""
    return sorted(path.stem for path in (_configs() / kind).glob("*.yaml"))


def word_list(name: str) -> Tree:
    """A word list that is shipped as data: `configs/<name>.yaml`, such as `captions/acoustic`."""
    return read_yaml(_configs() / f"{name}.yaml")


def _configs() -> Path:
    inside = _HERE / "configs"  # in a wheel
    return inside if inside.is_dir() else _HERE.parent / "configs"


def _named(name: str, kind: str, under: tuple[str, ...] = ()) -> Tree:
    """The tree of one name; `under` are the files that name it as their base, outermost first."""
    path = Path(name)
    if path.suffix in MANIFEST_SUFFIXES and kind == "corpora":
        return {"corpus": {"reader": "manifest", "manifest": str(path)}}
    if path.suffix not in (".yaml", ".yml"):
        preset = _configs() / f"{name}.yaml" if "/" in name else _configs() / kind / f"{name}.yaml"
        if not os.path.isfile(preset):
            raise _no_preset(name, kind, under)
        path, kind = preset, preset.parent.name
    if len(under) >= _DEEPEST:
        raise UsageError(under[0], "base: it builds on itself", "presets that end somewhere", "Correct the file.")
    return _with_bases(read_yaml(path), kind, (*under, str(path)))


def _no_preset(name: str, kind: str, under: tuple[str, ...]) -> UsageError:
    folder, _, last = name.rpartition("/")
    known = preset_names(folder if folder in os.listdir(_configs()) else kind)
    close = difflib.get_close_matches(last[:60], known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Presets: {', '.join(known)}."
    expected = "a preset's name or a YAML file"
    if kind == "corpora" and not folder:
        expected = "a preset's name, a YAML file or a manifest (.csv, .jsonl)"
    subject = name if name.isprintable() and 0 < len(name) < 200 else quoted_value(name)
    return UsageError(f"{under[-1]}: base {subject}" if under else subject, "no such preset or file", expected, hint)


def _with_bases(tree: Tree, kind: str, under: tuple[str, ...]) -> Tree:
    given = tree.pop("base", [])
    bases = [given] if isinstance(given, str) else given
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UsageError(
            under[-1], f"base = {quoted_value(given)}", "a preset's name, or a list of them", "Correct the file."
        )
    merged: Tree = {}
    for base in bases:
        merged = merge(merged, _named(base, kind, under))
    return merge(merged, tree)


def _override(text: str) -> Tree:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    subject = f"-o {text if text.isprintable() and len(text) < 200 else quoted_value(text)}"
    if not equals or not all(parts):
        found = "an empty name" if equals else "no `=`"
        raise UsageError(subject, found, "a.b=value", "Write for example -o audio.max_seconds=8.")
    if len(parts) > _DEEPEST:
        raise UsageError(subject, f"{len(parts)} levels of names", f"at most {_DEEPEST}", "Correct it.")
    try:
        tree = parse_yaml(value)
    except ValuesRefused as error:
        raise UsageError(subject, str(error.problem), "one setting's value", "Correct it.") from None
    except yaml.YAMLError:
        tree = value
    if isinstance(tree, str):  # YAML 1.1 reads 1e-3 as text
        try:
            tree = float(tree)
        except ValueError:
            pass
    for part in reversed(parts):
        tree = {part: tree}
    return dict(tree)
