"""ParaCLAP's captions: what is low, normal or high about a voice, as its measurements say (F14, F28).

"low pitch and normal pitch variation and high intensity and ... and long duration"
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from cache.captions import Caption, Captions
from pipeline.captions.source import Acoustics, Source
from pipeline.config import CaptionsConfig
from pipeline.errors import UsageError

_WORDS = ("low", "normal", "high")
_LENGTHS = ("short", "normal", "long")


def plan_acoustic(source: Source, config: CaptionsConfig) -> Captions:
    """The acoustic style: one caption for each utterance whose features are there.

    A feature is low at or below the first of `config.quantiles`, high at or above the second, over the training
    utterances alone. Where both are one value, that value is normal: a feature that never changes says nothing.
    Raises UsageError without features, or without a training utterance that has them.
    """
    acoustics = _acoustics(source)
    # paper: ParaCLAP's code measures with openSMILE, ranks over all its files and adds category, gender and labels
    levels = _levels(acoustics.values, _limits(source, acoustics, config))  # (N, F)
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(_done(acoustics)).tolist():
        rows_of[_text(acoustics.names, levels[row])].append(row)
    return Captions(captions=[Caption("acoustic", text, rows) for text, rows in sorted(rows_of.items())])


def _acoustics(source: Source) -> Acoustics:
    if source.acoustics is None:
        raise UsageError(
            "captions.styles: acoustic",
            "no acoustic features",
            "acoustic.h5, measured by Praat",
            "Run extract-features with `acoustic` in captions.styles.",
        )
    return source.acoustics


def _done(acoustics: Acoustics) -> NDArray[np.bool_]:
    """(N,) which utterances have every feature."""
    finite: NDArray[np.bool_] = np.isfinite(acoustics.values).all(axis=1)
    return finite


def _limits(source: Source, acoustics: Acoustics, config: CaptionsConfig) -> NDArray[np.float64]:
    """(2, F) the quantiles of each feature over the training utterances that have features."""
    training = np.array([split == "train" for split in source.manifest.split], dtype=bool)
    fitted = acoustics.values[training & _done(acoustics)].astype(np.float64)
    if not len(fitted):
        raise UsageError(
            "captions.styles: acoustic",
            "no training utterance with acoustic features",
            "some, to tell low from high",
            "Extract the training split too, or leave `acoustic` out.",
        )
    return np.asarray(np.quantile(fitted, config.quantiles, axis=0))


def _levels(values: NDArray[np.floating], limits: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N, F) 0 low, 1 normal, 2 high."""
    low, high = limits
    is_low = (values <= low) & (values < high)
    is_high = (values >= high) & (values > low)
    return np.asarray(1 + is_high.astype(np.int64) - is_low)


def _text(names: tuple[str, ...], levels: NDArray[np.int64]) -> str:
    return " and ".join(_phrase(name, level) for name, level in zip(names, levels.tolist(), strict=True))


def _phrase(name: str, level: int) -> str:
    """One feature in words: (pitch_mean, 2) is "high pitch"."""
    subject = name.removesuffix("_mean").removesuffix("_local").replace("_", " ")
    return f"{(_LENGTHS if name == 'duration' else _WORDS)[level]} {subject}"
