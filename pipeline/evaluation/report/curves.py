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


def curves(run: Run, trained: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The losses and the temperature of the seeds in `trained`; a ring is the epoch whose heads were kept.

    Raises StoreCorrupt where a seed's metrics cannot be read.
    """
    epochs = {}
    for seed in trained:
        try:
            epochs[seed] = checked([json.loads(line) for line in run.metrics_text(int(seed)).splitlines()])
        except (KeyError, TypeError, ValueError, OverflowError):
            found = f"a line without {', '.join(MEASURES)}"
            raise StoreCorrupt(
                run.seed_folder(int(seed)) / "metrics.jsonl", found, "all of them", TRAIN_AGAIN
            ) from None
    by_seed = {f"seed {seed}": [(lines, trained[seed]["epoch"])] for seed, lines in epochs.items()}
    return Figure(
        CURVES,
        "Training",
        "Left: the training loss (dashed) and the development loss (solid) of every seed; the ring marks the epoch of "
        "lowest development loss, whose heads are evaluated. Right: the temperature.",
        ("seed", "epoch", *MEASURES),
        [(seed, line["epoch"], *(line[name] for name in MEASURES)) for seed, lines in epochs.items() for line in lines],
        lambda figure: draw_curves(figure, by_seed),
        (10.0, 3.8),
    )


def checked(lines: Sequence[Any]) -> list[Line]:
    """Epochs as numbers. Raises KeyError, TypeError, ValueError or OverflowError where they are none."""
    return [{name: float(line[name]) for name in MEASURES} | {"epoch": line["epoch"]} for line in lines]


def draw_curves(figure: Any, curves_by_name: Mapping[str, Sequence[Curve]]) -> None:
    """Both panels; the curves under one name look alike."""
    losses, temperature = figure.subplots(1, 2)
    for number, (name, same_look) in enumerate(curves_by_name.items()):
        look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
        legend = {"label": name}  # once a name
        for lines, kept in same_look:
            epochs = [line["epoch"] for line in lines]
            train, dev, heat = ([drawable(line[measure]) for line in lines] for measure in MEASURES)
            losses.plot(epochs, train, linestyle="--", linewidth=1, alpha=0.8, **look)
            losses.plot(epochs, dev, linestyle="-", **look, **legend)
            if kept:
                losses.plot([kept], [dev[kept - 1]], "o", markersize=10, fillstyle="none", color=look["color"])
            temperature.plot(epochs, heat, linestyle=LINES[number % len(LINES)], **look, **legend)
            legend = {}
    losses.plot([], [], "k--", linewidth=1, label="training")
    losses.plot([], [], "k-", label="development")
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    temperature.set(xlabel="epoch", ylabel="temperature", title="Temperature")
    for axes in (losses, temperature):
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(fontsize=8, ncols=1 + len(curves_by_name) // 8)
