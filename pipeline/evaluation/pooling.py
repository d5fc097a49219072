"""One measure of several seeds (and folds) as one result, each of its spreads under a name that says of what it is.

Units of replication are seeds ("this training is better on this test set") and test speakers ("on other speech too").
Lists and trials of one evaluation share utterances: their std is given and never tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluation.significance import corrected_interval, mean_and_std, refuse_few_folds

MIN_SPEAKERS = 5  # known ones of a split, below which resamples of them say nothing
INTERVAL = (2.5, 97.5)  # per cent of the draws
# the tests whose measures hold a list of values, one a list or trial, and the list's key
VALUES_KEYS = {"ordinality": "taus", "word_norms": "taus", "dominance": "taus", "alignment": "values"}


def over_seeds(
    values: Sequence[float],
    convention: str,
    *,
    list_std: float | None = None,
    speakers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A measure of all seeds together.

    Args:
        values: one a seed; of a measure over lists or trials, the seed's mean.
        convention: of one seed's value; what each spread is over is said by its name, and below every table.
        list_std: the mean over seeds of the std over lists (or trials) within a seed.
        speakers: what `over_speakers` returned for this measure.

    Returns:
        `{"mean", "std", "seed_values", "list_std", "convention", "speakers"}`: mean and std (n - 1; 0 for one) are over
        seeds; without `list_std` or `speakers` there is no such key.
    """
    return {
        **mean_and_std(values),
        "seed_values": list(map(float, values)),
        **({} if list_std is None else {"list_std": float(list_std)}),
        "convention": convention,
        **({} if speakers is None else {"speakers": dict(speakers)}),
    }


def pooled(
    seeds: Mapping[str, Mapping[str, Any]], speakers: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Every test of all seeds together; `speakers` holds intervals by test and measure."""
    tests: dict[str, dict[str, Any]] = {}
    for test in VALUES_KEYS:
        of_seeds = [seed[test] for seed in seeds.values() if test in seed]
        if not of_seeds:
            continue
        tests[test] = {}
        for name, first in of_seeds[0].items():
            if not isinstance(first, Mapping):
                tests[test][name] = first
                continue
            tests[test][name] = over_seeds(
                [measures[name]["mean"] for measures in of_seeds],
                first["convention"],
                list_std=float(np.mean([measures[name]["std"] for measures in of_seeds])),
                speakers=speakers.get((test, name)),
            )
    return tests


class Figures(Protocol):
    """A test that gives each seed one number a measure."""

    def conventions(self) -> dict[str, str]: ...
    def chance(self) -> dict[str, float]: ...


def figures_over_seeds(test: Figures, of_seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """What `over_seeds` makes of each measure of `of_seeds`, and its `chance` where that is known."""
    conventions, chance = test.conventions(), test.chance()
    return {
        name: {
            **over_seeds([values[name] for values in of_seeds], conventions[name]),
            **({"chance": chance[name]} if name in chance else {}),
        }
        for name in of_seeds[0]
    }


def over_speakers(draws: NDArray[np.float64] | Sequence[float], *, count: int, left_out: int) -> dict[str, Any]:
    """`{"n", "left_out", "std", "low", "high", "draws"}` of (B,) values on resamples of `count` speakers.

    `left_out` counts the utterances of unknown speakers, which have no part in it. low and high are `INTERVAL`'s
    percentiles of the draws.
    """
    low, high = np.percentile(draws, INTERVAL)
    return {
        "n": count,
        "left_out": left_out,
        "std": mean_and_std(draws)["std"],
        "low": float(low),
        "high": float(high),
        "draws": np.asarray(draws, dtype=np.float64).tolist(),
    }


def over_folds(values: ArrayLike, *, ratio: float) -> dict[str, Any]:
    """One measure of one method over (k, s) values of k folds and s seeds, `ratio` their `resampling_ratio`.

    Returns `{"mean", "fold_std", "seed_std", "seed_values", "fold_values", "low", "high"}`: the mean of all; the
    sample std over folds of the means over seeds (`fold_values`, k of them), and over seeds of the means over folds
    (`seed_values`, s of them; std 0 for one seed); the 95 % interval of the mean on other speech.

    Raises UsageError for fewer than two folds, or a value that is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    refuse_few_folds(table)
    of_fold, of_seed = table.mean(axis=1), table.mean(axis=0)
    low, high = corrected_interval(of_fold, ratio=ratio)
    return {
        "mean": float(table.mean()),
        "fold_std": mean_and_std(of_fold)["std"],
        "seed_std": mean_and_std(of_seed)["std"],
        "seed_values": of_seed.tolist(),
        "fold_values": of_fold.tolist(),
        "low": low,
        "high": high,
    }
