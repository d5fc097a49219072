"""The two figures of a sweep, and what is in them as CSV.

Scores of different rungs are not comparable, so both figures are of the score that every trial has: that of the first
rung, or of the end where nothing is halved.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.disk import write_text, write_whole
from pipeline.progress import say
from pipeline.sweeps.space import Choices, Space
from pipeline.sweeps.study import Study, importances
from pipeline.sweeps.trials import csv_text

FEWEST = 4  # trials with a score, for importances
_JITTER = 0.12  # of the room of a listed value, so that lines through it are told apart
Row = Mapping[str, Any]


def draw_figures(study: Study, rows: Sequence[Row], out: Path) -> None:
    """Write parallel_coordinates and importance as CSV and, where matplotlib is installed, as PNG."""
    space = study.space
    scored = sorted((row for row in rows if first_score(row) is not None), key=lambda row: row["number"])
    if not scored:
        return
    scores = {row["number"]: _known(first_score(row)) for row in scored}
    label = f"{space.config.score} on dev" + (" at rung 1" if space.config.halving else " at the end")
    names = list(space.dimensions)
    table = [
        [row["number"], row["state"], row["rung"], *(row["params"].get(name) for name in names), scores[row["number"]]]
        for row in scored
    ]
    write_text(out / "parallel_coordinates.csv", csv_text(["trial", "state", "rung", *names, label], table))
    weights = importances(study, scores) if len(scores) >= FEWEST else {}
    if weights:
        write_text(out / "importance.csv", csv_text(["dimension", "importance"], weights.items()))
    else:
        say(f"importance: fewer than {FEWEST} trials with a score; no figure")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        say("matplotlib is not installed: the figures are left out, their data are there")
        return
    parallel_coordinates(space, scored, label, out / "parallel_coordinates.png")
    if weights:
        bars(weights, label, len(scored), out / "importance.png")


def first_score(row: Row) -> float | None:
    """What every trial that got anywhere has."""
    found: float | None = next(iter(row["rungs"].values()), row["score"])
    return found


def place(space: Space, name: str, value: Any) -> float | None:
    """Where on its axis, 0 to 1, a value of a dimension is; None where the trial has no such setting."""
    if value is None and not (isinstance(found := space.dimensions[name], Choices) and None in found.known_as):
        return None
    dimension = space.dimensions[name]
    if isinstance(dimension, Choices):
        return (_in_order(dimension).index(value) + 0.5) / len(dimension.values)
    low, high, at = (math.log(v) if dimension.log else float(v) for v in (dimension.low, dimension.high, value))
    return (at - low) / (high - low)


def _in_order(choices: Choices) -> list[Any]:
    """Numbers rise; all else stays as it was listed."""
    listed = choices.known_as
    numbers = all(isinstance(value, int | float) for value in listed)
    return sorted(listed, key=float) if numbers else listed


def _known(score: float | None) -> float:
    assert score is not None
    return score


def parallel_coordinates(space: Space, rows: Sequence[Row], label: str, path: Path) -> None:
    """A line a trial through its values; colour is the score, width how far it got."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    names = list(space.dimensions)
    scores = [_known(first_score(row)) for row in rows]
    low, high = min(scores), max(scores)
    colours = ScalarMappable(Normalize(low, high), "viridis" if space.config.score == "ordinality" else "viridis_r")
    figure = Figure(figsize=(max(7.0, 2.1 * (len(names) + 1)), 5.2), layout="constrained")
    axes = figure.add_subplot()
    draw = random.Random(0)
    for row in sorted(rows, key=lambda row: (row["rung"] or 0, first_score(row))):
        score = _known(first_score(row))
        places = [place(space, name, row["params"].get(name)) for name in names]
        heights = [y if y is None else y + _wiggle(space, name, draw) for name, y in zip(names, places, strict=True)]
        points = [(x, y) for x, y in enumerate([*heights, (score - low) / (high - low or 1)]) if y is not None]
        width = 0.8 + 0.9 * ((row["rung"] or 1) - 1)
        colour = [colours.to_rgba(score)]  # type: ignore[arg-type]
        axes.add_collection(LineCollection([points], colors=colour, linewidths=[width], alpha=0.85))
    axes.set(xlim=(-0.15, len(names) + 0.15), ylim=(-0.03, 1.03), yticks=[])
    axes.set_xticks(range(len(names) + 1), [*(_axis_name(space, name) for name in names), label.replace(" on", "\non")])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=8)
    for x, name in enumerate(names):
        _axis(axes, x, _ticks(space, name))
    _axis(axes, len(names), [((score - low) / (high - low or 1), f"{score:.3g}") for score in _round(low, high)])
    figure.colorbar(colours, ax=axes, label=label, pad=0.01)
    thick = "; thicker lines got further" if space.config.halving else ""
    figure.suptitle(f"{space.config.name}: {len(rows)} trials{thick}")
    _save(figure, path)


def _axis(axes: Any, x: float, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(x, color="0.35", linewidth=1, zorder=3)
    for y, text in ticks:
        axes.plot([x - 0.02, x + 0.02], [y, y], color="0.35", linewidth=1, zorder=3)
        boxed = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
        axes.text(x - 0.035, y, text, ha="right", va="center", fontsize=8, zorder=4, bbox=boxed)


def _axis_name(space: Space, name: str) -> str:
    dimension = space.dimensions[name]
    short = name.removeprefix("objective.")
    return short if isinstance(dimension, Choices) or not dimension.log else f"{short}\n(log)"


def _wiggle(space: Space, name: str, draw: random.Random) -> float:
    dimension = space.dimensions[name]
    return draw.uniform(-1, 1) * _JITTER / len(dimension.values) if isinstance(dimension, Choices) else 0.0


def _ticks(space: Space, name: str) -> list[tuple[float, str]]:
    """Listed values, powers of ten, or five even ones."""
    dimension = space.dimensions[name]
    if isinstance(dimension, Choices):
        return [(place(space, name, value) or 0.0, _short(value)) for value in dimension.known_as]
    if dimension.log:
        powers = range(math.ceil(math.log10(dimension.low) - 1e-9), math.floor(math.log10(dimension.high) + 1e-9) + 1)
        values = [10.0**power for power in powers] if len(powers) > 1 else [dimension.low, dimension.high]
    else:
        values = [dimension.low + (dimension.high - dimension.low) * k / 4 for k in range(5)]
    return [(place(space, name, value) or 0.0, _short(value)) for value in values]


def _round(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(6).tick_values(low, high) if high > low else [low]
    return [float(value) for value in found if low <= value <= high]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def bars(weights: Mapping[str, float], label: str, trials: int, path: Path) -> None:
    from matplotlib.figure import Figure

    ranked = sorted(weights.items(), key=lambda each: each[1])
    figure = Figure(figsize=(7, 1.4 + 0.45 * len(ranked)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh([name for name, _ in ranked], [weight for _, weight in ranked], color="#35618f")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the importance (PED-ANOVA, sums to 1)", xlim=(0, max(weights.values()) * 1.15 or 1))
    axes.set_title(f"What sets the best quarter of {trials} trials apart\n{label}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(image, dpi=130, format="png")
    write_whole(path, [image.getvalue()])
