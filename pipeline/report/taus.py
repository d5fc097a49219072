"""Kendall's tau of every ordinality list, as a distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.ordinality import NULL_STD
from pipeline.report.drawing import BLUE, ORANGE
from pipeline.report.exhibit import Exhibit

NAME = "taus"
_TESTS = {"aoc": ("AOC", BLUE, "//"), "voc": ("VOC", ORANGE, "..")}


def taus(seeds: Mapping[str, Mapping[str, Any]]) -> Exhibit:
    """AOC and VOC of the lists of all `seeds` (`evaluation.json`'s)."""
    rows = [
        (name, seed, number, value)
        for name in _TESTS
        for seed, found in seeds.items()
        for number, value in enumerate(found["ordinality"][name]["taus"])
    ]
    return Exhibit(
        NAME,
        "Kendall's tau per list",
        f"Every list of every seed. The line is the mean; the grey band is chance, 0 ± {NULL_STD:.3f}, the standard "
        "deviation of one list in random order. An undefined tau counts as 0.",
        ("test", "seed", "list", "tau"),
        rows,
        lambda figure: _draw(figure, {name: [row[3] for row in rows if row[0] == name] for name in _TESTS}),
        (10.0, 3.4),
    )


def _draw(figure: Any, values: Mapping[str, Sequence[float]]) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    panels[0].set_ylabel("lists")
    for axes, (name, (header, colour, hatch)) in zip(panels, _TESTS.items(), strict=True):
        axes.axvspan(-NULL_STD, NULL_STD, color="0.85", label="chance")
        look = {"facecolor": "white", "edgecolor": colour, "hatch": hatch, "linewidth": 1.2}
        axes.hist(values[name], bins=np.linspace(-1, 1, 21), zorder=2, **look)
        mean = float(np.mean(values[name]))
        axes.axvline(mean, color="black", linewidth=1.5, label=f"mean {mean:.3f}", zorder=3)
        axes.set(
            title=f"{header}, {len(values[name])} lists", xlabel="tau", xlim=(-1.03, 1.03), xticks=(-1, -0.5, 0, 0.5, 1)
        )
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, loc="upper left")
