"""Ordinality (F13, Table 2): do prompts of rising valence or arousal retrieve utterances of rising valence or arousal?

A list is 14 prompts: one dimension fixed, the other run through 0.5, 1.0 ... 7.0. Each prompt retrieves its nearest
utterance, none twice in a list; Kendall's tau-b compares the prompts' values with the labels retrieved. VOC (valence
ordinal consistency) runs valence at a fixed arousal, AOC runs arousal at a fixed valence.

The prompts are the caption grammar's, or words that people rated near those points (style `word_norms`), whose own
ratings are then compared. What a method loses from the first to the second is what it owed to the grammar.

Rated words ask for dominance too, which captions do not speak of: DOC (dominance ordinal consistency) runs it through
14 words of nearly the same valence and arousal, so that the order of the plane alone gives next to none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau
from torch import Tensor

from cache.captions import Prompt
from cache.manifest import LABEL_COLUMNS
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.data.captions.word_norms import DOMINANCE_POINTS, WORD_NORMS, dominance_lists, word_lists
from pipeline.evaluation.significance import mean_and_std

Axis = Literal["valence", "arousal"]
Similarity = NDArray[np.floating[Any]]  # of prompts and utterances, any that order the utterances
STEPS = 14
VALUES: NDArray[np.float64] = 0.5 * np.arange(1, STEPS + 1, dtype=np.float64)  # 0.5, 1.0 ... 7.0
AXES: dict[str, Axis] = {"aoc": "arousal", "voc": "valence"}
_COLUMN: dict[Axis, int] = {"valence": 0, "arousal": 1}  # of labels and of points
DEPTH = 256  # nearest utterances of each prompt that are sorted at first
_DEEPER = 4  # times as many, where a list needs them
_BLOCK_PROMPTS = 64  # whose similarities are in memory at once: 64 x 35,000 are 9 MB

NULL_STD = math.sqrt(2 * (2 * STEPS + 5) / (9 * STEPS * (STEPS - 1)))
"""Std of tau where the order found is random: sqrt(2 (2n + 5) / (9 n (n - 1))) = .2007 at n = 14 (Kendall 1938)."""


def kendall_tau(prompted: NDArray[np.float64], retrieved: NDArray[np.float64]) -> float:
    """Kendall's tau-b of two (m,) sequences, -1 to 1; NaN where either is all equal."""
    return float(kendalltau(prompted, retrieved, variant="b").statistic)


class NearestUtterances:
    """The m utterances of each of P prompts from the nearest on, of equally near ones the first.

    They are sorted as deep as is asked. `similarity` gives the (k, m) similarities of a slice of the prompts, any
    that order the utterances, and is called anew for each depth.
    """

    def __init__(self, similarity: Callable[[slice], Similarity], prompts: int, *, depth: int = DEPTH) -> None:
        self.similarity, self.prompts = similarity, prompts
        self.order = self._sorted(depth)  # (P, depth)

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
        """(k,) for each of `prompts` (k,), in the order of a list, its nearest utterance that none before retrieved."""
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


@dataclass(frozen=True)
class AxisLists:
    """The lists of one of the tests, AOC, VOC or DOC."""

    column: int  # of the labels: 0 valence, 1 arousal, 2 dominance
    rows: NDArray[np.int64]  # (lists, 14) of the prompts
    asked: NDArray[np.float64]  # (lists, 14) what these prompts have of it
    convention: str


def axis_lists(prompts: Sequence[Prompt], lists: int) -> dict[str, AxisLists]:
    """The lists of "aoc" and "voc", `lists` each, of `prompts` of one style.

    List l takes paraphrase `(l // 14) % variants`. Raises UsageError where a prompt is missing.
    """
    points = np.array([prompt[2:4] for prompt in prompts], dtype=np.float64).reshape(-1, 2)
    by_words = bool(prompts) and prompts[0].style == WORD_NORMS
    found = {}
    for name, axis in AXES.items():
        rows = word_lists(prompts, axis, lists) if by_words else _prompt_rows(prompts, prompt_lists(axis, lists))
        fixed = "arousal" if axis == "valence" else "valence"
        kind = f"different rated words near a fixed {fixed}" if by_words else f"prompts at a fixed {fixed}"
        compared = "of words as people rated them and of what they retrieved" if by_words else "asked and found"
        convention = (
            f"Kendall's tau-b of {axis} {compared}, {lists} lists of {STEPS} {kind}, no utterance twice in a list, "
            "undefined tau counts 0; within a seed std is over lists"
        )
        found[name] = AxisLists(_COLUMN[axis], rows, points[rows, _COLUMN[axis]], convention)
    return found


def dominance_axis(prompts: Sequence[Prompt], lists: int) -> dict[str, AxisLists]:
    """The lists of "doc", of prompts of rated words. Raises UsageError where too few have a dominance."""
    rows = dominance_lists(prompts, lists)
    dominance = np.array([prompt.dominance for prompt in prompts], dtype=np.float64)
    convention = (
        f"Kendall's tau-b of dominance of words as people rated them and of what they retrieved, {lists} lists of "
        f"{STEPS} different rated words near one of {len(DOMINANCE_POINTS)} points of valence and arousal, in order of "
        "dominance, no utterance twice in a list, undefined tau counts 0; within a seed std is over lists"
    )
    return {"doc": AxisLists(2, rows, dominance[rows], convention)}


