"""The utterances of each prompt, nearest first: of so many similarities only those that lists retrieve are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Similarity = NDArray[np.floating[Any]]

DEPTH = 256  # nearest utterances of each prompt that are sorted at first
_DEEPER = 4  # times as many, where a list needs them
_BLOCK_PROMPTS = 64  # whose similarities are in memory at once: 64 x 35,000 are 9 MB


def retrieve(similarity: Similarity) -> NDArray[np.int64]:
    """For each prompt, in the order of the list, its nearest utterance that no earlier prompt retrieved.

    `similarity` is (prompts, n), n >= prompts; of equally near ones the first is taken. Returns (prompts,) columns. The
    readable form of `NearestUtterances.retrieve`.
    """
    remaining = similarity.copy()
    retrieved = np.empty(len(remaining), dtype=np.int64)
    for prompt, row in enumerate(remaining):
        retrieved[prompt] = row.argmax()
        remaining[:, retrieved[prompt]] = -np.inf
    return retrieved


class NearestUtterances:
    """The m utterances of each of P prompts from the nearest on, of equally near ones the first.

    They are sorted as deep as is asked. `similarity` gives the (k, m) similarities of a slice of the prompts, any
    that order the utterances, and is called anew for each depth.
    """

    def __init__(self, similarity: Callable[[slice], Similarity], prompts: int, *, depth: int = DEPTH) -> None:
        self.similarity, self.prompts = similarity, prompts
        self.order = self._sorted(depth)  # (P, depth)

    @classmethod
    def of(cls, similarity: Similarity | NearestUtterances) -> NearestUtterances:
        """From (P, m) similarities in memory."""
        if isinstance(similarity, NearestUtterances):
            return similarity
        return cls(lambda prompts: similarity[prompts], len(similarity))

    def among(self, utterances: NDArray[np.int64]) -> NearestUtterances:
        """Of the same prompts, with only `utterances` (k,), counted as they come."""
        depth = self.order.shape[1]
        return NearestUtterances(lambda prompts: self.similarity(prompts)[:, utterances], self.prompts, depth=depth)

    def at(self, prompts: NDArray[np.int64], rank: int) -> NDArray[np.int32]:
        """(k,) utterances: the one of `rank` for each of (k,) prompts."""
        if rank >= self.order.shape[1]:
            self.order = self._sorted(_DEEPER * rank)
        utterances: NDArray[np.int32] = self.order[prompts, rank]
        return utterances

    def retrieve(self, prompts: NDArray[np.int64]) -> NDArray[np.int64]:
        """What `retrieve` returns, of the rows `prompts` (k,) of the similarities."""
        retrieved: list[int] = []
        for prompt in prompts:
            rank = 0
            while (utterance := int(self.at(prompt, rank))) in retrieved:
                rank += 1
            retrieved.append(utterance)
        return np.array(retrieved, dtype=np.int64)

    def _sorted(self, depth: int) -> NDArray[np.int32]:
        found = []
        for first in range(0, self.prompts, _BLOCK_PROMPTS):
            for row in self.similarity(slice(first, min(first + _BLOCK_PROMPTS, self.prompts))):
                near = np.arange(len(row), dtype=np.int32)
                if depth < len(row):
                    near = np.flatnonzero(row >= -np.partition(-row, depth - 1)[depth - 1]).astype(np.int32)
                found.append(near[np.argsort(-row[near], kind="stable")[:depth]])
        return np.array(found, dtype=np.int32)
