"""Loss and temperature over the epochs of every seed, from metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import StoreCorrupt
from pipeline.report.drawing import COLOURS, LINES, MARKERS, drawable
from pipeline.report.exhibit import Exhibit
from pipeline.run import AGAIN, Run

NAME = "curves"
MEASURES = ("train_loss", "dev_loss", "temperature")
Line = Mapping[str, float]


def curves(run: Run, trained: Mapping[str, Mapping[str, Any]]) -> Exhibit:
    """The losses and the temperature of the seeds in `trained`; a ring is the epoch whose heads were kept.

    Raises StoreCorrupt where a seed's metrics cannot be read.
    """
    of = {seed: _lines(run, int(seed)) for seed in trained}
    return Exhibit(
        NAME,
        "Training",
        "Left: the training loss (dashed) and the development loss (solid) of every seed; the ring marks the epoch of "
        "lowest development loss, whose heads are evaluated. Right: the temperature.",
        ("seed", "epoch", *MEASURES),
        [(seed, line["epoch"], *(line[name] for name in MEASURES)) for seed, lines in of.items() for line in lines],
        lambda figure: _draw(figure, of, {seed: result["epoch"] for seed, result in trained.items()}),
        (10.0, 3.8),
    )


def _lines(run: Run, seed: int) -> list[Line]:
    try:
        return [
            {name: float(line[name]) for name in MEASURES} | {"epoch": line["epoch"]}
            for line in map(json.loads, run.metrics(seed).splitlines())
        ]
    except (KeyError, TypeError, ValueError, OverflowError):
        found = f"a line without {', '.join(MEASURES)}"
        raise StoreCorrupt(run.seed_folder(seed) / "metrics.jsonl", found, "all of them", AGAIN) from None


def _draw(figure: Any, of: Mapping[str, Sequence[Line]], best: Mapping[str, int]) -> None:
    losses, temperature = figure.subplots(1, 2)
    for place, (seed, lines) in enumerate(of.items()):
        epochs = [line["epoch"] for line in lines]
        train, dev, heat = ([drawable(line[name]) for line in lines] for name in MEASURES)
        look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4}
        losses.plot(epochs, train, linestyle="--", linewidth=1, alpha=0.8, **look)
        losses.plot(epochs, dev, linestyle="-", label=f"seed {seed}", **look)
        kept = best[seed]
        losses.plot([kept], [dev[kept - 1]], "o", markersize=10, fillstyle="none", color=look["color"])
        temperature.plot(epochs, heat, linestyle=LINES[place % len(LINES)], label=f"seed {seed}", **look)
    losses.plot([], [], "k--", linewidth=1, label="training")
    losses.plot([], [], "k-", label="development")
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    temperature.set(xlabel="epoch", ylabel="temperature", title="Temperature")
    for axes in (losses, temperature):
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(fontsize=8, ncols=1 + len(of) // 8)
