"""The fingerprint of a store: everything that changes a vector, as canonical JSON of declared fields.

Paths and batch sizes are not in it. Two stores with equal fingerprints hold comparable vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def canonical(fields: Mapping[str, Any]) -> str:
    """One text for one meaning: sorted keys, no spaces, no NaN."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True)
class Difference:
    """One field that two settings or fingerprints have otherwise: its dotted name and both values as JSON.

    None where one side has no such field.
    """

    field: str
    then: str | None
    now: str | None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Field by field, what was and what is wanted now; empty when they are the same."""
    old, new = ({name: json.dumps(value) for name, value in leaves(tree)} for tree in (then, now))
    fields = sorted(old.keys() | new.keys())
    return [Difference(name, old.get(name), new.get(name)) for name in fields if old.get(name) != new.get(name)]


def describe_differences(found: Iterable[Difference], then: str = "the store has", now: str = "now") -> str:
    """`found` as a sentence for people: "audio.layer: the store has 2, now 3; ..."."""
    return "; ".join(f"{each.field}: {then} {each.then or 'nothing'}, {now} {each.now or 'nothing'}" for each in found)


def describe_encoders(found: Sequence[Difference], then: str, now: str) -> str:
    """The same of two encoders' fingerprints, which may be of another kind: fields that one side lacks are counted."""
    shared = [each for each in found if each.then is not None and each.now is not None] or found
    rest = len(found) - len(shared)
    return describe_differences(shared, then, now) + (f"; and {rest} fields that one of them has not" if rest else "")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of a tree by their dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
