"""The axis of a sweep's dimension: where a value stands on it, its ticks, its name; and the score of every trial."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from pipeline.evaluation.report.drawing import BLUE, ORANGE, Figure, drawable
from pipeline.evaluation.report.page import label
from pipeline.experiments.sweeps.bracket import last_rung
from pipeline.experiments.sweeps.config import Halving, Range
from pipeline.experiments.sweeps.space import Choices, Space

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
    return [(place(dimension, value) or 0.0, format_value(value)) for value in values]


def axis_name(space: Space, name: str) -> str:
    """A dimension in as few words as tell it."""
    dimension = space.dimensions[name]
    short = label(name.removeprefix("objective."), _LONGEST)
    return f"{short}\n(log)" if isinstance(dimension, Range) and dimension.log else short


def format_value(value: Any) -> str:
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


NAME = "dimensions"
_ACROSS = 4
_ROOM = 10  # letters of a panel's ticks that stand level
Point = tuple[str, int, Any, float, bool, bool]  # dimension, trial, value, score, whether it went on, whether the best


def dimensions(space: Space, rows: Sequence[Row]) -> Figure:
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
    return Figure(
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


HALVING_NAME = "halving"
ON, STOPPED, END = "went on", "stopped", "reached the end"
_FATES = {"complete": END, "pruned": STOPPED, "fail": "failed", "running": "still training", "waiting": "waiting"}
_ASIDE = 0.07  # of the room between two rungs
_WRITABLE = 10**6
Line = tuple[int | None, int, int, float, str]  # bracket, trial, rung, score, what came of it


def halving(space: Space, rows: Sequence[Row], brackets: Mapping[int, int]) -> Figure:
    """The scores of every trial at every rung; `brackets` are the first trial of each one's bracket."""
    lines = [line for row in sorted(rows, key=lambda row: int(row["number"])) for line in _fared(space, row, brackets)]
    return Figure(
        HALVING_NAME,
        "Scores rung by rung",
        "Every rung has a scale of its own, the better above: scores of different rungs are asked of other lists and "
        "are not comparable, and a line says which trial it is and not that it rose. Dots went on, rings were stopped; "
        "the star is the best trial. Trials are ranked within their bracket, so a ring may stand above a dot of "
        "another one.",
        ("bracket", "trial", "rung", space.config.score, "what came of it"),
        lines,
        lambda figure: _draw_halving(figure, space, lines, next((row["number"] for row in rows if _ended(row)), None)),
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


def _draw_halving(figure: Any, space: Space, lines: Sequence[Line], best: int | None) -> None:
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


IMPORTANCE_NAME = "importance"
FEWEST = 4  # trials with a score


def importance(space: Space, weights: Mapping[str, float], trials: int) -> Figure:
    """A bar for each dimension of `weights`, which are `importances` of so many trials."""
    ranked = sorted(weights.items(), key=lambda each: (-each[1], each[0]))
    return Figure(
        IMPORTANCE_NAME,
        "Importance",
        f"Each dimension's share in what sets the best quarter of {trials} trials apart, by {score_name(space)} "
        "(PED-ANOVA; the shares sum to 1). Of few trials it is a hint, and no more.",
        ("dimension", "importance"),
        ranked,
        lambda figure: _draw_importance(figure, ranked),
        (8.0, 0.9 + 0.32 * len(ranked)),
    )


def _draw_importance(figure: Any, ranked: Sequence[tuple[str, float]]) -> None:
    axes = figure.add_subplot()
    bars = axes.barh([label(name) for name, _ in ranked], [weight for _, weight in ranked], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the importance", xlim=(0, max(weight for _, weight in ranked) * 1.15 or 1))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


PARALLEL_NAME = "parallel_coordinates"
_ABREAST = 6  # dimensions side by side; more stand in rows, each with the score at its end
_MANY = 100  # trials from which those that were stopped first are hairlines
_PALEST = 0.88  # of viridis: its yellow is lost on white paper


def parallel_coordinates(space: Space, rows: Sequence[Row]) -> Figure:
    """A line a trial with a score."""
    found, names = scored(rows), list(space.dimensions)
    thick = "; thicker lines got further" if space.config.halving else ""
    lines = ceil(len(names) / _ABREAST)
    return Figure(
        PARALLEL_NAME,
        "Every trial through its values",
        f"{len(found)} trials, a line each, the best on top; the last axis and the colour are {score_name(space)}, "
        f"darker is better{thick}. At listed values lines are spread a little.",
        ("trial", "state", "rung", *names, score_name(space)),
        [
            (row["number"], row["state"], row["rung"], *(row["params"].get(name) for name in names), score)
            for row, score in found
        ],
        lambda figure: _draw_parallel(figure, space, found),
        (10.0, 4.4 * lines),
    )


def _draw_parallel(figure: Any, space: Space, found: Sequence[tuple[Row, float]]) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    names = list(space.dimensions)
    scale = Scale([score for _, score in found], rising=highest(space))
    shades = [colormaps["viridis"](_PALEST * k / 255) for k in range(256)]
    low_to_high = ListedColormap(shades[::-1] if highest(space) else shades)
    colours = ScalarMappable(Normalize(scale.low, scale.high), low_to_high)
    panels = figure.subplots(ceil(len(names) / _ABREAST), 1, squeeze=False)[:, 0]
    each = ceil(len(names) / len(panels))
    for line, axes in enumerate(panels):
        abreast = names[line * each : (line + 1) * each]
        _lines(axes, space, abreast, found, scale, colours)
        for x, name in enumerate(abreast):
            upright(axes, x, ticks(space.dimensions[name]))
        upright(axes, len(abreast), scale.ticks())
        bare(axes, [*(axis_name(space, name) for name in abreast), score_name(space).replace(" on", "\non")])
    figure.colorbar(colours, ax=list(panels), label=score_name(space), pad=0.01)


def _lines(
    axes: Any, space: Space, names: Sequence[str], found: Sequence[tuple[Row, float]], scale: Scale, colours: Any
) -> None:
    from matplotlib.collections import LineCollection

    draw = random.Random(0)
    points, widths, shades = [], [], []
    for row, score in sorted(found, key=lambda each: (each[0]["rung"] or 0, scale(each[1]))):
        dimensions = [space.dimensions[name] for name in names]
        at = row["params"]
        places = [place(of, at[name]) if name in at else None for of, name in zip(dimensions, names, strict=True)]
        heights = [y if y is None else y + wiggle(of, draw) for of, y in zip(dimensions, places, strict=True)]
        points.append([(x, y) for x, y in enumerate([*heights, scale(score)]) if y is not None])
        further = (row["rung"] or 1) - 1
        crowd = not further and len(found) >= _MANY
        widths.append(0.4 if crowd else 0.8 + 0.9 * further)
        shades.append(colours.to_rgba(score, alpha=0.5 if crowd else 0.85))
    axes.add_collection(LineCollection(points, colors=shades, linewidths=widths))
