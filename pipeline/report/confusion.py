"""Confusion matrices of zero-shot recognition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np

from pipeline.report.exhibit import Exhibit
from pipeline.report.text import label

_ACROSS = 4
_LONGEST = 20  # characters of a name: a matrix is two inches wide
_NUMBERED = 8  # classes up to which a cell has room for its number


def confusion(name: str, title: str, found: Mapping[str, Mapping[str, Any]]) -> Exhibit:
    """A matrix for each name in `found`: what `zero_shot` returned, the same classes for all."""
    first = next(iter(found.values()))
    classes = list(map(str, first["classes"]))
    across = min(_ACROSS, len(found))
    cell = 3.4 if across < 3 else 2.9
    return Exhibit(
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
        lambda figure: _draw(figure, found, classes, across),
        (1.2 + cell * across, 0.4 + cell * ceil(len(found) / across)),
    )


def _draw(figure: Any, found: Mapping[str, Mapping[str, Any]], classes: Sequence[str], across: int) -> None:
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
