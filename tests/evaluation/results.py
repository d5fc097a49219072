"""Results as `evaluate` and `reference_results` return them, made of drawn numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

SPEAKERS, DRAWS = 12, 200


def pooled(values: np.ndarray, convention: str, *, draws: np.ndarray | None = None, **more: Any) -> dict[str, Any]:
    """One measure pooled over seeds, with resamples of speakers where there are `draws`."""
    entry = {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "seed_values": values.tolist(),
        "convention": convention,
        **more,
    }
    if draws is not None:
        low, high = np.percentile(draws, (2.5, 97.5)).tolist()
        std = float(draws.std(ddof=1))
        entry["speakers"] = {"n": SPEAKERS, "std": std, "low": low, "high": high, "draws": draws.tolist()}
    return entry


def result(
    tau: float, distance: float, seed: int, *, seeds: int = 6, noise: float = 0.01, **more: Any
) -> dict[str, Any]:
    """An evaluation of `seeds` seeds: AOC about `tau`, VOC .1 above, by other prompts .2 below, distances `distance`.

    All results find the same speakers hard; `noise` is what seeds and resamples differ by.
    """
    own, shared = np.random.default_rng(seed), np.random.default_rng(99)
    hard = 0.1 * shared.standard_normal(DRAWS)

    def order(mean: float, convention: str) -> dict[str, Any]:
        draws = mean + hard + noise * own.standard_normal(DRAWS)
        return pooled(mean + noise * own.standard_normal(seeds), convention, draws=draws, list_std=0.18)

    def apart(scale: float, convention: str) -> dict[str, Any]:
        values = scale * (distance + 0.1 * noise * own.standard_normal(seeds))
        return pooled(values, convention, list_std=0.002)

    return {
        "split": "test1",
        "utterances": 34_963,
        "ordinality": {"aoc": order(tau, "tau-b of arousal"), "voc": order(tau + 0.1, "tau-b of valence")},
        "word_norms": {"aoc": order(tau - 0.2, "words' arousal"), "voc": order(tau - 0.1, "words' valence")},
        "alignment": {
            "mmd_median": apart(2, "median width"),
            "wasserstein_relative": apart(3, "over the median distance"),
            "mmd": apart(1, "MMD, k = exp(-gamma |x - y|^2)"),
            "wasserstein": apart(4, "exact & Euclidean"),
            "trials": 30,
            "pairs": 5000,
        },
        "seeds": {str(each): {} for each in range(seeds)},
        **more,
    }


def bound(tau: float, convention: str, **more: Any) -> dict[str, Any]:
    """A reference row: order alone, one value, no std."""
    one = pooled(np.array([tau]), convention, list_std=0.1)
    return {"ordinality": {"aoc": one, "voc": one}, "word_norms": {"aoc": one, "voc": one}, **more}
