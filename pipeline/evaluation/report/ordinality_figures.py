"""What the prompts retrieve, in the valence-arousal plane: the point asked for, and the mean of the nearest speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.captions import Prompt
from cache.pairs import CachedPairs
from pipeline.evaluation.ordinality import NULL_STD
from pipeline.evaluation.report.drawing import BLUE, ORANGE, Figure
from pipeline.training.heads import Heads

NAME = "retrieval"
TOP = 10
Row = tuple[float, float, float, float, int]  # valence and arousal asked and found, paraphrases


def circumplex(heads: Heads, pairs: CachedPairs, prompts: Sequence[Prompt], vectors: Tensor) -> Figure:
    """Prompts at whole numbers of the scale against the mean label of their `TOP` nearest labelled utterances."""
    with torch.no_grad():
        speech, asked = heads.embed_speech(pairs.speech).cpu(), heads.embed_text(vectors).cpu()
    found = retrieved(speech, pairs.labels[:, :2].cpu(), prompts, asked)
    return Figure(
        NAME,
        "What the prompts retrieve",
        f"From the point that a prompt asks for (square) to the mean valence and arousal of its {TOP} nearest "
        "utterances of the test split by cosine (dot), mean over its paraphrases. A perfect order keeps the grid's "
        "shape; the mean of several utterances lies nearer to the centre than the point asked for in any case.",
        ("valence asked", "arousal asked", "valence found", "arousal found", "paraphrases"),
        found,
        lambda figure: _draw(figure, found),
        (6.4, 6.0),
    )


def retrieved(
    speech: Tensor, labels: Tensor, prompts: Sequence[Prompt], vectors: Tensor, *, top: int = TOP
) -> list[Row]:
    """For each whole point of the plane that prompts ask for, the mean label of their nearest utterances.

    `speech` (n, d) and `vectors` (P, d) are unit vectors, `labels` (n, 2); utterances without both take no part.
    """
    labelled = labels.isfinite().all(1)
    speech, labels = speech[labelled], labels[labelled]
    places: dict[tuple[float, float], list[int]] = {}
    for place, prompt in enumerate(prompts):
        if float(prompt.valence).is_integer() and float(prompt.arousal).is_integer():
            places.setdefault((float(prompt.valence), float(prompt.arousal)), []).append(place)
    rows = []
    for (valence, arousal), of in sorted(places.items()):
        nearest = (vectors[of] @ speech.T).topk(min(top, len(speech))).indices  # (paraphrases, top)
        mean = labels[nearest].mean((0, 1)).tolist()
        rows.append((valence, arousal, float(mean[0]), float(mean[1]), len(of)))
    return rows


def _draw(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.add_subplot()
    asked, found = [row[:2] for row in rows], [row[2:4] for row in rows]
    for start, end in zip(asked, found, strict=True):
        axes.plot(*zip(start, end, strict=True), color="0.6", linewidth=0.7, zorder=1)
    for points, marker, colour, fill, name in (
        (asked, "s", ORANGE, "none", "asked for"),
        (found, "o", BLUE, BLUE, f"mean of the {TOP} nearest"),
    ):
        axes.scatter(*zip(*points, strict=True), marker=marker, s=24, edgecolors=colour, facecolors=fill, label=name)
    axes.set(xlabel="valence (1 negative - 7 positive)", ylabel="arousal (1 calm - 7 active)", aspect="equal")
    axes.set(xlim=(0.6, 7.4), ylim=(0.6, 7.4))
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)


TAUS_NAME = "taus"
_TESTS = {"aoc": ("AOC", BLUE, "//"), "voc": ("VOC", ORANGE, "..")}


def taus(seeds: Mapping[str, Mapping[str, Any]]) -> Figure:
    """AOC and VOC of the lists of all `seeds` (`evaluation.json`'s)."""
    rows = [
        (name, seed, number, value)
        for name in _TESTS
        for seed, found in seeds.items()
        for number, value in enumerate(found["ordinality"][name]["taus"])
    ]
    return Figure(
        TAUS_NAME,
        "Kendall's tau per list",
        f"Every list of every seed. The line is the mean; the grey band is chance, 0 ± {NULL_STD:.3f}, the standard "
        "deviation of one list in random order. An undefined tau counts as 0.",
        ("test", "seed", "list", "tau"),
        rows,
        lambda figure: _draw_taus(figure, {name: [row[3] for row in rows if row[0] == name] for name in _TESTS}),
        (10.0, 3.4),
    )


def _draw_taus(figure: Any, values: Mapping[str, Sequence[float]]) -> None:
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
