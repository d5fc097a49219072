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


_SETTINGS = {  # by which a field is set
    "decoding.max_seconds": "audio.max_seconds",
    "decoding.crop": "audio.crop",
    "decoding.channel": "corpus.channel",
}


def describe_differences(found: Iterable[Difference], then: str = "the store has", now: str = "now") -> str:
    """`found` as a sentence for people: "audio.layer: the store has 2, now 3; ..."; settings by their names."""
    return "; ".join(
        f"{_SETTINGS.get(each.field.removeprefix('audio.'), each.field)}: "
        f"{then} {each.then or 'nothing'}, {now} {each.now or 'nothing'}"
        for each in found
    )


def describe_encoders(found: Sequence[Difference], then: str, now: str) -> str:
    """The same of two encoders' fingerprints, which may be of another kind: the encoders' names come first.

    Fields that one side lacks are counted. The version of the store follows from the rest, and stands only alone.
    """
    causes = [each for each in found if not each.field.endswith("store_version")] or found
    shared = [each for each in causes if each.then is not None and each.now is not None] or causes
    shared = sorted(shared, key=lambda each: not each.field.endswith("encoder.encoder"))
    rest = len(causes) - len(shared)
    more = f"; {rest} more field{'s exist' if rest > 1 else ' exists'} on one side only" if rest else ""
    return describe_differences(shared, then, now) + more


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of a tree by their dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
