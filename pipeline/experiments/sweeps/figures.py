"""The figures of a sweep's report.

Drawn by hand: Optuna's own plots (5.0, all experimental) open pyplot figures of their own, set texts over each other
from six dimensions on, fail at scores of 1e308, and draw the scores of different rungs on one axis. Importance is
computed by Optuna (report.importances).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from pipeline.evaluation.report.drawing import BLUE, ORANGE, Figure, drawable
from pipeline.evaluation.report.page import label
from pipeline.experiments.sweeps.bracket import last_rung
from pipeline.experiments.sweeps.config import Choices, Dimension, Halving, Range
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.tables import STATES, Row

HALVING, PARALLEL, DIMENSIONS, IMPORTANCE = "halving", "parallel_coordinates", "dimensions", "importance"
JITTER = 0.12  # of the room of a listed value, so that lines and dots at it do not hide each other
LABEL_LENGTH = 16
LEVEL_LETTERS = 30  # of the ticks of a panel; where there are more, they are slanted
PANELS_IN_A_ROW = 4
DIMENSIONS_IN_A_ROW = 6
MANY_TRIALS = 100  # from which those that were stopped first are hairlines
VIRIDIS_END = 0.88  # its yellow is lost on white paper
MAX_WRITTEN_PARTS = 10**6  # 1/n of the steps is written out up to here
PROMOTED = "went on"  # in the CSV
OUTCOMES = {"complete": "reached the end", "pruned": "stopped"} | {
    state: STATES[state] for state in ("fail", "running", "waiting")
}
STOPPED_DOT: dict[str, Any] = {"facecolors": "white", "edgecolors": "0.35"}
PROMOTED_DOT: dict[str, Any] = {"facecolors": BLUE, "edgecolors": BLUE}
BEST_STAR: dict[str, Any] = {"marker": "*", "color": ORANGE, "edgecolors": "black"}
Tick = tuple[float, str]


def scored(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """The trials with a score, by number, and the score that all of them have: at rung 1, or at the only end."""
    first = [(row, next(iter(row["rungs"].values()), row["score"])) for row in rows]
    return sorted((each for each in first if each[1] is not None), key=lambda each: each[0]["number"])


def score_name(space: Space) -> str:
    """That score, in words."""
    return f"{space.config.score} on dev" + (" at rung 1" if space.config.halving else " at the end")


def score_label(space: Space) -> str:
    """The same, and where it is better."""
    return f"{score_name(space)} ({'higher is better →' if space.config.maximise else '← lower is better'})"


def best_trial(rows: Sequence[Row]) -> int | None:
    """The number of the best trial that reached the end."""
    return next((row["number"] for row in rows if row["state"] == "complete"), None)


def axis_position(dimension: Dimension, value: Any) -> float | None:
    """Where a value is on its dimension's axis, 0 to 1; None where the trial has no such setting."""
    if isinstance(dimension, Choices):
        listed = in_order(dimension)
        return (listed.index(value) + 0.5) / len(listed) if value in listed else None
    if value is None:
        return None
    low, high, at = (math.log(v) if dimension.log else float(v) for v in (dimension.low, dimension.high, value))
    return (at - low) / (high - low)


def in_order(choices: Choices) -> list[Any]:
    """Numbers rise; all else stays as it was listed."""
    listed = choices.encoded
    return sorted(listed, key=float) if all(isinstance(value, int | float) for value in listed) else listed


def jitter(dimension: Dimension, draw: random.Random) -> float:
    """A small shift for one trial at a listed value, in shares of the axis."""
    return draw.uniform(-1, 1) * JITTER / len(dimension.values) if isinstance(dimension, Choices) else 0.0


def ticks(dimension: Dimension) -> list[Tick]:
    """(position, text) of listed values, powers of ten, or five even ones."""
    if isinstance(dimension, Choices):
        values = in_order(dimension)
    elif dimension.log:
        powers = range(ceil(math.log10(dimension.low) - 1e-9), math.floor(math.log10(dimension.high) + 1e-9) + 1)
        values = [10.0**power for power in powers] if len(powers) > 1 else [dimension.low, dimension.high]
    else:
        values = [dimension.low + (dimension.high - dimension.low) * k / 4 for k in range(5)]
    texts = [f"{value:.3g}" if isinstance(value, float) else label(value, LABEL_LENGTH) for value in values]
    return [(axis_position(dimension, value) or 0.0, text) for value, text in zip(values, texts, strict=True)]


