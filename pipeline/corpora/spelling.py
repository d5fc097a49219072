"""One spelling for the names that corpora spell differently: splits and genders, with a hint for a near miss."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import lru_cache

from cache.manifest import SPLITS

_SPLITS = {
    **{name: name for name in SPLITS},
    "training": "train",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
}
GENDERS = {"male": "male", "m": "male", "female": "female", "f": "female", "unknown": "", "": ""}


def canonical_split(name: str) -> str | None:
    """The manifest's name of a split, whatever its case: `Development` is dev. None when it is no split."""
    return _SPLITS.get(name.lower())


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the name in `known` that is nearest, or nothing when none is near."""
    return _closest(name[:60], tuple(known))


@lru_cache(maxsize=1024)  # the same slip stands on every row
def _closest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
