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
    "MissingEncoder",
    "QuarantinedRows",
    "StoreCorrupt",
    "StoreLocked",
    "StoreMismatch",
    "UsageError",
]


class MissingEncoder(UsageError):
    """A frozen encoder that is not on this machine: a model's folder, a hub model or a package (exit 2)."""
