"""Every method's figures with their spread, a panel a measure."""

from __future__ import annotations

from typing import Any

from pipeline.evaluation.rendering import MARK, Cell, Table
from pipeline.report.drawing import BLUE, SKY, drawable
from pipeline.report.exhibit import Exhibit
from pipeline.report.text import label

_COLUMNS = ("method", "measure", "mean", "std", "seed_std", "best", "worse", "p_corrected")


def measures(table: Table) -> Exhibit:
    """A dot for each method and measure of `table`, with its standard deviation."""
    tested = any(cell.worse for row in table.rows.values() for cell in row.values())
    return Exhibit(
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
