"""The figures of evaluations and comparisons: means with their std, confusions, retrieval, Kendall's tau by list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.captions import Prompt
from pipeline.evaluation.cells import MARK, SPEECH_MARK, Cell, Table, range_text
from pipeline.evaluation.measures import BOUNDS, Column
from pipeline.evaluation.ordinality import NULL_STD
from pipeline.evaluation.recognition import blind_guess
from pipeline.evaluation.report.drawing import BLUE, ORANGE, SKY, Figure, drawable
from pipeline.evaluation.report.page import label
from pipeline.evaluation.tables import CHANCE_STDS, chance_range

PANELS_ABREAST = 4
_SIDES = {"higher": "higher is better →", "lower": "← lower is better", None: ""}


def measures_figure(table: Table) -> Figure:
    """A panel for each measure of `table`: a dot for each method, with its intervals over seeds and on other speech."""
    across = min(PANELS_ABREAST, len(table.columns))
    down = ceil(len(table.columns) / across)

    def draw(figure: Any) -> None:
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes in grid.flat[len(table.columns) :]:
            axes.set_visible(False)
        for axes, column in zip(grid.flat, table.columns, strict=False):
            draw_measure(axes, table, column)
        draw_methods(grid[0, 0], table)

    cells = [(method, key, cell) for method, row in table.rows.items() for key, cell in row.items()]
    elsewhere = (
        "are 95 % intervals of the mean over folds (corrected resampled t): of other speech, other trainings"
        if any(cell.folds for _, _, cell in cells)
        else "hold 95 % of the resamples of speakers: other speech, these trainings"
    )
    parts = [
        "Lines with caps are Student's 95 % intervals of the mean over seeds: of other trainings, on this test set.",
        f"Broad pale lines {elsewhere}; methods find the same speakers hard, so where these lines overlap they may "
        "still differ."
        if any(cell.elsewhere for _, _, cell in cells)
        else "",
        "A star is the best mean of the methods." if any(cell.best for _, _, cell in cells) else "",
        "A hollow dot is a method that the best is better than "
        f"({MARK} other trainings on this test set, {SPEECH_MARK} other speech too)."
        if any(cell.marks for _, _, cell in cells)
        else "",
        "Grey diamonds are bounds, not methods." if table.rows.keys() & set(BOUNDS) else "",
        "The broad line of chance is its range (95 %)." if any(cell.chance_range for _, _, cell in cells) else "",
    ]
    return Figure(
        f"measures_{table.name}",
        "Means and their intervals",
        " ".join(filter(None, parts)),
        ("method", "measure", *cells[0][2].as_json()),
        [(method, key, *cell.as_json().values()) for method, key, cell in cells],
        draw,
        (2.2 + 2.7 * across, (1.3 + 0.3 * len(table.rows)) * down),
    )


def draw_measure(axes: Any, table: Table, column: Column) -> None:
    """A dot for each method at its place in the table, with its intervals."""
    for y, (name, row) in enumerate(table.rows.items()):
        if column.key in row:
            _dot(axes, y, row[column.key], is_bound=name in BOUNDS)
    axes.set_title(column.header)
    axes.set_xlabel(_SIDES[column.better])


def draw_methods(axes: Any, table: Table) -> None:
    """The names of the methods beside their dots, in the table's order, downwards."""
    axes.set_yticks(range(len(table.rows)), [label(name) for name in table.rows])
    axes.set_ylim(len(table.rows) - 0.5, -0.5)


def _dot(axes: Any, y: int, cell: Cell, *, is_bound: bool) -> None:
    mean = drawable(cell.mean)
    if broad := cell.elsewhere or cell.chance_range:
        axes.plot(
            [*map(drawable, broad)],
            [y, y],
            color="0.8" if is_bound else SKY,
            linewidth=5,
            solid_capstyle="butt",
        )
    if is_bound:
        axes.plot([mean], [y], "D", markersize=5, color="0.4")
        return
    if cell.interval:
        low, high = map(drawable, cell.interval)
        axes.errorbar((low + high) / 2, y, xerr=(high - low) / 2, fmt="none", ecolor=BLUE, elinewidth=1, capsize=3)
    marker, size = ("*", 13) if cell.best else ("o", 6)
    face = "white" if cell.marks else BLUE
    axes.plot([mean], [y], marker, markersize=size, markerfacecolor=face, markeredgecolor=BLUE)
    if cell.marks:
        axes.annotate(cell.marks, (mean, y), (0, 5), textcoords="offset points", ha="center", fontsize=8)


