"""One measure of several seeds as one result, with each of its spreads under a name that says of what it is.

Units of replication are seeds ("this training is better on this test set") and test speakers ("on other speech too").
Lists and trials of one evaluation share utterances: their std is given and never tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.significance import mean_and_std

MIN_SPEAKERS = 5  # known ones of a split, below which resamples of them say nothing
INTERVAL = (2.5, 97.5)  # per cent of the draws


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
