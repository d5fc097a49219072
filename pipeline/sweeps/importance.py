"""What sets the best trials of a sweep apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.drawing import BLUE
from pipeline.report.exhibit import Exhibit
from pipeline.report.text import label
from pipeline.sweeps.axes import score_name
from pipeline.sweeps.space import Space

NAME = "importance"
FEWEST = 4  # trials with a score


def importance(space: Space, weights: Mapping[str, float], trials: int) -> Exhibit:
    """A bar for each dimension of `weights`, which are `importances` of so many trials."""
    ranked = sorted(weights.items(), key=lambda each: (-each[1], each[0]))
    return Exhibit(
        NAME,
        "Importance",
        f"Each dimension's share in what sets the best quarter of {trials} trials apart, by {score_name(space)} "
        "(PED-ANOVA; the shares sum to 1). Of few trials it is a hint, and no more.",
        ("dimension", "importance"),
        ranked,
        lambda figure: _draw(figure, ranked),
        (8.0, 0.9 + 0.32 * len(ranked)),
    )


def _draw(figure: Any, ranked: Sequence[tuple[str, float]]) -> None:
    axes = figure.add_subplot()
    bars = axes.barh([label(name) for name, _ in ranked], [weight for _, weight in ranked], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the importance", xlim=(0, max(weight for _, weight in ranked) * 1.15 or 1))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
