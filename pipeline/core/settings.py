"""The settings of a config model, read from the model: listed (--list-settings, completion, docs/settings.md), and
named in an error with what was meant.

for group in groups_of(TrainConfig):
    for setting in group.settings:
        print(setting.name, setting.kind, setting.default, setting.description)
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import takewhile
from pathlib import Path
from reprlib import Repr
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, to_jsonable_python

from cache.errors import ManyProblems
from pipeline.core.plugins import BUILT_IN, CUSTOM_OBJECTIVE

REQUIRED = "required"  # in place of a default
_WORDS = {int: "integer", float: "number", str: "text", bool: "true | false", Path: "path", NoneType: "null"}
_GUARD = 1e6  # a bound as large only guards the code behind it, and is not listed
_FACT = re.compile(r" \(F\d[^)]*\)")  # numbers of a list that users do not have

SYNONYMS = {  # what others call a setting
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "tau": "temperature",
    "temp": "temperature",
    "loss": "objective.name",
    "dim": "width",
    "embedding_dim": "width",
    "hidden_size": "width",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
}
_ADAM = "Adam is the only optimiser, see learning_rate, schedule, warmup and weight_decay"
NO_SETTINGS = dict.fromkeys(("optimizer", "optimiser", "optim", "momentum", "betas"), _ADAM)  # of models that learn


@dataclass(frozen=True)
class Setting:
    """One setting, by its dotted name. `choices` are its values where they can be listed, as YAML writes them."""

    name: str
    kind: str
    default: str
    description: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Settings of one model in a config. `name` is `audio`, or `objective.name=ridge` where it is one of several."""

    name: str
    about: str
    settings: tuple[Setting, ...]


def groups_of(model: type[BaseModel]) -> list[Group]:
    """The settings of `model` itself, then those of the models in it, each a group."""
    return list(_groups(model, "", ""))


def _groups(model: type[BaseModel], name: str, about: str, prefix: str = "") -> Iterator[Group]:
    models = {field: _models_in(info.annotation) for field, info in model.model_fields.items()}
    flat = [_setting(prefix + field, info) for field, info in model.model_fields.items() if not models[field]]
    yield Group(name, about, tuple(flat))
    for field, alternatives in models.items():
        path, more = f"{prefix}{field}", model.model_fields[field].description
        for each in alternatives:
            title = path if len(alternatives) == 1 else f"{path}.name={_own_name(each)}"
            text = _FACT.sub("", " ".join((inspect.getdoc(each) or "").split()))
            yield from _groups(each, title, f"{text} {more}." if more else text, f"{path}.")


def _own_name(model: type[BaseModel]) -> str:
    """The `name` that chooses one of several models."""
    return "|".join(_choices(model.model_fields["name"].annotation)) or "NAME"


@cache
def setting_names(model: type[BaseModel]) -> tuple[str, ...]:
    """Every dotted name, groups included, each once."""
    names: dict[str, None] = {}
    for group in groups_of(model):
        for setting in group.settings:
            parts = setting.name.split(".")
            names |= dict.fromkeys(".".join(parts[: depth + 1]) for depth in range(len(parts)))
    return tuple(names)


def synonym(name: str, known: Sequence[str]) -> str:
    """The setting that others call `name`, or a sentence about what there is none of; "" for other names."""
    meant = SYNONYMS.get(name, "")
    if meant in known:
        return meant
    return NO_SETTINGS.get(name, "") if "learning_rate" in known else ""


def _setting(name: str, info: FieldInfo) -> Setting:
    choices = tuple(_choices(info.annotation) or map(str, info.examples or ()))
    kind = " | ".join([*map(str, info.examples or ()), _bounded(_kind(info.annotation), info.metadata)])
    default = REQUIRED if info.is_required() else _as_yaml(info.get_default(call_default_factory=True))
    return Setting(name, kind, default, _FACT.sub("", info.description or ""), choices)


def _as_yaml(value: object) -> str:
    text = yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, allow_unicode=True, width=1e9)
    return text.splitlines()[0]


def _alternatives(kind: Any) -> Iterator[Any]:
    """The members of a union, or the type itself."""
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _alternatives(member)
    else:
        yield kind


def _models_in(kind: Any) -> list[type[BaseModel]]:
    return [each for each in _alternatives(kind) if isinstance(each, type) and issubclass(each, BaseModel)]


def _choices(kind: Any) -> list[str]:
    """The values of a Literal, bool or None, or lists of one of them, as YAML writes them."""
    found: list[str] = []
    for each in _alternatives(kind):
        if get_origin(each) is Literal:
            found += map(str, get_args(each))
        elif get_origin(each) is tuple:
            found += [f"[{value}]" for value in _choices(get_args(each)[0])]
        else:
            found += {bool: ["true", "false"], NoneType: ["null"]}.get(each, [])
    return found


