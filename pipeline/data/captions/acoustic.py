"""ParaCLAP's captions: whose voice it is and what is low, normal or high about it, by measurement (F14, F28).

"emotion is angry and speaker is female and low pitch and normal pitch variation and ... and long duration"; the phrases
are `configs/captions/acoustic.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions
from pipeline.core.config import CaptionsConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import UsageError
from pipeline.data.captions.base import CaptionSource, group_rows

Coded = tuple[list[str], NDArray[np.int64]]  # phrases, and which of them is each row's, (N,)


def assign_acoustic(source: CaptionSource, config: CaptionsConfig) -> Captions:
    """One caption for each utterance whose acoustic features are there.

    It names the labels of `config.acoustic_labels` in that order, then the voice. A blank label has no phrase. Test
    captions name their labels too, as ParaCLAP's do, so to match clips with them is in part to tell emotions apart.

    A feature is low at or below the first of `config.quantiles`, high at or above the second, over the training
    utterances alone. Where both are one value, that value is normal: a feature that never changes means nothing.
    Raises UsageError without features, or without a training utterance that has them.
    """
    if source.acoustics is None:
        raise UsageError(
            "captions.styles: acoustic",
            "no acoustic features",
            "acoustic.h5, measured by Praat",
            "Run extract-features with `acoustic` in captions.styles.",
        )
    # paper: ParaCLAP's code measures with openSMILE, ranks over all its files, puts valence, arousal and dominance into
    # words too, says "annotators disagree" where no category won, and "a female is speaking"
    names, values = source.acoustics.names, source.acoustics.values
    done = np.isfinite(values).all(axis=1)  # (N,)
    training = np.array([split == "train" for split in source.manifest.split], dtype=bool)
    fitted = values[training & done]
    if not fitted.size:
        raise UsageError(
            "captions.styles: acoustic",
            "no training utterance with acoustic features",
            "training utterances with acoustic features, from which the quantiles are computed",
            "Extract the training split too, or leave acoustic out.",
        )
    low, high = np.quantile(fitted.astype(np.float64), config.quantiles, axis=0)  # (F,)
    is_low = (values <= low) & (values < high)
    is_high = (values >= high) & (values > low)
    levels = 1 + is_high.astype(np.int64) - is_low  # (N, F): 0 low, 1 normal, 2 high
    phrases_of = word_list("captions/acoustic")["features"]
    voice = [(phrases_of[name], levels[:, feature]) for feature, name in enumerate(names)]
    return _captions([*_labels(source, config), *voice], np.flatnonzero(done))


def _labels(source: CaptionSource, config: CaptionsConfig) -> Iterator[Coded]:
    """The phrases of each label, such as "emotion is angry"."""
    patterns = word_list("captions/acoustic")["labels"]
    for name in dict.fromkeys(config.acoustic_labels):
        column = getattr(source.manifest, name)
        code_of = {value: code for code, value in enumerate(dict.fromkeys(column))}
        phrases = [patterns[name].format(value) if value else "" for value in code_of]
        yield phrases, np.array([code_of[value] for value in column], dtype=np.int64)


def _captions(coded: list[Coded], rows: NDArray[np.int64]) -> Captions:
    """Captions, in text order, of the joined phrases of each of `rows`; a text is put together once."""
    shape = tuple(len(phrases) for phrases, _ in coded)
    combined = np.ravel_multi_index(tuple(codes[rows] for _, codes in coded), shape)
    distinct, inverse = np.unique(combined, return_inverse=True)
    columns = [
        [phrases[code] for code in codes.tolist()]
        for (phrases, _), codes in zip(coded, np.unravel_index(distinct, shape), strict=True)
    ]
    texts = [" and ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
    ordered = sorted(set(texts))
    index_of = {text: index for index, text in enumerate(ordered)}
    keys = np.array([index_of[text] for text in texts], dtype=np.int64)[inverse]
    return Captions(group_rows("acoustic", keys[:, None], rows, lambda present: [ordered[key] for key in present]))
