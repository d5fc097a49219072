"""Slow obvious forms: what a list retrieves, and order on resamples of speakers, each a corpus of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.evaluation.ordinality import DEPTH, NearestUtterances, OrdinalityTest, kendall_tau
from pipeline.evaluation.speakers import SpeakerResamples


def nearest_of(similarity: np.ndarray, depth: int = DEPTH) -> NearestUtterances:
    """By (P, m) similarities in memory."""
    return NearestUtterances(lambda prompts: similarity[prompts], len(similarity), depth=depth)


def slow_retrieve(similarity: np.ndarray) -> list[int]:
    """For each row, in order, the nearest column that no earlier one took; of equally near ones the first."""
    taken: list[int] = []
    for row in similarity.tolist():
        best = None
        for column, value in enumerate(row):
            if column not in taken and (best is None or value > row[best]):
                best = column
        assert best is not None
        taken.append(best)
    return taken


def reference_draws(test: OrdinalityTest, similarity: np.ndarray, resamples: SpeakerResamples) -> dict[str, Any]:
    """What `ordinality_draws` returns, list by list."""
    found: dict[str, Any] = {name: [] for name in test.lists}
    for counts in resamples.counts:
        corpus = np.repeat(resamples.rows, counts[resamples.speaker])  # ascending; a row for each copy
        for name, axis in test.lists.items():
            values = test.points[corpus, axis.column]
            retrieved = [values[slow_retrieve(similarity[rows][:, corpus])] for rows in axis.rows]
            kendall_taus = list(map(kendall_tau, axis.asked, retrieved))
            found[name].append(np.nan_to_num(kendall_taus, nan=0.0).mean())
    return {name: np.array(means) for name, means in found.items()}