MATRICES_ABREAST = 2
MAX_MATRIX_LABEL = 20  # characters of a name
MAX_NUMBERED = 12  # classes up to which a cell has room for its number


def confusion_figure(name: str, title: str, results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A confusion matrix for each method in `results`: what `zero_shot` returned, the same classes for all."""
    first = next(iter(results.values()))
    classes = list(map(str, first["classes"]))
    across = min(MATRICES_ABREAST, len(results))
    down = ceil(len(results) / across)

    def draw(figure: Any) -> None:
        grid = figure.subplots(down, across, squeeze=False)
        for number, axes in enumerate(grid.flat):
            axes.set_visible(number < len(results))
            axes.tick_params(labelleft=number % across == 0, labelbottom=number + across >= len(results))
        for axes, (method, result) in zip(grid.flat, results.items(), strict=False):
            draw_confusion(axes, method, result)
        bar = figure.colorbar(grid[0, 0].collections[0], ax=list(grid.flat), label="per cent of a row", aspect=40)
        bar.ax.axhline(100 / len(classes), color=ORANGE, linewidth=2)

    return Figure(
        name,
        title,
        "Rows are the labels, columns the nearest prompt; a cell is the share of its row in per cent, summed over "
        "seeds. Darker is more; a good method is dark on the diagonal. By chance every cell would be at the line of "
        f"the colour bar ({100 / len(classes):.3g} %), and the mean of the diagonal (UAR, unweighted average recall) "
        f"of one seed within the range above, in 95 % of cases. Recognition is {first['convention']}.",
        ("method", "label", "predicted", "utterances"),
        [
            (method, truth, predicted, count)
            for method, result in results.items()
            for truth, counts in zip(classes, result["confusion"], strict=True)
            for predicted, count in zip(classes, counts, strict=True)
        ],
        draw,
        (11.0, 0.4 + (1.3 + 0.4 * len(classes)) * down),
    )


def draw_confusion(axes: Any, method: str, result: Mapping[str, Any]) -> None:
    """The share of each label's utterances (a row) that were taken for each class (a column), in per cent."""
    guess = blind_guess(result)["uar"]
    chance = range_text(chance_range(guess) or (guess["mean"], guess["mean"]), 3)
    classes, counts = list(map(str, result["classes"])), np.asarray(result["confusion"], dtype=np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    edges = np.arange(len(classes) + 1) - 0.5
    axes.pcolormesh(edges, edges, 100 * shares, cmap="Greys", vmin=0, vmax=100)
    axes.set(ylim=(edges[-1], edges[0]))
    names = [label(name, MAX_MATRIX_LABEL) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > MAX_NUMBERED // 2 else 0, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.grid(visible=False)
    if len(names) <= MAX_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.65 else "black"
            text = axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
            text.set_in_layout(False)  # inside already; looking at each takes seconds
    axes.set_title(f"{label(method)}\nUAR {result['uar']['mean']:.3f} (chance {chance})", fontsize=9)


RETRIEVAL, TOP = "retrieval", 10
PROMPTS_AT_ONCE = 256  # against all utterances; a product with a few rows at a time takes three times as long
# valence and arousal of the prompts, mean valence and arousal retrieved, paraphrases
RetrievalRow = tuple[float, float, float, float, int]


def retrieval_figure(speech: Tensor, labels: Tensor, prompts: Sequence[Prompt], vectors: Tensor) -> Figure:
    """Prompts at whole numbers of the scale against the mean label of their `TOP` nearest labelled utterances.

    The arguments are those of `mean_labels_retrieved`.
    """
    rows = mean_labels_retrieved(speech, labels, prompts, vectors)

    def draw(figure: Any) -> None:
        draw_retrieval(figure.add_subplot(), rows)
        figure.legend(loc="outside upper center", ncols=2, fontsize=8)

    return Figure(
        RETRIEVAL,
        "What the prompts retrieve",
        f"From the point that a prompt describes (square) to the mean valence and arousal of its {TOP} nearest "
        "utterances of the test split by cosine (dot), mean over its paraphrases. Good: the dots form the squares' "
        "grid, only smaller, since the mean of several utterances lies nearer to the centre in any case. Bad: lines "
        "that cross turn the order round, and dots in one heap say that different prompts find the same speech.",
        ("prompt valence", "prompt arousal", "retrieved valence", "retrieved arousal", "paraphrases"),
        rows,
        draw,
        (6.4, 6.0),
    )


def draw_retrieval(axes: Any, rows: Sequence[RetrievalRow]) -> None:
    """A line from the point of each prompt to the mean labels that it retrieves."""
    prompted, retrieved = [row[:2] for row in rows], [row[2:4] for row in rows]
    for start, end in zip(prompted, retrieved, strict=True):
        axes.plot(*zip(start, end, strict=True), color="0.6", linewidth=0.7, zorder=1)
    for points, marker, colour, fill, name in (
        (prompted, "s", ORANGE, "none", "prompt"),
        (retrieved, "o", BLUE, BLUE, f"mean of the {TOP} nearest"),
    ):
        axes.scatter(*zip(*points, strict=True), marker=marker, s=24, edgecolors=colour, facecolors=fill, label=name)
    axes.set(xlabel="valence (1 negative - 7 positive)", ylabel="arousal (1 calm - 7 active)", aspect="equal")
    axes.set(xlim=(0.6, 7.4), ylim=(0.6, 7.4))


def mean_labels_retrieved(
    speech: Tensor, labels: Tensor, prompts: Sequence[Prompt], vectors: Tensor, *, top: int = TOP
) -> list[RetrievalRow]:
    """For each whole point of the valence-arousal plane that has prompts, the mean label of their nearest utterances.

    `speech` (n, d) and `vectors` (P, d) are unit vectors, `labels` (n, 2); utterances without both take no part.
    """
    labelled = labels.isfinite().all(1)
    speech, labels = speech[labelled], labels[labelled]
    prompts_at: dict[tuple[float, float], list[int]] = {}
    for number, prompt in enumerate(prompts):
        if float(prompt.valence).is_integer() and float(prompt.arousal).is_integer():
            prompts_at.setdefault((float(prompt.valence), float(prompt.arousal)), []).append(number)
    points = sorted(prompts_at)
    asked = torch.split(vectors[[number for point in points for number in prompts_at[point]]], PROMPTS_AT_ONCE)
    found = torch.cat([(block @ speech.T).topk(min(top, len(speech))).indices for block in asked])  # (prompts, top)
    rows = []
    by_point = torch.split(found, [len(prompts_at[point]) for point in points])
    for point, nearest in zip(points, by_point, strict=True):
        mean = labels[nearest].mean((0, 1)).tolist()
        rows.append((*point, float(mean[0]), float(mean[1]), len(nearest)))
    return rows


KENDALL_TAU = "kendall_tau"
_TAU_LOOK = {"aoc": ("AOC", BLUE, "//"), "voc": ("VOC", ORANGE, "..")}


def kendall_tau_figure(seeds: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Histograms of AOC and VOC over the lists of all `seeds` (`evaluation.json`'s)."""
    rows = [
        (test, seed, number, value)
        for test in _TAU_LOOK
        for seed, result in seeds.items()
        for number, value in enumerate(result["ordinality"][test]["taus"])
    ]

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        panels[0].set_ylabel("lists")
        for axes, test in zip(panels, _TAU_LOOK, strict=True):
            draw_kendall_tau(axes, test, [row[3] for row in rows if row[0] == test])

    return Figure(
        KENDALL_TAU,
        "Kendall's tau per list",
        "Every list of every seed. The line is the mean; the grey band holds 95 % of lists in random order, whose "
        f"standard deviation is {NULL_STD:.3f}: of lists, not of their mean. An undefined tau counts as 0.",
        ("test", "seed", "list", "tau"),
        rows,
        draw,
        (10.0, 3.4),
    )


def draw_kendall_tau(axes: Any, test: str, values: Sequence[float]) -> None:
    """A histogram of the lists' tau of `test`, aoc or voc, their mean, and chance."""
    header, colour, hatch = _TAU_LOOK[test]
    mean = float(np.mean(values))
    look = {"facecolor": "white", "edgecolor": colour, "hatch": hatch, "linewidth": 1.2}
    axes.axvspan(-CHANCE_STDS * NULL_STD, CHANCE_STDS * NULL_STD, color="0.85", label="chance")
    axes.hist(values, bins=np.linspace(-1, 1, 21), zorder=2, **look)
    axes.axvline(mean, color="black", linewidth=1.5, label=f"mean {mean:.3f}", zorder=3)
    axes.set(title=f"{header}, {len(values)} lists", xlabel="tau", xlim=(-1.03, 1.03))
    axes.set_xticks((-1, -0.5, 0, 0.5, 1))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, loc="upper left")
