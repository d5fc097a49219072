"""What is wrong with a setting, in one line: its name, its value cut short, the reason or the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import lru_cache
from reprlib import Repr
from typing import get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from pipeline.own_parts import OWN

_TAGS = ("rank_n_contrast", "soft_targets", OWN)  # pydantic puts them into the path of an error
_BRANCH = re.compile(r"(literal|function-\w+|constrained-\w+|nullable)\[.*")  # pydantic's names of a union's parts
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


def explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    """`subject.setting = value: reason`, on one line, with a suggestion for a name that there is not."""
    path = ".".join(str(part) for part in detail["loc"] if part not in _TAGS and not _BRANCH.match(str(part)))
    name = path if path.isprintable() and len(path) < 120 else shown(path)
    if detail["type"] == "extra_forbidden":
        return f"{name}: no such setting{_nearest(path[:60], tuple(_fields(model)))}"
    if detail["type"] == "missing":
        return f"{name}: not given"
    message = detail["msg"] if detail["msg"].isprintable() else shown(detail["msg"])
    said = message[:200].lower().removeprefix("value error, ")
    return f"{name} = {shown(detail['input'])}: {said}" if name else said  # no name: the whole makes no sense


def shown(value: object) -> str:
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