def axis_name(space: Space, name: str) -> str:
    """A dimension, short."""
    dimension, short = space.dimensions[name], label(name.removeprefix("objective."), LABEL_LENGTH)
    return f"{short} (log)" if isinstance(dimension, Range) and dimension.log else short


class ScoreAxis:
    """Scores on an upright axis, 0 to 1 upwards, the better above; NaN where a score cannot be drawn."""

    def __init__(self, scores: Sequence[float], *, maximise: bool) -> None:
        finite = [score for score in map(drawable, scores) if not math.isnan(score)] or [0.0]
        self.low, self.high, self._maximise = min(finite), max(finite), maximise

    def __call__(self, score: float) -> float:
        if self.high == self.low:
            return 0.5
        share = (drawable(score) - self.low) / (self.high - self.low)
        return share if self._maximise else 1 - share

    def ticks(self) -> list[Tick]:
        from matplotlib.ticker import MaxNLocator

        values = MaxNLocator(6).tick_values(self.low, self.high) if self.high > self.low else [self.low]
        return [(self(float(value)), f"{value:.4g}") for value in values if self.low <= value <= self.high]


def scatter(axes: Any, points: Sequence[tuple[float, float]], look: Mapping[str, Any]) -> None:
    """All dots of one look at once: a call for each makes a slow and a large figure."""
    axes.scatter([x for x, _ in points], [y for _, y in points], **look)


def draw_upright_axes(axes: Any, names: Sequence[str], marks: Sequence[Sequence[Tick]]) -> None:
    """A panel of upright axes, each with its ticks to its left and its name below, and nothing else."""
    boxed = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    for x, here in enumerate(marks):
        axes.axvline(x, color="0.35", linewidth=1, zorder=3)
        for y, text in here:
            axes.plot([x - 0.02, x + 0.02], [y, y], color="0.35", linewidth=1, zorder=3)
            axes.text(x - 0.035, y, text, ha="right", va="center", fontsize=8, zorder=4, bbox=boxed)
    axes.set(xlim=(-0.3, len(names) - 0.85), ylim=(-0.03, 1.03), yticks=[])
    axes.set_xticks(range(len(names)), names)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=8)


def halving_figure(space: Space, rows: Sequence[Row], brackets: Mapping[int, int]) -> Figure:
    """The scores of every trial at every rung; `brackets` are the first trial of each one's bracket."""
    lines = scores_by_rung(space, rows)
    return Figure(
        HALVING,
        "Scores rung by rung",
        "Every rung has a scale of its own, the better above: scores of different rungs are measured on other lists "
        "and are not comparable, and a line says which trial it is and not that it rose. Dots were promoted, rings "
        "were stopped; the star is the best trial. Trials are ranked within their bracket, so a ring may stand above "
        "a dot of another one.",
        ("bracket", "trial", "rung", space.config.score, "what came of it"),
        [(brackets.get(line[0]), *line) for line in lines],
        lambda figure: draw_halving(figure.add_subplot(), space, lines, best_trial(rows)),
        (10.0, 4.4),
    )


def scores_by_rung(space: Space, rows: Sequence[Row]) -> list[tuple[int, int, float, str]]:
    """Trial, rung, score and what came of it, of every score on the way."""
    lines = []
    for row in sorted(rows, key=lambda row: int(row["number"])):
        scores = {int(rung): score for rung, score in row["rungs"].items()}
        if row["state"] == "complete":
            scores[last_rung(space.config.halving)] = row["score"]
        for rung, score in sorted(scores.items()):
            outcome = OUTCOMES[row["state"]] if rung == max(scores) else PROMOTED
            lines.append((row["number"], rung, score, outcome))
    return lines


