"""Loss and temperature over epochs: of every seed of a run, from metrics.jsonl, or of a sweep's best trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.errors import StoreCorrupt
from pipeline.evaluation.report.drawing import COLOURS, LINES, MARKERS, Figure, drawable
from pipeline.training.run_folder import TRAIN_AGAIN, Run

CURVES = "curves"
MEASURES = ("train_loss", "dev_loss", "temperature")
Line = Mapping[str, float]
Curve = tuple[Sequence[Line], int]  # a line an epoch, and the epoch that was kept; 0 is none


def curves_figure(run: Run, trained: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The losses and the temperature of the seeds in `trained`; a ring is the epoch whose heads were kept.

    Raises StoreCorrupt where a seed's metrics cannot be read.
    """
    curves_by_seed = curves_of(run, trained)
    rows = [
        (name.removeprefix("seed "), line["epoch"], *(line[measure] for measure in MEASURES))
        for name, [(lines, _)] in curves_by_seed.items()
        for line in lines
    ]
    return Figure(
        CURVES,
        "Training",
        "Left: the training loss (dashed) and the development loss (solid) of every seed; the ring marks the epoch of "
        "lowest development loss, whose heads are evaluated. Right: the temperature.",
        ("seed", "epoch", *MEASURES),
        rows,
        lambda figure: draw_curves(figure, curves_by_seed),
        (10.0, 3.8),
    )


def curves_of(run: Run, trained: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Curve]]:
    """The curve of each seed in `trained`, by its name in a figure. Raises StoreCorrupt."""
    epochs = {}
    for seed in trained:
        try:
            epochs[seed] = checked([json.loads(line) for line in run.metrics_text(int(seed)).splitlines()])
        except (KeyError, TypeError, ValueError, OverflowError):
            found = f"a line without {', '.join(MEASURES)}"
            raise StoreCorrupt(
                run.seed_folder(int(seed)) / "metrics.jsonl", found, "all of them", TRAIN_AGAIN
            ) from None
    return {f"seed {seed}": [(lines, trained[seed]["epoch"])] for seed, lines in epochs.items()}


def checked(lines: Sequence[Any]) -> list[Line]:
    """Epochs as numbers. Raises KeyError, TypeError, ValueError or OverflowError where they are none."""
    return [{name: float(line[name]) for name in MEASURES} | {"epoch": line["epoch"]} for line in lines]


def draw_curves(figure: Any, curves_by_name: Mapping[str, Sequence[Curve]]) -> None:
    """Both panels; the curves under one name look alike."""
    losses, temperature = figure.subplots(1, 2)
    draw_losses(losses, curves_by_name)
    draw_temperatures(temperature, curves_by_name)


def draw_losses(axes: Any, curves_by_name: Mapping[str, Sequence[Curve]]) -> None:
    """Training and development loss of each, and a ring at the epoch that was kept."""
    for number, (name, same_look) in enumerate(curves_by_name.items()):
        look, legend = _look(number), {"label": name}  # once a name
        for lines, kept in same_look:
            epochs = [line["epoch"] for line in lines]
            train, dev = ([drawable(line[measure]) for line in lines] for measure in MEASURES[:2])
            axes.plot(epochs, train, linestyle="--", linewidth=1, alpha=0.8, **look)
            axes.plot(epochs, dev, linestyle="-", **look, **legend)
            if kept:
                axes.plot([kept], [dev[kept - 1]], "o", markersize=10, fillstyle="none", color=look["color"])
            legend = {}
    axes.plot([], [], "k--", linewidth=1, label="training")
    axes.plot([], [], "k-", label="development")
    axes.set(xlabel="epoch", ylabel="loss", title="Loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, ncols=1 + len(curves_by_name) // 8)


def draw_temperatures(axes: Any, curves_by_name: Mapping[str, Sequence[Curve]]) -> None:
    """The temperature of each."""
    for number, (name, same_look) in enumerate(curves_by_name.items()):
        for place, (lines, _) in enumerate(same_look):
            heat = [drawable(line["temperature"]) for line in lines]
            legend = {} if place else {"label": name}
            look = _look(number) | {"linestyle": LINES[number % len(LINES)]}
            axes.plot([line["epoch"] for line in lines], heat, **look, **legend)
    axes.set(xlabel="epoch", ylabel="temperature", title="Temperature")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
