"""The embedding store: HDF5 rows that survive any crash. The only package that imports h5py.

from cache import open_stores
stores = open_stores("stores/msp")
stores.speech("test1")          # (n, dim) vectors of the split
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.errors import EmotionRankError as EmotionRankError
    from cache.pairs import cached_pairs as cached_pairs
    from cache.stores import Stores as Stores
    from cache.stores import open_stores as open_stores

_HOME = {
    "EmotionRankError": "cache.errors",
    "Stores": "cache.stores",
    "cached_pairs": "cache.pairs",
    "open_stores": "cache.stores",
}
__all__ = ["EmotionRankError", "Stores", "cached_pairs", "open_stores"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'cache' has no attribute {name!r}")
