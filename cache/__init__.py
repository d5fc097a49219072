"""The embedding store: HDF5 rows that survive any crash. The only room that knows HDF5."""

from cache.captions import Captions
from cache.errors import EmotionRankError
from cache.manifest import Manifest

__all__ = ["Captions", "EmotionRankError", "Manifest"]
