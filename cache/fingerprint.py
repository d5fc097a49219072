"""The fingerprint of a store: everything that changes a vector, as canonical JSON of declared fields.

Paths and batch sizes are not in it. Two stores with equal fingerprints hold comparable vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def canonical(fields: Mapping[str, Any]) -> str:
    """One text for one meaning: sorted keys, no spaces, no NaN."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parse(text: str) -> dict[str, Any]:
    """The fields of a canonical fingerprint. Raises ValueError for anything that is not one."""
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("a fingerprint is a JSON object")
    return fields


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Field by field, what the store has and what is wanted; empty when they are the same."""
    old, new = dict(_leaves(stored)), dict(_leaves(wanted))
    return [
        f"{name}: the store has {old.get(name, 'nothing')}, now {new.get(name, 'nothing')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value)
