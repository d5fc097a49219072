"""A sweep's score against each of its dimensions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import ceil
from typing import Any

from pipeline.report.drawing import BLUE, ORANGE, drawable
from pipeline.report.exhibit import Exhibit
from pipeline.sweeps.axes import Row, axis_name, highest, place, score_name, scored, ticks, wiggle
from pipeline.sweeps.space import Choices, Space

NAME = "dimensions"
_ACROSS = 4
_ROOM = 10  # letters of a panel's ticks that stand level
Point = tuple[str, int, Any, float, bool, bool]  # dimension, trial, value, score, whether it went on, whether the best


def dimensions(space: Space, rows: Sequence[Row]) -> Exhibit:
    """A panel for each dimension, a dot for each trial that has it and a score."""
    best = next((row["number"] for row in rows if row["state"] == "complete"), None)
    found = scored(rows)
    points: list[Point] = [
        (name, row["number"], row["params"][name], score, _went_on(row), row["number"] == best)
        for name in space.dimensions
        for row, score in found
        if name in row["params"]
    ]
    across = min(_ACROSS, len(space.dimensions))
    lines = ceil(len(space.dimensions) / _ACROSS)
    filled = "; full dots went on from there, the star is the best trial" if space.config.halving else ""
    return Exhibit(
        NAME,
        "The score against each setting",
        f"{score_name(space)[0].upper()}{score_name(space)[1:]}{filled}. At listed values dots are spread a little and "
        "the bar is their mean; settings vary together, so a difference may be another setting's.",
        ("dimension", "trial", "value", score_name(space), "went on"),
        [point[:5] for point in points],
        lambda figure: _draw(figure, space, points, across),
        (max(5.0, 2.6 * across), 2.7 * lines + 0.3),
    )


def _went_on(row: Row) -> bool:
    return row["state"] == "complete" or len(row["rungs"]) > 1


def _draw(figure: Any, space: Space, points: Sequence[Point], across: int) -> None:
    grid = figure.subplots(ceil(len(space.dimensions) / across), across, sharey=True, squeeze=False)
    for spare in grid.flat[len(space.dimensions) :]:
        spare.set_visible(False)
    for axes, name in zip(grid.flat, space.dimensions, strict=False):
        _panel(axes, space, name, [point for point in points if point[0] == name])
    better = "higher is better →" if highest(space) else "← lower is better"
    figure.supylabel(f"{score_name(space)} ({better})", fontsize=9)


def _panel(axes: Any, space: Space, name: str, points: Sequence[Point]) -> None:
    dimension, draw = space.dimensions[name], random.Random(0)
    level = [(place(dimension, point[2]) or 0.0, drawable(point[3])) for point in points]
    spread = [(x + 2 * wiggle(dimension, draw), y) for x, y in level]
    for best, on, look in (
        (False, False, {"facecolors": "white", "edgecolors": "0.35", "s": 16}),
        (False, True, {"facecolors": BLUE, "edgecolors": BLUE, "s": 16}),
        (True, True, {"marker": "*", "color": ORANGE, "edgecolors": "black", "s": 130, "zorder": 4}),
    ):
        chosen = [at for at, point in zip(spread, points, strict=True) if point[4:] == (on, best)]
        axes.scatter([x for x, _ in chosen], [y for _, y in chosen], linewidths=0.8, **look)
    marks = ticks(dimension)
    if isinstance(dimension, Choices):
        for x, _ in marks:
            at = [y for of, y in level if of == x]
            if at:
                half = 0.35 / len(marks)
                axes.plot([x - half, x + half], [sum(at) / len(at)] * 2, color="black", linewidth=1.6, zorder=3)
    long = len(marks) * max(len(text) for _, text in marks) > 3 * _ROOM
    axes.set_xticks([x for x, _ in marks], [text for _, text in marks], rotation=40 if long else 0, fontsize=8)
    if long:
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.set(xlim=(-0.06, 1.06))
    axes.set_title(axis_name(space, name).replace("\n", " "), fontsize=9)