def _kind(kind: Any) -> str:
    """A type in words: `integer >= 1 | auto`, `[number, number]`, `{text: text}`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(_kind(args[0]), args[1:])
    if origin in (Union, UnionType):
        return " | ".join(map(_kind, args))
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is tuple:
        return f"[{', '.join('...' if each is Ellipsis else _kind(each) for each in args)}]"
    if origin is dict:
        return f"{{{_kind(args[0])}: {_kind(args[1])}}}"
    return _WORDS.get(kind, "any")


def _bounded(words: str, metadata: Sequence[Any]) -> str:
    """`words` with the bounds that `metadata` holds: `number 0 to 1`, `integer >= 1`."""
    bounds: dict[str, Any] = {}
    for each in metadata:
        for part in each.metadata if isinstance(each, FieldInfo) else [each]:
            bounds |= {sign: getattr(part, sign) for sign in ("ge", "gt", "le", "lt") if hasattr(part, sign)}
    bounds = {sign: bound for sign, bound in bounds.items() if abs(bound) < _GUARD}
    if not bounds:
        return words
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    text = ", ".join(f"{signs[sign]} {bound}" for sign, bound in bounds.items())
    if bounds.keys() == {"ge", "le"}:
        text = f"{bounds['ge']} to {bounds['le']}"
    null = " | null" if words.endswith(" | null") else ""
    return f"{words.removesuffix(null)} {text}{null}"


_TAGS = (*BUILT_IN["objective"], CUSTOM_OBJECTIVE)  # pydantic puts them into the path of an error
_UNION_BRANCH = re.compile(r"(literal|function-\w+|constrained-\w+|nullable|tuple|dict)\[.*")  # and these, of a union
_EXPECTED = {  # by pydantic's type of an error, or the part before its underscore
    "float": "a number",
    "int": "an integer",
    "bool": "true or false",
    "string_type": "text",
    "path": "a path",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping, {{name: value}}",
    "literal_error": "{expected}",
    "model": "a mapping, {{name: value}}",
    "too_short": "{min_length} or more items",
    "too_long": "{max_length} items at most",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:,.10g}",
    "greater_than_equal": "{ge:,.10g} or more",
    "less_than": "less than {lt:,.10g}",
    "less_than_equal": "{le:,.10g} or less",
}
_SHORT_REPR = Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = _SHORT_REPR.maxlong = 120


@dataclass(frozen=True)
class WrongSetting:
    """What is wrong with a setting."""

    name: str  # dotted; empty: the whole config is wrong
    reason: str
    value: str = ""  # as it was given, where that says more
    meant: str = ""  # the setting that was probably meant

    def line(self, section: str = "") -> str:
        """`setting = value: reason`, of a setting that stands in `section`."""
        if not self.name:
            return self.reason
        prefix = section and f"{section}."
        value, meant = self.value and f" = {self.value}", self.meant and f"; did you mean {prefix}{self.meant}?"
        return f"{prefix}{self.name}{value}: {self.reason}{meant}"


class WrongSettings(ManyProblems):
    """A config with wrong settings, which are `settings`."""

    def __init__(self, subject: object, settings: Sequence[WrongSetting], action: str) -> None:
        super().__init__(subject, [f"{subject}: {each.line()}" for each in settings], action)
        self.settings = settings


def explain(model: type[BaseModel], error: ValidationError) -> list[WrongSetting]:
    """Each problem once, with a suggestion for a name that there is not.

    Of a setting of several types, such as a number or `auto`, pydantic tells what each type misses: one problem here.
    """
    details: dict[tuple[str, str], ErrorDetails] = {}
    for detail in error.errors(include_url=False):
        place = detail["loc"]
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counts the valid items; an invalid one is a problem of its own
        before = tuple(takewhile(lambda part: not _UNION_BRANCH.match(str(part)), place))
        union = _dotted(before) if len(before) < len(place) and _dotted(before) in _kinds(model) else ""
        key = (union, "") if union else (_dotted(place), detail["msg"])
        if key not in details or len(place) < len(details[key]["loc"]):  # the whole value, not an item of it
            details[key] = detail
    return [
        _wrong(model, name, detail)
        if message
        else WrongSetting(name, f"expected {_kinds(model)[name].replace(' | ', ' or ')}", short_repr(detail["input"]))
        for (name, message), detail in details.items()
    ]


def _wrong(model: type[BaseModel], path: str, detail: ErrorDetails) -> WrongSetting:
    name = path if path.isprintable() and len(path) < 120 else short_repr(path)
    if detail["type"] == "extra_forbidden":
        return WrongSetting(name, *_unknown(path[:60], setting_names(model)))
    if detail["type"] == "missing":
        settings = (setting for group in groups_of(model) for setting in group.settings)
        about = next((setting.description for setting in settings if setting.name == path), "")
        return WrongSetting(name, f"required, but not set{about and f' ({about})'}")
    message = detail["msg"] if detail["msg"].isprintable() else short_repr(detail["msg"])
    reason = message[:200].lower().removeprefix("value error, ")
    if expected := _EXPECTED.get(detail["type"]) or _EXPECTED.get(detail["type"].partition("_")[0]):
        reason = f"expected {expected.format_map(detail.get('ctx', {}))}"
    return WrongSetting(name, reason, short_repr(detail["input"]))


def _dotted(place: Sequence[int | str]) -> str:
    """The name of a setting, of pydantic's path to it."""
    return ".".join(str(part) for part in place if part not in _TAGS and not _UNION_BRANCH.match(str(part)))


@cache
def _kinds(model: type[BaseModel]) -> dict[str, str]:
    """The kind of each setting, by its dotted name."""
    return {setting.name: setting.kind for group in groups_of(model) for setting in group.settings}


def short_repr(value: object) -> str:
    """`value` on one line, cut where it is long."""
    try:
        return _SHORT_REPR.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number too long"


@lru_cache(maxsize=1024)
def _unknown(path: str, known: tuple[str, ...]) -> tuple[str, str, str]:
    """The reason, no value, and the setting that was probably meant, of a name that is not among the `known`."""
    reason = "no such setting"
    if path in known:  # of one part of a union, and another was chosen
        return f"{reason} of this {path.split('.')[0]}", "", ""
    if meant := synonym(path, known):
        return (reason, "", meant) if meant in known else (f"{reason}; {meant}", "", "")
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.5) or [
        name for name in known if name.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]
    ]
    return reason, "", close[0] if close else ""
