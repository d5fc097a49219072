"""The exceptions of `cache.errors`, under the pipeline's own roof."""

from __future__ import annotations

from cache.errors import (
    EmotionRankError,
    Interrupted,
    ManyProblems,
    QuarantinedRows,
    StoreCorrupt,
    StoreLocked,
    StoreMismatch,
    UsageError,
)

__all__ = [
    "EmotionRankError",
    "Interrupted",
    "ManyProblems",
    "QuarantinedRows",
    "StoreCorrupt",
    "StoreLocked",
    "StoreMismatch",
    "UsageError",
]