def draw_halving(axes: Any, space: Space, lines: Sequence[tuple[int, int, float, str]], best: int | None) -> None:
    """Of each line a trial, a rung, its score and what came of it."""
    config, draw = space.config.halving or Halving(rungs=3), random.Random(0)
    rungs = range(1, last_rung(config) + 1)
    by_rung = {rung: [line[2] for line in lines if line[1] == rung] for rung in rungs}
    scales = {rung: ScoreAxis(scores, maximise=space.config.maximise) for rung, scores in by_rung.items()}
    paths: dict[int, list[tuple[float, float]]] = {}
    dots: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for trial, rung, score, outcome in lines:
        aside = 0.02 + 0.07 * draw.random() if rung < len(rungs) else 0.0  # right of the axis, so that dots differ
        point = (rung - 1 + aside, scales[rung](score))
        paths.setdefault(trial, []).append(point)
        dots[outcome in (PROMOTED, OUTCOMES["complete"])].append(point)
    scatter(axes, dots[False], STOPPED_DOT | {"s": 22, "zorder": 2})
    scatter(axes, dots[True], PROMOTED_DOT | {"s": 22, "zorder": 3})
    for trial, path in paths.items():
        colour, width, above = (ORANGE, 2.0, 5) if trial == best else ("0.6", 0.8, 1)
        axes.plot(*zip(*path, strict=True), color=colour, linewidth=width, zorder=above)
    if best is not None:
        scatter(axes, paths[best][-1:], BEST_STAR | {"s": 190, "zorder": 6})
    names = []
    for rung in rungs:
        parts = config.factor ** (last_rung(config) - rung)
        share = f"1/{parts}" if parts < MAX_WRITTEN_PARTS else f"1/{parts:.0e}"
        names.append("the end\nall steps" if parts == 1 else f"rung {rung}\n{share} of the steps")
    draw_upright_axes(axes, names, [scales[rung].ticks() if by_rung[rung] else [] for rung in rungs])


def parallel_coordinates_figure(space: Space, rows: Sequence[Row]) -> Figure:
    """A line a trial with a score."""
    trials, names = scored(rows), list(space.dimensions)
    thick = "; thicker lines got further" if space.config.halving else ""
    keys = ("number", "state", "rung")
    return Figure(
        PARALLEL,
        "Every trial through its values",
        f"{len(trials)} trials, a line each, the best on top; the last axis and the colour are {score_name(space)}, "
        f"darker is better{thick}. At listed values lines are spread a little.",
        ("trial", "state", "rung", *names, score_name(space)),
        [(*(row[key] for key in keys), *(row["params"].get(n) for n in names), score) for row, score in trials],
        lambda figure: _draw_parallel(figure, space, trials),
        (10.0, 4.4 * ceil(len(names) / DIMENSIONS_IN_A_ROW)),
    )


def _draw_parallel(figure: Any, space: Space, trials: Sequence[tuple[Row, float]]) -> None:
    names = list(space.dimensions)
    panels = figure.subplots(ceil(len(names) / DIMENSIONS_IN_A_ROW), 1, squeeze=False)[:, 0]
    each = ceil(len(names) / len(panels))
    for place, axes in enumerate(panels):
        colours = draw_parallel(axes, space, trials, names[place * each : (place + 1) * each])
    figure.colorbar(colours, ax=list(panels), label=score_name(space), pad=0.01)


