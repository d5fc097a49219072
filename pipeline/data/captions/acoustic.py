"""ParaCLAP's captions: whose voice it is and what is low, normal or high about it, by measurement (F14, F28).

"emotion is angry and speaker is female and low pitch and normal pitch variation and ... and long duration"
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cache.captions import Caption, Captions
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions.base import Acoustics, Source

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
    rows = np.flatnonzero(_done(acoustics))
    columns = [*_labels(source, config), *map(_voice, acoustics.names, levels.T)]
    phrases, codes = [phrases for phrases, _ in columns], tuple(codes[rows] for _, codes in columns)
    shape = tuple(map(len, phrases))
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for key, members in _alike(np.ravel_multi_index(codes, shape)):
        said = (of[code] for of, code in zip(phrases, np.unravel_index(key, shape), strict=True))
        rows_of[" and ".join(filter(None, said))] += rows[members].tolist()
    return Captions(captions=[Caption("acoustic", text, sorted(rows)) for text, rows in sorted(rows_of.items())])


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


def _labels(source: Source, config: CaptionsConfig) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """For each label that is said: its phrases, such as "emotion is angry", and which of them is each row's, (N,)."""
    for name in dict.fromkeys(config.acoustic_labels):
        column = getattr(source.manifest, name)
        code_of = {value: code for code, value in enumerate(dict.fromkeys(column))}
        phrases = [_SAID[name].format(value) if value else "" for value in code_of]
        yield phrases, np.fromiter(map(code_of.__getitem__, column), np.int64, len(column))


def _voice(name: str, levels: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """The phrases of one feature, and which of them is each row's: (pitch_mean, 2) is "high pitch"."""
    subject = name.removesuffix("_mean").removesuffix("_local").replace("_", " ")
    return [f"{word} {subject}" for word in (_LENGTHS if name == "duration" else _WORDS)], levels


def _alike(keys: NDArray[np.int64]) -> Iterator[tuple[np.int64, NDArray[np.int64]]]:
    """Each different key of (M,), and the places that have it: a text is put together once, not M times."""
    order = np.argsort(keys, kind="stable")
    different, starts = np.unique(keys[order], return_index=True)
    yield from zip(different, np.split(order, starts[1:]), strict=True)
