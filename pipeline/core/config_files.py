"""What every config is made of, and how one is resolved from presets, YAML files and the command line.

PyYAML is narrowed here: no tags, dates or repeated keys, and limits on size and depth that it lacks.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from cache.errors import UsageError
from pipeline.core.files import open_regular
from pipeline.core.plugins import BUILT_IN, Kind, find, is_valid_name
from pipeline.core.presets import configs_folder, preset_names
from pipeline.core.settings import WrongSettings, explain, short_repr

Tree = dict[str, Any]
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".json")
_MAX_DEPTH = 8  # levels of an override's key, and of presets that build on each other

REQUIRE_PLUGINS = {"require_plugins": True}  # validation context: the plugins that a config names must be registered
_INT_LIMIT = 2**31  # of any whole number: beyond it C code overflows, and nothing here counts that far


def _not_bool(value: object) -> object:
    """`epochs: yes` is a mistake, not one epoch."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not yes or no")
    return value


Whole = Annotated[int, BeforeValidator(_not_bool), Field(gt=-_INT_LIMIT, lt=_INT_LIMIT)]
Number = Annotated[float, BeforeValidator(_not_bool)]
Seed = Annotated[
    int, BeforeValidator(_not_bool), Field(ge=0, lt=2**63)
]  # numpy refuses negative ones, torch larger ones


class Model(BaseModel):
    """A part of a config: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def require_plugin(kind: Kind, name: str) -> None:
    """Raises ValueError for a name that is neither built in nor registered."""
    try:
        if name not in BUILT_IN[kind]:
            find(kind, name)
    except UsageError as error:
        raise ValueError(f"{error.found}; {error.action}") from None


def encoder_name(kind: Kind) -> AfterValidator:
    """The check of a setting that names an encoder: built in, or registered where plugins are required."""

    def check(name: str, info: ValidationInfo) -> str:
        if not is_valid_name(name) or info.context == REQUIRE_PLUGINS:
            require_plugin(kind, name)
        return name

    return AfterValidator(check)


M = TypeVar("M", bound=Model)


_YAML = (".yaml", ".yml")
_ONE_OF = {"corpora": "corpus", "methods": "method", "sweeps": "sweep"}  # what a preset of each folder is called


def load_config(
    model: type[M],
    name: str | Path | Sequence[str] | None,
    overrides: Sequence[str] = (),
    *,
    kind: str,
    option: str = "-o",
) -> M:
    """Resolve `name` (presets, YAML or manifest paths, later ones on top) and `overrides` (`a.b=value`) into a `model`.

    `kind` is the folder of `configs/` that presets are looked up in, `option` the commands' option for `overrides`.
    Raises UsageError with all problems at once.
    """
    names = [] if name is None else [str(name)] if isinstance(name, str | Path) else list(name)
    tree: Tree = {}
    for layer in [*(_read_named(each, kind) for each in names), *(parse_override(each, option) for each in overrides)]:
        tree = merge(tree, layer)
    of_presets = [each if Path(each).suffix or "/" in each else f"{_ONE_OF[kind]} {each}" for each in names]
    subject = " + ".join(of_presets) or ("evaluation settings" if kind == "evaluations" else "the settings")
    wrong = ["the file"] * any(each.endswith(_YAML) for each in names) + [f"the {option} options"] * bool(overrides)
    return validate(
        model,
        tree,
        subject=subject,
        action=f"Correct {' or '.join(wrong) or 'the settings'}.",
        context=REQUIRE_PLUGINS,
    )


def validate(
    model: type[M],
    tree: Mapping[str, Any],
    *,
    subject: str,
    action: str = "Correct the settings.",
    context: dict[str, bool] | None = None,
) -> M:
    """Check `tree` against `model`. Raises UsageError that lists every wrong key and value, and advises `action`.

    In the `context` REQUIRE_PLUGINS, custom encoders and losses must be registered.
    """
    try:
        return model.model_validate(tree, context=context)
    except ValidationError as error:
        raise WrongSettings(subject, explain(model, error), action) from None


def validate_file(model: type[M], path: Path) -> M:
    """The `model` that a YAML file holds. Raises UsageError with all problems at once."""
    return validate(model, read_yaml(path), subject=str(path), action="Correct the file.")


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


@cache
def word_list(name: str) -> Tree:
    """The data file `configs/{name}.yaml`: words, points or conventions. Not to be changed by the caller."""
    return read_yaml(configs_folder() / f"{name}.yaml")


def _read_named(name: str, kind: str, parents: tuple[str, ...] = ()) -> Tree:
    """The settings that `name` stands for, on top of its bases; `parents` are the files that build on it."""
    path = Path(name)
    if path.suffix in MANIFEST_SUFFIXES and kind == "corpora":
        return {"corpus": {"reader": "manifest", "manifest": str(path)}}
    if path.suffix not in _YAML:
        preset = configs_folder() / f"{name}.yaml" if "/" in name else configs_folder() / kind / f"{name}.yaml"
        if not os.path.isfile(preset):
            raise _no_such_preset(name, kind, parents)
        path, kind = preset, preset.parent.name
    if len(parents) >= _MAX_DEPTH:
        found = f"more than {_MAX_DEPTH} files build on each other through base, perhaps in a circle"
        raise UsageError(parents[0], found, f"at most {_MAX_DEPTH}", "Correct base.")
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
    known = preset_names(folder if folder in os.listdir(configs_folder()) else kind)
    close = difflib.get_close_matches(last[:60], known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Presets: {', '.join(known)}."
    expected = "a preset's name or a YAML file"
    if kind == "corpora" and not folder:
        expected = "a preset's name, a YAML file or a manifest (.csv, .jsonl)"
    subject = name if name.isprintable() and 0 < len(name) < 200 else short_repr(name)
    if parents:
        subject = f"{parents[-1]}: base {subject}"
    return UsageError(subject, "no such preset or file", expected, hint)


def parse_override(text: str, option: str = "-o") -> Tree:
    """`a.b=value` as a tree. Raises UsageError that names it as `option` gives it."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    subject = f"{option} {text if text.isprintable() and len(text) < 200 else short_repr(text)}"
    if not equals or not all(parts):
        found = "an empty name" if equals else "no `=`"
        example = "audio.max_seconds=8" if option == "-o" else "trials=5"
        raise UsageError(subject, found, "NAME=VALUE", f"Write for example {option} {example}.")
    if len(parts) > _MAX_DEPTH:
        raise UsageError(subject, f"{len(parts)} levels of names", f"at most {_MAX_DEPTH}", "Correct it.")
    try:
        tree = parse_yaml(value)
    except YamlRefused as error:
        raise UsageError(subject, str(error.problem), "one setting's value", "Correct it.") from None
    except yaml.YAMLError:
        tree = value
    tree = number_or_text(tree)
    for part in reversed(parts):
        tree = {part: tree}
    return dict(tree)


def number_or_text(value: Any) -> Any:
    """A value of YAML, a number where it is text that says one: YAML 1.1 reads 1e-3 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


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
            raise yaml.constructor.ConstructorError(None, None, f"not a valid {kind}", node.start_mark) from None


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
