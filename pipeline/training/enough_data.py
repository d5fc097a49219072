"""Whether there is enough to train on: too few pairs or labels are refused, too few steps are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.manifest import LABEL_COLUMNS
from cache.pairs import CachedPairs
from pipeline.core.config import SMALL_BATCH, TrainConfig
from pipeline.core.errors import UsageError

FEW_STEPS = 100


def refuse_too_little(pairs: CachedPairs, config: TrainConfig, stores: Path) -> None:
    """Raises UsageError, with the numbers, for fewer pairs than two batches or fewer than two labels or texts.

    With one batch or less nothing is drawn, with one label or text nothing is learnt: a loss of 0 that means nothing.
    """
    least = 2 * min(config.batch_size, SMALL_BATCH)
    if len(pairs) < least:
        found = f"{len(pairs):,} training pairs, of batches of {config.batch_size:,}"
        raise UsageError(stores, found, f"at least {least:,}, two batches", "Add training utterances or captions.")
    required = config.required_labels
    if required:
        labels = pairs.labels[:, [LABEL_COLUMNS.index(name) for name in required]]
        distinct = len(np.unique(labels.cpu().numpy(), axis=0))
        if distinct < 2:
            found = f"{len(pairs):,} training pairs that all have the same {' and '.join(required)}"
            raise UsageError(stores, found, "two labels or more, to be ordered", "Check the labels of the manifest.")
    if len(pairs.text) < 2:
        found = f"{len(pairs):,} training pairs that all have the same caption"
        raise UsageError(stores, found, "two captions or more", "Check the captions and labels.")


def few_steps_warning(config: TrainConfig, pairs: int) -> str | None:
    """The line about a training of fewer than 100 steps, which hardly moves the heads; None for a longer one."""
    size = min(config.batch_size, pairs)
    steps = pairs // size * config.epochs
    if steps >= FEW_STEPS:
        return None
    counts = f"{pairs:,} pairs in batches of {size:,}, {config.epochs} epoch{'s' * (config.epochs > 1)}"
    return (
        f"WARNING: only {steps} step{'s' * (steps > 1)} of training ({counts}): results may be near chance. "
        "Use --training small_corpus, a smaller batch_size or more epochs"
    )
