"""ParaCLAP's captions: whose voice it is and what is low, normal or high about it, by measurement (F14, F28).

"emotion is angry and speaker is female and low pitch and normal pitch variation and ... and long duration"
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cache.captions import Caption, Captions
from pipeline.captions.source import Acoustics, Source
from pipeline.config import CaptionsConfig
from pipeline.errors import UsageError

_WORDS = ("low", "normal", "high")
_LENGTHS = ("short", "normal", "long")
_SAID = {"emotion": "emotion is {}", "gender": "speaker is {}"}


def plan_acoustic(source: Source, config: CaptionsConfig) -> Captions:
    """The acoustic style: one caption for each utterance whose features are there.

    It says the labels of `config.acoustic_labels` in that order, then the voice. A blank label has no phrase. Test
    captions say their labels too, as ParaCLAP's do, so to match clips with them is in part to tell emotions apart.

    A feature is low at or below the first of `config.quantiles`, high at or above the second, over the training
    utterances alone. Where both are one value, that value is normal: a feature that never changes says nothing.
    Raises UsageError without features, or without a training utterance that has them.
    """
    acoustics = _acoustics(source)
    # paper: ParaCLAP's code measures with openSMILE, ranks over all its files, puts valence, arousal and dominance into
    # words too, says "annotators disagree" where no category won, and "a female is speaking"
    levels = _levels(acoustics.values, _limits(source, acoustics, config))  # (N, F)
    labels = _labels(source, config)
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(_done(acoustics)).tolist():
        rows_of[" and ".join([*labels(row), *_voice(acoustics.names, levels[row])])].append(row)
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


def _labels(source: Source, config: CaptionsConfig) -> Callable[[int], list[str]]:
    """row -> the phrases of its labels, such as "emotion is angry"."""
    columns = [(_SAID[name], getattr(source.manifest, name)) for name in dict.fromkeys(config.acoustic_labels)]
    return lambda row: [phrase.format(column[row]) for phrase, column in columns if column[row]]


def _voice(names: tuple[str, ...], levels: NDArray[np.int64]) -> list[str]:
    return [_phrase(name, level) for name, level in zip(names, levels.tolist(), strict=True)]


def _phrase(name: str, level: int) -> str:
    """One feature in words: (pitch_mean, 2) is "high pitch"."""
    subject = name.removesuffix("_mean").removesuffix("_local").replace("_", " ")
    return f"{(_LENGTHS if name == 'duration' else _WORDS)[level]} {subject}"