def draw_parallel(axes: Any, space: Space, trials: Sequence[tuple[Row, float]], names: Sequence[str]) -> Any:
    """A line a trial through the dimensions of `names` to its score; returns what a colour bar is made of."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    maximise = space.config.maximise
    scale = ScoreAxis([score for _, score in trials], maximise=maximise)
    shades = [colormaps["viridis"](VIRIDIS_END * k / 255) for k in range(256)]
    colours = ScalarMappable(Normalize(scale.low, scale.high), ListedColormap(shades[::-1] if maximise else shades))
    _draw_lines(axes, {name: space.dimensions[name] for name in names}, trials, scale, colours)
    texts = [*(axis_name(space, name) for name in names), score_name(space)]
    marks = [*(ticks(space.dimensions[name]) for name in names), scale.ticks()]
    draw_upright_axes(axes, [text.replace(" (", "\n(").replace(" on", "\non") for text in texts], marks)
    return colours


def _draw_lines(
    axes: Any,
    dimensions: Mapping[str, Dimension],
    trials: Sequence[tuple[Row, float]],
    scale: ScoreAxis,
    colours: Any,
) -> None:
    draw = random.Random(0)
    for row, score in sorted(trials, key=lambda each: (each[0]["rung"] or 0, scale(each[1]))):
        points = []
        for x, (name, dimension) in enumerate(dimensions.items()):
            y = axis_position(dimension, row["params"][name]) if name in row["params"] else None
            if y is not None:
                points.append((x, y + jitter(dimension, draw)))
        points.append((len(dimensions), scale(score)))
        further = (row["rung"] or 1) - 1
        hairline = not further and len(trials) >= MANY_TRIALS
        look = {"linewidth": 0.4 if hairline else 0.8 + 0.9 * further, "alpha": 0.5 if hairline else 0.85}
        axes.plot(*zip(*points, strict=True), color=colours.to_rgba(score), zorder=2, **look)


def dimensions_figure(space: Space, rows: Sequence[Row]) -> Figure:
    """A panel for each dimension, a dot for each trial that has it and a score."""
    points = {name: points_of(name, rows) for name in space.dimensions}
    across = min(PANELS_IN_A_ROW, len(space.dimensions))
    values = across * max(len(each.values) if isinstance(each, Choices) else 0 for each in space.dimensions.values())
    down = ceil(len(space.dimensions) / across)
    filled = "; full dots were promoted from there, the star is the best trial" if space.config.halving else ""
    return Figure(
        DIMENSIONS,
        "The score against each setting",
        f"{score_name(space)[0].upper()}{score_name(space)[1:]}{filled}. At listed values dots are spread a little and "
        "the bar is their mean; settings vary together, so a difference may be another setting's.",
        ("dimension", "trial", "value", score_name(space), "went on"),
        [(name, *point) for name, its_points in points.items() for point in its_points],
        lambda figure: _draw_dimensions(figure.subplots(down, across, sharey=True, squeeze=False), space, points, rows),
        (max(min(10.0, 0.4 * values), 5.0, 2.6 * across), 2.7 * down + 0.3),
    )


def points_of(name: str, rows: Sequence[Row]) -> list[tuple[int, Any, float, bool]]:
    """Trial, value of dimension `name`, score and whether it was promoted, of each trial that has both."""
    return [
        (row["number"], row["params"][name], score, row["state"] == "complete" or len(row["rungs"]) > 1)
        for row, score in scored(rows)
        if name in row["params"]
    ]


def _draw_dimensions(panels: Any, space: Space, points: Mapping[str, Sequence[Any]], rows: Sequence[Row]) -> None:
    panels[0, 0].figure.supylabel(score_label(space), fontsize=9)
    for spare in panels.flat[len(space.dimensions) :]:
        spare.set_visible(False)
    for axes, (name, its_points) in zip(panels.flat, points.items(), strict=False):
        draw_dimension(axes, space.dimensions[name], its_points, best_trial(rows))
        axes.set_title(axis_name(space, name), fontsize=9)


def draw_dimension(axes: Any, dimension: Dimension, points: Sequence[Any], best: int | None) -> None:
    """The score against one setting; `points` are those of `points_of`."""
    marks, draw = ticks(dimension), random.Random(0)
    at_value: dict[float, list[float]] = {}
    dots: dict[str, list[tuple[float, float]]] = {"stopped": [], "promoted": [], "best": []}
    for number, value, score, went_on in points:
        x, y = axis_position(dimension, value) or 0.0, drawable(score)
        at_value.setdefault(x, []).append(y)
        kind = "best" if number == best else "promoted" if went_on else "stopped"
        dots[kind].append((x + 2 * jitter(dimension, draw), y))
    scatter(axes, dots["stopped"], STOPPED_DOT | {"s": 16, "linewidths": 0.8})
    scatter(axes, dots["promoted"], PROMOTED_DOT | {"s": 16, "linewidths": 0.8})
    scatter(axes, dots["best"], BEST_STAR | {"s": 130, "linewidths": 0.8, "zorder": 4})
    if isinstance(dimension, Choices):
        half = 0.35 / len(marks)
        for x, scores in at_value.items():
            axes.plot([x - half, x + half], [sum(scores) / len(scores)] * 2, color="black", linewidth=1.6, zorder=3)
    slanted = len(marks) * max(len(text) for _, text in marks) > LEVEL_LETTERS
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks([x for x, _ in marks], [text for _, text in marks], fontsize=8, **turned)
    axes.set(xlim=(-0.06, 1.06))


def importance_figure(space: Space, shares: Mapping[str, float], trials: int) -> Figure:
    """A bar for each dimension of `shares`, which are the `importances` of so many trials."""
    return Figure(
        IMPORTANCE,
        "Importance",
        f"Each dimension's share in what sets the best quarter of {trials} trials apart, by {score_name(space)} "
        "(PED-ANOVA; the shares sum to 1). Of few trials it is a hint, and no more.",
        ("dimension", "importance"),
        list(shares.items()),
        lambda figure: draw_importance(figure.add_subplot(), shares),
        (8.0, 0.9 + 0.32 * len(shares)),
    )


def draw_importance(axes: Any, shares: Mapping[str, float]) -> None:
    """A bar for each."""
    bars = axes.barh([label(name) for name in shares], list(shares.values()), color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the importance", xlim=(0, max(shares.values()) * 1.15 or 1))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
