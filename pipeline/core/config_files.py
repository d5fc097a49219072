"""Configs resolved from presets, YAML files and the command line; each wrong setting is explained in one line.

PyYAML is narrowed here: no tags, dates or repeated keys, and limits on size and depth that it lacks.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cache.errors import ManyProblems, UsageError
from pipeline.core.fields import REQUIRE_PLUGINS, Model
from pipeline.core.files import open_regular
from pipeline.core.objective_config import CUSTOM_OBJECTIVE
from pipeline.core.settings import setting_names, synonym

Tree = dict[str, Any]
M = TypeVar("M", bound=Model)
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".json")
_PIPELINE = Path(__file__).resolve().parents[1]
_MAX_DEPTH = 8  # levels of an override's key, and of presets that build on each other
_TAGS = ("rank_n_contrast", "soft_targets", CUSTOM_OBJECTIVE)  # pydantic puts them into the path of an error
_UNION_BRANCH = re.compile(r"(literal|function-\w+|constrained-\w+|nullable)\[.*")  # and these names, of a union
_SHORT_REPR = Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = _SHORT_REPR.maxlong = 120


def load_config(
    model: type[M], name: str | Path | Sequence[str] | None, overrides: Sequence[str] = (), *, kind: str
) -> M:
    """Resolve `name` (presets, YAML or manifest paths, later ones on top) and `overrides` (`a.b=value`) into a `model`.

    `kind` is the folder of `configs/` that presets are looked up in. Raises UsageError with all problems at once.
    """
    names = [] if name is None else [str(name)] if isinstance(name, str | Path) else list(name)
    tree: Tree = {}
    for layer in [*(_read_named(each, kind) for each in names), *map(parse_override, overrides)]:
        tree = merge(tree, layer)
    return validate(model, tree, subject=" + ".join(names) or "the settings", context=REQUIRE_PLUGINS)


def validate(model: type[M], tree: Mapping[str, Any], *, subject: str, context: dict[str, bool] | None = None) -> M:
    """Check `tree` against `model`. Raises UsageError that lists every wrong key and value.

    In the `context` REQUIRE_PLUGINS, custom encoders and losses must be registered.
    """
    try:
        return model.model_validate(tree, context=context)
    except ValidationError as error:
        lines = dict.fromkeys(f"{subject}: {explain(model, detail)}" for detail in error.errors(include_url=False))
        raise ManyProblems(subject, list(lines), "Correct the config or the -o overrides.") from None


def validate_file(model: type[M], path: Path) -> M:
    """The `model` that a YAML file holds. Raises UsageError with all problems at once."""
    return validate(model, read_yaml(path), subject=str(path))


def merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    """`base` updated by `over`, mapping by mapping."""
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


@cache
def word_list(name: str) -> Tree:
    """The data file `configs/{name}.yaml`: words, points or conventions. Not to be changed by the caller."""
    return read_yaml(_configs() / f"{name}.yaml")


def _configs() -> Path:
    in_wheel = _PIPELINE / "configs"
    return in_wheel if in_wheel.is_dir() else _PIPELINE.parent / "configs"


def _read_named(name: str, kind: str, parents: tuple[str, ...] = ()) -> Tree:
    """The settings that `name` stands for, on top of its bases; `parents` are the files that build on it."""
    path = Path(name)
    if path.suffix in MANIFEST_SUFFIXES and kind == "corpora":
        return {"corpus": {"reader": "manifest", "manifest": str(path)}}
    if path.suffix not in (".yaml", ".yml"):
        preset = _configs() / f"{name}.yaml" if "/" in name else _configs() / kind / f"{name}.yaml"
        if not os.path.isfile(preset):
            raise _no_such_preset(name, kind, parents)
        path, kind = preset, preset.parent.name
    if len(parents) >= _MAX_DEPTH:
        raise UsageError(parents[0], "base: it builds on itself", f"at most {_MAX_DEPTH} files", "Correct the file.")
    tree = read_yaml(path)
    base = tree.pop("base", [])
    bases = [base] if isinstance(base, str) else base
    if not isinstance(bases, list) or not all(isinstance(each, str) for each in bases):
        found = f"base = {short_repr(base)}"
        raise UsageError(path, found, "a preset's name, or a list of them", "Correct the file.")
    merged: Tree = {}
    for each in bases:
        merged = merge(merged, _read_named(each, kind, (*parents, str(path))))
    return merge(merged, tree)


def _no_such_preset(name: str, kind: str, parents: tuple[str, ...]) -> UsageError:
    folder, _, last = name.rpartition("/")
    known = preset_names(folder if folder in os.listdir(_configs()) else kind)
    close = difflib.get_close_matches(last[:60], known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Presets: {', '.join(known)}."
    expected = "a preset's name or a YAML file"
    if kind == "corpora" and not folder:
        expected = "a preset's name, a YAML file or a manifest (.csv, .jsonl)"
    subject = name if name.isprintable() and 0 < len(name) < 200 else short_repr(name)
    if parents:
        subject = f"{parents[-1]}: base {subject}"
    return UsageError(subject, "no such preset or file", expected, hint)


def parse_override(text: str) -> Tree:
    """`a.b=value` as a tree. Raises UsageError."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    subject = f"-o {text if text.isprintable() and len(text) < 200 else short_repr(text)}"
    if not equals or not all(parts):
        found = "an empty name" if equals else "no `=`"
        raise UsageError(subject, found, "a.b=value", "Write for example -o audio.max_seconds=8.")
    if len(parts) > _MAX_DEPTH:
        raise UsageError(subject, f"{len(parts)} levels of names", f"at most {_MAX_DEPTH}", "Correct it.")
    try:
        tree = parse_yaml(value)
    except YamlRefused as error:
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


def explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    """`subject.setting = value: reason`, on one line, with a suggestion for a name that there is not."""
    path = ".".join(str(part) for part in detail["loc"] if part not in _TAGS and not _UNION_BRANCH.match(str(part)))
    name = path if path.isprintable() and len(path) < 120 else short_repr(path)
    if detail["type"] == "extra_forbidden":
        return f"{name}: no such setting{_suggestion(path[:60], setting_names(model))}"
    if detail["type"] == "missing":
        return f"{name}: not given"
    message = detail["msg"] if detail["msg"].isprintable() else short_repr(detail["msg"])
    reason = message[:200].lower().removeprefix("value error, ")
    return f"{name} = {short_repr(detail['input'])}: {reason}" if name else reason  # no name: the whole config is wrong


def short_repr(value: object) -> str:
    """`value` on one line, cut where it is long."""
    try:
        return _SHORT_REPR.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number too long"


@lru_cache(maxsize=1024)
def _suggestion(path: str, known: tuple[str, ...]) -> str:
    if path in known:  # of one part of a union, and another was chosen
        return f" of this {path.split('.')[0]}"
    if meant := synonym(path, known):
        return f"; did you mean {meant}?" if meant in known else f"; {meant}"
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.5) or [
        name for name in known if name.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]
    ]
    return f"; did you mean {close[0]}?" if close else ""


_MAX_YAML_BYTES = 1 << 20
_MAX_YAML_VALUES = 10_000
_MAX_YAML_DEPTH = 100  # brackets in brackets
_TAG_PREFIX = "tag:yaml.org,2002:"
_PLAIN_TAGS = tuple(f"{_TAG_PREFIX}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
_BAD_VALUE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError)  # as `!!bool maybe` raises


class YamlRefused(yaml.MarkedYAMLError):
    """YAML that is well formed but not a config: too large or too deep, or a repeated key."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, sets and bytes: `2024-01-01` is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN_TAGS or tag.endswith(":merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token: Any) -> None:
        """The reader looks ahead from every open bracket: thousands of them take seconds."""
        if self.flow_level >= _MAX_YAML_DEPTH:
            raise YamlRefused(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _PLAIN_TAGS:
            raise yaml.constructor.ConstructorError(None, None, f"a value of tag {node.tag[:60]!r}", node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except _BAD_VALUE:
            kind = node.tag.removeprefix(_TAG_PREFIX)
            raise yaml.constructor.ConstructorError(None, None, f"no value of kind {kind}", node.start_mark) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UsageError with the line of what is wrong."""
    with open_regular(path, "rb", expected="a YAML file") as file:
        raw = file.read(_MAX_YAML_BYTES + 1)
    if len(raw) > _MAX_YAML_BYTES:
        raise UsageError(path, f"more than {_MAX_YAML_BYTES:,} bytes", "a config", "Check the path.")
    try:
        tree = parse_yaml(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = 1 + raw.count(b"\n", 0, error.start)
        raise UsageError(f"{path}:{line}", "not UTF-8", "YAML in UTF-8", "Correct the file.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        found = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML")
        raise UsageError(where, found, "valid YAML", "Correct the file.") from None
    if not isinstance(tree, dict):
        found = "empty" if tree is None else f"a {type(tree).__name__}"
        raise UsageError(path, found, "a mapping of settings", "Correct the file.")
    return tree


def parse_yaml(text: str) -> Any:
    """The value of `text`. Raises yaml.YAMLError, with a `problem` and its place where it has one."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size_and_keys(node)
        return loader.construct_document(node)
    except RecursionError:
        raise YamlRefused(problem="nested too deeply") from None
    finally:
        loader.dispose()


def _check_size_and_keys(root: yaml.Node) -> None:
    """Count values as if aliases were written out, before any is made: an alias bomb is small in bytes.

    Raises YamlRefused, also for a repeated key.
    """
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > _MAX_YAML_VALUES:
            found = f"more than {_MAX_YAML_VALUES:,} values, aliases written out"
            raise YamlRefused(problem=found, problem_mark=root.start_mark)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG_PREFIX}merge":
                    if key.value in seen:
                        raise YamlRefused(problem=f"{key.value[:60]!r} appears twice", problem_mark=key.start_mark)
                    seen.add(key.value)
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
