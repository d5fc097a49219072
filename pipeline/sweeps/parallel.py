"""A sweep's trials as lines through their settings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import ceil
from typing import Any

from pipeline.report.exhibit import Exhibit
from pipeline.sweeps.axes import Row, Scale, axis_name, bare, highest, place, score_name, scored, ticks, upright, wiggle
from pipeline.sweeps.space import Space

NAME = "parallel_coordinates"
_ABREAST = 6  # dimensions side by side; more stand in rows, each with the score at its end
_MANY = 100  # trials from which those that were stopped first are hairlines
_PALEST = 0.88  # of viridis: its yellow is lost on white paper


def parallel_coordinates(space: Space, rows: Sequence[Row]) -> Exhibit:
    """A line a trial with a score."""
    found, names = scored(rows), list(space.dimensions)
    thick = "; thicker lines got further" if space.config.halving else ""
    lines = ceil(len(names) / _ABREAST)
    return Exhibit(
        NAME,
        "Every trial through its values",
        f"{len(found)} trials, a line each, the best on top; the last axis and the colour are {score_name(space)}, "
        f"darker is better{thick}. At listed values lines are spread a little.",
        ("trial", "state", "rung", *names, score_name(space)),
        [
            (row["number"], row["state"], row["rung"], *(row["params"].get(name) for name in names), score)
            for row, score in found
        ],
        lambda figure: _draw(figure, space, found),
        (10.0, 4.4 * lines),
    )


def _draw(figure: Any, space: Space, found: Sequence[tuple[Row, float]]) -> None:
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
