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


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Field by field, what the store has and what is wanted; empty when they are the same."""
    old, new = ({name: json.dumps(value) for name, value in leaves(tree)} for tree in (stored, wanted))
    return [
        f"{name}: the store has {old.get(name, 'nothing')}, now {new.get(name, 'nothing')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of a tree by their dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
