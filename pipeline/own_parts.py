"""What a config says of encoders and objectives of one's own, checked against the code that is registered.

A config that somebody asks for (`ASKED`) must name what is there, all problems at once. One that is read back, beside
stores or heads, need not: much is done with those for which the code is not needed.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationInfo
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from pipeline.plugins import find, is_known
from pipeline.registry import BUILT_IN, Kind, Part, is_name, is_plain, unknown

ASKED = {"asked": True}  # the context of a config that somebody asks for
OWN = "own_objective"  # the tag of an objective that is not built in
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
    return name if name in BUILT_IN["objective"] else OWN


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
def _adapter_of(part: Part) -> TypeAdapter[Any]:
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
