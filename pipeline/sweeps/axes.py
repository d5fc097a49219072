"""The axis of a sweep's dimension: where a value stands on it, its ticks, its name; and the score of every trial."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.drawing import drawable
from pipeline.report.text import label
from pipeline.sweeps.config import Range
from pipeline.sweeps.space import Choices, Space

Row = Mapping[str, Any]  # of `sweeps.trials.rows_of`
Tick = tuple[float, str]
_JITTER = 0.12  # of the room of a listed value, so that lines and dots at it are told apart
_LONGEST = 16


def first_score(row: Row) -> float | None:
    """What every trial that got anywhere has: the score at the first rung, or at the end where nothing is halved."""
    found: float | None = next(iter(row["rungs"].values()), row["score"])
    return found


def scored(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """The trials with a first score, by number."""
    found = [(row, score) for row in rows if (score := first_score(row)) is not None]
    return sorted(found, key=lambda each: each[0]["number"])


def score_name(space: Space) -> str:
    """The first score, in words."""
    return f"{space.config.score} on dev" + (" at rung 1" if space.config.halving else " at the end")


def highest(space: Space) -> bool:
    """Whether a higher score is a better one."""
    return space.config.score == "ordinality"


def place(dimension: Range | Choices, value: Any) -> float | None:
    """Where on its axis, 0 to 1, a value of a dimension is; None where the trial has no such setting."""
    if isinstance(dimension, Choices):
        listed = in_order(dimension)
        return (listed.index(value) + 0.5) / len(listed) if value in listed else None
    if value is None:
        return None
    low, high, at = (math.log(v) if dimension.log else float(v) for v in (dimension.low, dimension.high, value))
    return (at - low) / (high - low)


def in_order(choices: Choices) -> list[Any]:
    """Numbers rise; all else stays as it was listed."""
    listed = choices.known_as
    numbers = all(isinstance(value, int | float) for value in listed)
    return sorted(listed, key=float) if numbers else listed


def wiggle(dimension: Range | Choices, draw: random.Random) -> float:
    """A small shift for one trial at a listed value, in shares of the axis."""
    return draw.uniform(-1, 1) * _JITTER / len(dimension.values) if isinstance(dimension, Choices) else 0.0


def ticks(dimension: Range | Choices) -> list[Tick]:
    """(place, text) of listed values, powers of ten, or five even ones."""
    if isinstance(dimension, Choices):
        values = in_order(dimension)
    elif dimension.log:
        powers = range(math.ceil(math.log10(dimension.low) - 1e-9), math.floor(math.log10(dimension.high) + 1e-9) + 1)
        values = [10.0**power for power in powers] if len(powers) > 1 else [dimension.low, dimension.high]
    else:
        values = [dimension.low + (dimension.high - dimension.low) * k / 4 for k in range(5)]
    return [(place(dimension, value) or 0.0, shown(value)) for value in values]


def axis_name(space: Space, name: str) -> str:
    """A dimension in as few words as tell it."""
    dimension = space.dimensions[name]
    short = label(name.removeprefix("objective."), _LONGEST)
    return f"{short}\n(log)" if isinstance(dimension, Range) and dimension.log else short


def shown(value: Any) -> str:
    """A value as a tick's text."""
    return f"{value:.3g}" if isinstance(value, float) else label(value, _LONGEST)


class Scale:
    """Scores on an upright axis, 0 to 1 upwards, the better above; NaN where a score is no sane number."""

    def __init__(self, scores: Sequence[float], *, rising: bool) -> None:
        sane = [score for score in map(drawable, scores) if not math.isnan(score)] or [0.0]
        self.low, self.high, self._rising = min(sane), max(sane), rising

    def __call__(self, score: float) -> float:
        if self.high == self.low:
            return 0.5
        share = (drawable(score) - self.low) / (self.high - self.low)
        return share if self._rising else 1 - share

    def ticks(self) -> list[Tick]:
        from matplotlib.ticker import MaxNLocator

        found = MaxNLocator(6).tick_values(self.low, self.high) if self.high > self.low else [self.low]
        return [(self(float(value)), f"{value:.4g}") for value in found if self.low <= value <= self.high]


def upright(axes: Any, x: float, marks: Sequence[Tick]) -> None:
    """An axis of its own at `x` of a panel that is 0 to 1 high, its ticks' texts to its left."""
    axes.axvline(x, color="0.35", linewidth=1, zorder=3)
    for y, text in marks:
        axes.plot([x - 0.02, x + 0.02], [y, y], color="0.35", linewidth=1, zorder=3)
        boxed = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
        axes.text(x - 0.035, y, text, ha="right", va="center", fontsize=8, zorder=4, bbox=boxed)


def bare(axes: Any, names: Sequence[str]) -> None:
    """A panel of upright axes, named below, and nothing else."""
    axes.set(xlim=(-0.3, len(names) - 0.85), ylim=(-0.03, 1.03), yticks=[])
    axes.set_xticks(range(len(names)), names)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=8)
