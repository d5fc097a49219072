"""Ordinality by prompts of other hands: the test of F13 with rated words in place of the caption grammar's sentences.

The lists follow F13's points, each point by a word that people rated near it (`pipeline.data.captions.word_norms`);
Kendall's tau-b compares the words' own ratings with the labels retrieved. What a method loses from the grammar's
prompts to these is what it owed to the grammar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cache.captions import Prompt
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.data.captions.word_norms import word_lists
from pipeline.evaluation.ordinality import AXES, STEPS, kendall_tau, retrieve
from pipeline.evaluation.significance import mean_and_std


def ordinality_word_norms(
    speech: Tensor, labels: ArrayLike, *, prompts: Sequence[Prompt], vectors: Tensor, lists: int = 100
) -> dict[str, Any]:
    """AOC and VOC over `lists` lists each, asked by rated words.

    Args:
        speech: (n, d) unit vectors of the split's utterances.
        labels: (n, 2) valence and arousal; utterances where either is NaN take no part.
        prompts: the prompts of style "word_norms". List l takes sentence `(l // 14) % sentences`.
        vectors: (P, d) unit vectors of `prompts`.
        lists: per test.

    Returns:
        What `pipeline.evaluation.ordinality.ordinality` returns: `{"aoc": {"mean", "std", "taus", "undefined",
        "convention"}, "voc": ...}`; std is over lists (n - 1), an undefined tau counts as 0.

    Raises:
        UsageError: fewer than 14 labelled utterances, or too few prompts. EmotionRankError: a vector is not finite.
    """
    points = np.asarray(labels, dtype=np.float64)
    labelled = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(labelled) < STEPS:
        found = f"{len(labelled)} utterances with valence and arousal"
        raise UsageError("ordinality", found, f"at least {STEPS} in the split", "Evaluate another split.")
    rated = np.array([prompt[2:4] for prompt in prompts], dtype=np.float64).reshape(-1, 2)
    similarity = (vectors @ speech[torch.from_numpy(labelled).to(speech.device)].T).float().cpu().numpy()
    if not np.isfinite(similarity).all():
        raise EmotionRankError("ordinality", "similarities not finite", "unit vectors", "Train the heads again.")
    result = {}
    for name, axis in AXES.items():
        column, fixed = (0, "arousal") if axis == "valence" else (1, "valence")
        values = points[labelled, column]
        rows_of = word_lists(prompts, axis, lists)  # (lists, 14)
        found_taus = [kendall_tau(rated[rows, column], values[retrieve(similarity[rows])]) for rows in rows_of]
        kendall_taus = np.nan_to_num(found_taus, nan=0.0)
        result[name] = {
            **mean_and_std(kendall_taus),
            "taus": kendall_taus.tolist(),
            "undefined": sum(map(math.isnan, found_taus)),
            "convention": (
                f"Kendall's tau-b of the {axis} of words as people rated them and of what they retrieved, {lists} "
                f"lists of {STEPS} different words near a fixed {fixed}, no utterance twice in a list, undefined tau "
                "counts 0; std over lists"
            ),
        }
    return result