class OrdinalityTest:
    """The lists of one prompt set, asked of one set of utterances: chosen once, for any number of heads."""

    def __init__(
        self,
        labels: ArrayLike,
        prompts: Sequence[Prompt],
        lists: int,
        *,
        axes: Callable[[Sequence[Prompt], int], dict[str, AxisLists]] = axis_lists,
    ) -> None:
        """`labels` is (n, 2), valence and arousal, with `dominance_axis` (n, 3); where one is NaN it takes no part.

        Raises UsageError for fewer than 14 labelled utterances, or where a prompt is missing.
        """
        points = np.asarray(labels, dtype=np.float64)
        self.labelled = np.flatnonzero(np.isfinite(points).all(axis=1))  # (m,) of the utterances
        if len(self.labelled) < STEPS:
            raise UsageError(
                "ordinality",
                f"the split has {len(self.labelled)} utterances with {' and '.join(LABEL_COLUMNS[: points.shape[1]])}",
                f"at least {STEPS} (each of the {STEPS} prompts of a list retrieves a different utterance)",
                "Evaluate a larger split, with split=NAME.",
            )
        self.points = points[self.labelled]  # (m, 2) or (m, 3)
        whole = axes(prompts, lists)
        self.prompts = np.unique([axis.rows for axis in whole.values()])  # (P,) that a list asks
        asked = [[getattr(prompts[row], name) for name in LABEL_COLUMNS] for row in self.prompts.tolist()]
        self.prompt_points = np.array(asked, dtype=np.float64)[:, : points.shape[1]]  # (P, 2) or (P, 3)
        self.lists = {  # with `rows` of `self.prompts`
            name: AxisLists(axis.column, np.searchsorted(self.prompts, axis.rows), axis.asked, axis.convention)
            for name, axis in whole.items()
        }

    def nearest(self, speech: Tensor, vectors: Tensor, *, depth: int = DEPTH) -> NearestUtterances:
        """The labelled utterances by cosine to the P prompts that a list asks.

        `speech` is (n, d), `vectors` (prompts, d), of unit length. Raises EmotionRankError where one is not finite.
        """
        asked = vectors[torch.from_numpy(self.prompts).to(vectors.device)]
        if len(self.labelled) < len(speech):
            speech = speech[torch.from_numpy(self.labelled).to(speech.device)]

        def similarity(prompts: slice) -> NDArray[np.float32]:
            found: NDArray[np.float32] = (asked[prompts] @ speech.T).float().cpu().numpy()
            if not np.isfinite(found).all():
                expected, action = "unit vectors", "Train the heads again."
                raise EmotionRankError("ordinality", "similarities not finite", expected, action)
            return found

        return NearestUtterances(similarity, len(asked), depth=depth)

    def measure(self, nearest: NearestUtterances) -> dict[str, Any]:
        """AOC and VOC by the m utterances of each of the P prompts; returns what `ordinality` does."""
        result = {}
        for name, axis in self.lists.items():
            values = self.points[:, axis.column]
            kendall_taus = [
                kendall_tau(asked, values[nearest.retrieve(rows)])
                for asked, rows in zip(axis.asked, axis.rows, strict=True)
            ]
            defined = np.nan_to_num(kendall_taus, nan=0.0)
            result[name] = {
                **mean_and_std(defined),
                "taus": defined.tolist(),
                "undefined": sum(map(math.isnan, kendall_taus)),
                "convention": axis.convention,
            }
        return result


def ordinality(
    speech: Tensor, labels: ArrayLike, *, prompts: Sequence[Prompt], vectors: Tensor, lists: int = 100
) -> dict[str, Any]:
    """AOC and VOC over `lists` lists each (F13).

    Args:
        speech: (n, d) unit vectors of the split's utterances.
        labels: (n, 2) valence and arousal; utterances where either is NaN take no part.
        prompts: the prompts of one style. List l takes paraphrase (or sentence) `(l // 14) % variants`.
        vectors: (P, d) unit vectors of `prompts`.
        lists: per test.

    Returns:
        `{"aoc": {"mean", "std", "taus", "undefined", "convention"}, "voc": ...}`; std is over lists (n - 1). Where a
        list retrieves one value only, tau is undefined and counts as 0; `undefined` is their number.

    Raises:
        UsageError: fewer than 14 labelled utterances, or a prompt is missing. EmotionRankError: a vector is not finite.
    """
    test = OrdinalityTest(labels, prompts, lists)
    return test.measure(test.nearest(speech, vectors, depth=STEPS))


def prompt_lists(axis: Axis, lists: int) -> NDArray[np.float64]:
    """The points of the prompts, (lists, 14, 2) of (valence, arousal): `axis` runs through 0.5 ... 7.0 in every list.

    The other dimension is fixed at 0.5 in the first list and 0.5 more in each next one; after 7.0 it starts again.
    """
    points = np.empty((lists, STEPS, 2))
    points[:, :, _COLUMN[axis]] = VALUES
    points[:, :, 1 - _COLUMN[axis]] = VALUES[np.arange(lists) % STEPS][:, None]
    return points


def _prompt_rows(prompts: Sequence[Prompt], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows of `prompts` for each list of `points` (lists, 14, 2): (lists, 14)."""
    row_of = {(p.valence, p.arousal, p.variant): row for row, p in enumerate(prompts)}
    variants = 1 + max((p.variant for p in prompts), default=0)
    keys = [[(v, a, number // STEPS % variants) for v, a in each] for number, each in enumerate(points.tolist())]
    missing = list(dict.fromkeys(key for of_list in keys for key in of_list if key not in row_of))
    if missing:
        named = ", ".join(f"valence {v} arousal {a} variant {k}" for v, a, k in missing[:3])
        raise UsageError(
            "ordinality",
            f"{len(missing)} prompts are missing ({named}{', ...' if len(missing) > 3 else ''})",
            f"every point of {VALUES[0]}, 1.0 ... {VALUES[-1]} in each of {variants} variants",
            "Run extract-features again, with the prompts of this caption style.",
        )
    return np.array([[row_of[key] for key in of_list] for of_list in keys], dtype=np.int64)
