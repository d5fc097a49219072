"""Ordinality (F13, Table 2): do prompts of rising valence or arousal retrieve utterances of rising valence or arousal?

A list is 14 prompts: one dimension fixed, the other run through 0.5, 1.0 ... 7.0. Each prompt retrieves its nearest
utterance; Kendall's tau-b compares the values asked for with those of the labels found. VOC (valence ordinal
consistency) runs valence at a fixed arousal, AOC runs arousal at a fixed valence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau
from torch import Tensor

from cache.captions import Prompt
from pipeline.core.errors import EmotionRankError, UsageError

Axis = Literal["valence", "arousal"]
STEPS = 14
VALUES: NDArray[np.float64] = 0.5 * np.arange(1, STEPS + 1, dtype=np.float64)  # 0.5, 1.0 ... 7.0
AXES: dict[str, Axis] = {"aoc": "arousal", "voc": "valence"}

NULL_STD = math.sqrt(2 * (2 * STEPS + 5) / (9 * STEPS * (STEPS - 1)))
"""Std of tau where the order found is random: sqrt(2 (2n + 5) / (9 n (n - 1))) = .2007 at n = 14 (Kendall 1938)."""


def null_standard_error(lists: int) -> float:
    """Std of the mean tau of `lists` independent lists of random order: `NULL_STD / sqrt(lists)`.

    Lists of one evaluation are not independent: they retrieve from the same utterances with neighbouring prompts, so
    the true spread of their mean is larger. A mean inside this band is chance; one outside it need not be more.
    """
    return NULL_STD / math.sqrt(lists)


def ordinality(
    speech: Tensor, labels: ArrayLike, *, prompts: Sequence[Prompt], vectors: Tensor, lists: int = 100
) -> dict[str, Any]:
    """AOC and VOC over `lists` lists each (F13).

    Args:
        speech: (n, d) unit vectors of the split's utterances.
        labels: (n, 2) valence and arousal; utterances where either is NaN take no part.
        prompts: the prompts of one style. List l asks in paraphrase `(l // 14) % variants`.
        vectors: (P, d) unit vectors of `prompts`.
        lists: per test.

    Returns:
        `{"aoc": {"mean", "std", "taus", "undefined", "convention"}, "voc": ...}`; std is over lists (n - 1). Where a
        list finds one value only, tau is undefined and counts as 0; `undefined` says how many did.

    Raises:
        UsageError: fewer than 14 labelled utterances, or a prompt is missing. EmotionRankError: a vector is not finite.
    """
    points = np.asarray(labels, dtype=np.float64)
    labelled = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(labelled) < STEPS:
        raise UsageError(
            "ordinality",
            f"{len(labelled)} utterances with valence and arousal",
            f"at least {STEPS} in the split (a list retrieves {STEPS}, none twice)",
            "Evaluate another split.",
        )
    asked = {name: prompt_lists(axis, lists) for name, axis in AXES.items()}
    rows_of = {name: _prompt_rows(prompts, asked[name]) for name in AXES}
    similarity = (
        (vectors @ speech[torch.from_numpy(labelled)].T).float().cpu().numpy()
    )  # (P, labelled): 1,568 prompts x 35,000 are 220 MB
    if not np.isfinite(similarity).all():
        raise EmotionRankError(
            "ordinality", "similarities that are not finite", "unit vectors", "Train the heads again."
        )
    result = {}
    for name, axis in AXES.items():
        found = points[labelled, _column(axis)]
        result[name] = _summary([tau(VALUES, found[retrieve(similarity[rows])]) for rows in rows_of[name]], axis)
    return result


def prompt_lists(axis: Axis, lists: int) -> NDArray[np.float64]:
    """The points asked for, (lists, 14, 2) of (valence, arousal): `axis` runs through 0.5 ... 7.0 in every list.

    The other dimension is fixed at 0.5 in the first list and 0.5 more in each next one; after 7.0 it starts again.
    """
    points = np.empty((lists, STEPS, 2))
    points[:, :, _column(axis)] = VALUES
    points[:, :, 1 - _column(axis)] = VALUES[np.arange(lists) % STEPS][:, None]
    return points


def retrieve(similarity: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """For each prompt, in the order of the list, its nearest utterance that none before it took.

    `similarity` is (prompts, n), n >= prompts; of equally near ones the first is taken. Returns (prompts,) columns.
    """
    left = similarity.copy()
    found = np.empty(len(left), dtype=np.int64)
    for prompt, row in enumerate(left):
        found[prompt] = row.argmax()
        left[:, found[prompt]] = -np.inf
    return found


def tau(asked: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Kendall's tau-b; NaN where either side is all equal."""
    return float(kendalltau(asked, found, variant="b").statistic)


def _column(axis: Axis) -> int:
    return 0 if axis == "valence" else 1


def _prompt_rows(prompts: Sequence[Prompt], asked: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which prompt each place of each list is: (lists, 14) rows of `prompts`."""
    row_of = {(p.valence, p.arousal, p.variant): row for row, p in enumerate(prompts)}
    variants = 1 + max((p.variant for p in prompts), default=0)
    keys = [[(v, a, number // STEPS % variants) for v, a in points] for number, points in enumerate(asked.tolist())]
    missing = list(dict.fromkeys(key for places in keys for key in places if key not in row_of))
    if missing:
        named = ", ".join(f"valence {v} arousal {a} variant {k}" for v, a, k in missing[:3])
        raise UsageError(
            "ordinality",
            f"{len(missing)} prompts are missing ({named}{', ...' if len(missing) > 3 else ''})",
            f"every point of {VALUES[0]}, 1.0 ... {VALUES[-1]} in each of {variants} variants",
            "Run extract-features again, with the prompts of this caption style.",
        )
    return np.array([[row_of[key] for key in places] for places in keys], dtype=np.int64)


def _summary(taus: list[float], axis: Axis) -> dict[str, Any]:
    undefined = sum(map(math.isnan, taus))
    values = np.nan_to_num(taus, nan=0.0)
    fixed = "arousal" if axis == "valence" else "valence"
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "taus": values.tolist(),
        "undefined": undefined,
        "convention": (
            f"Kendall's tau-b of {axis} asked and found, {len(taus)} lists of {STEPS} prompts at a fixed {fixed}, no "
            "utterance twice in a list, undefined tau counts 0; std over lists"
        ),
    }
