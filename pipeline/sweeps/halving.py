"""How a sweep's trials fared from rung to rung."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.drawing import BLUE, ORANGE
from pipeline.report.exhibit import Exhibit
from pipeline.sweeps.axes import Row, Scale, bare, highest, upright
from pipeline.sweeps.config import Halving
from pipeline.sweeps.rungs import last_rung
from pipeline.sweeps.space import Space

NAME = "halving"
ON, STOPPED, END = "went on", "stopped", "reached the end"
_FATES = {"complete": END, "pruned": STOPPED, "fail": "failed", "running": "still training", "waiting": "waiting"}
_ASIDE = 0.07  # of the room between two rungs
_WRITABLE = 10**6
Line = tuple[int | None, int, int, float, str]  # bracket, trial, rung, score, what came of it


def halving(space: Space, rows: Sequence[Row], brackets: Mapping[int, int]) -> Exhibit:
    """The scores of every trial at every rung; `brackets` are the first trial of each one's bracket."""
    lines = [line for row in sorted(rows, key=lambda row: int(row["number"])) for line in _fared(space, row, brackets)]
    return Exhibit(
        NAME,
        "Scores rung by rung",
        "Every rung has a scale of its own, the better above: scores of different rungs are asked of other lists and "
        "are not comparable, and a line says which trial it is and not that it rose. Dots went on, rings were stopped; "
        "the star is the best trial. Trials are ranked within their bracket, so a ring may stand above a dot of "
        "another one.",
        ("bracket", "trial", "rung", space.config.score, "what came of it"),
        lines,
        lambda figure: _draw(figure, space, lines, next((row["number"] for row in rows if _ended(row)), None)),
        (10.0, 4.4),
    )


def _ended(row: Row) -> bool:
    return bool(row["state"] == "complete")


def _fared(space: Space, row: Row, brackets: Mapping[int, int]) -> list[Line]:
    """A trial's scores on the way, and at the end where it got there."""
    scores = {int(rung): score for rung, score in row["rungs"].items()}
    if _ended(row):
        scores[last_rung(space.config.halving)] = row["score"]
    bracket, last = brackets.get(row["number"]), max(scores, default=0)
    went = {rung: _FATES[row["state"]] if rung == last else ON for rung in scores}
    return [(bracket, row["number"], rung, score, went[rung]) for rung, score in sorted(scores.items())]


def _draw(figure: Any, space: Space, lines: Sequence[Line], best: int | None) -> None:
    axes, config = figure.add_subplot(), space.config.halving
    assert config is not None
    rungs = range(1, last_rung(config) + 1)
    scales = {rung: Scale([line[3] for line in lines if line[2] == rung], rising=highest(space)) for rung in rungs}
    points = _points(lines, scales)
    for number, path in points.items():
        colour, width, above = (ORANGE, 2.0, 5) if number == best else ("0.6", 0.8, 1)
        across, up = zip(*path.values(), strict=True)
        axes.plot(across, up, color=colour, linewidth=width, zorder=above)
    for went, look in (
        (STOPPED, {"marker": "o", "facecolors": "white", "edgecolors": "0.35"}),
        (ON, {"marker": "o", "facecolors": BLUE, "edgecolors": BLUE}),
    ):
        of = [points[line[1]][line[2]] for line in lines if (line[4] in (ON, END)) == (went == ON)]
        axes.scatter([x for x, _ in of], [y for _, y in of], s=22, zorder=2 if went == STOPPED else 3, **look)
    if best is not None:
        axes.scatter(*points[best][rungs[-1]], marker="*", s=190, color=ORANGE, edgecolors="black", zorder=6)
    for rung in rungs:
        upright(axes, rung - 1, scales[rung].ticks() if any(line[2] == rung for line in lines) else [])
    bare(axes, [_named(rung, config) for rung in rungs])


def _points(lines: Sequence[Line], scales: Mapping[int, Scale]) -> dict[int, dict[int, tuple[float, float]]]:
    """Where each trial stands at each rung; right of the axis, each a little elsewhere."""
    draw = random.Random(0)
    points: dict[int, dict[int, tuple[float, float]]] = {}
    for _, trial, rung, score, _ in lines:
        aside = 0.02 + _ASIDE * draw.random() if rung < len(scales) else 0.0
        points.setdefault(trial, {})[rung] = (rung - 1 + aside, scales[rung](score))
    return points


def _named(rung: int, halving: Halving) -> str:
    left = halving.factor ** (last_rung(halving) - rung)
    share = f"1/{left}" if left < _WRITABLE else f"1/{left:.0e}"
    return "the end\nall steps" if left == 1 else f"rung {rung}\n{share} of the steps"
