"""Every method's figures with their spread, a panel a measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np

from pipeline.evaluation.report.drawing import BLUE, SKY, Figure, drawable
from pipeline.evaluation.report.page import label
from pipeline.evaluation.tables import MARK, Cell, Table

_COLUMNS = ("method", "measure", "mean", "std", "seed_std", "best", "worse", "p_corrected")


def measures(table: Table) -> Figure:
    """A dot for each method and measure of `table`, with its standard deviation."""
    tested = any(cell.worse for row in table.rows.values() for cell in row.values())
    return Figure(
        f"measures_{table.name}",
        "Means and their spread",
        "Lines with caps are ± one standard deviation over lists or trials (recognition: over seeds), broad pale ones "
        "± one over the seeds' means. A star is the best mean"
        + (f"; a hollow dot and {MARK} mark a method that the best is better than." if tested else "."),
        _COLUMNS,
        [
            (method, key, cell.mean, cell.std, cell.seed_std, cell.best, cell.worse, _p(cell))
            for method, row in table.rows.items()
            for key, cell in row.items()
        ],
        lambda figure: _draw(figure, table),
        (2.2 + 2.7 * len(table.columns), 1.3 + 0.3 * len(table.rows)),
    )


def _p(cell: Cell) -> float | None:
    return cell.test.corrected if cell.test else None


def _draw(figure: Any, table: Table) -> None:
    panels = figure.subplots(1, len(table.columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, table.columns, strict=True):
        for place, row in enumerate(table.rows.values()):
            if column.key in row:
                _dot(axes, place, row[column.key])
        better = {"higher": "higher is better →", "lower": "← lower is better"}[column.better]
        axes.set_title(column.header)
        axes.set_xlabel(better)
    panels[0].set_yticks(range(len(table.rows)), [label(name) for name in table.rows])
    panels[0].set_ylim(len(table.rows) - 0.5, -0.5)  # the table's order, downwards


def _dot(axes: Any, place: int, cell: Cell) -> None:
    mean, std, seed_std = (drawable(value or 0.0) for value in (cell.mean, cell.std, cell.seed_std))
    if seed_std:
        axes.plot([mean - seed_std, mean + seed_std], [place, place], color=SKY, linewidth=5)
    if std:
        axes.errorbar(mean, place, xerr=std, color=BLUE, elinewidth=1, capsize=3)
    face = "white" if cell.worse else BLUE
    marker, size = ("*", 13) if cell.best else ("o", 6)
    axes.plot([mean], [place], marker, markersize=size, markerfacecolor=face, markeredgecolor=BLUE)
    if cell.worse:
        axes.annotate(MARK, (mean, place), (0, 5), textcoords="offset points", ha="center", fontsize=8)


_ACROSS = 4
_LONGEST = 20  # characters of a name: a matrix is two inches wide
_NUMBERED = 8  # classes up to which a cell has room for its number


def confusion(name: str, title: str, found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A matrix for each name in `found`: what `zero_shot` returned, the same classes for all."""
    first = next(iter(found.values()))
    classes = list(map(str, first["classes"]))
    across = min(_ACROSS, len(found))
    cell = 3.4 if across < 3 else 2.9
    return Figure(
        name,
        title,
        "Rows are the labels, columns the nearest prompt; a cell is the share of its row in per cent, summed over "
        f"seeds. Darker is more. Recognition is {first['convention']}.",
        ("method", "label", "taken for", "utterances"),
        [
            (method, truth, said, count)
            for method, result in found.items()
            for truth, counts in zip(classes, result["confusion"], strict=True)
            for said, count in zip(classes, counts, strict=True)
        ],
        lambda figure: _draw_confusion(figure, found, classes, across),
        (1.2 + cell * across, 0.4 + cell * ceil(len(found) / across)),
    )


def _draw_confusion(figure: Any, found: Mapping[str, Mapping[str, Any]], classes: Sequence[str], across: int) -> None:
    grid = figure.subplots(ceil(len(found) / across), across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < len(found))
        axes.tick_params(labelleft=place % across == 0, labelbottom=place + across >= len(found))
    for axes, (method, result) in zip(grid.flat, found.items(), strict=False):
        _matrix(axes, np.asarray(result["confusion"], dtype=np.float64), classes)
        axes.set_title(f"{label(method, _LONGEST)}\nUAR {result['uar']['mean']:.3f}", fontsize=9)


def _matrix(axes: Any, counts: Any, classes: Sequence[str]) -> None:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    places = np.arange(len(classes) + 1) - 0.5
    axes.pcolormesh(places, places, shares, cmap="Greys", vmin=0, vmax=1)
    axes.set(aspect="equal", ylim=(places[-1], places[0]))
    names = [label(name, _LONGEST) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.grid(visible=False)
    if len(names) <= _NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.65 else "black"
            text = axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
            text.set_in_layout(False)  # inside already; looking at each takes seconds
