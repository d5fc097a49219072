"""The panels of the reports as matplotlib axes (extra `report`), and files of them for a paper or a slide.

    from pipeline import plot
    ax = plot.measure(summary, "aoc")             # what `compare` returned
    plot.confusion(summary["methods"]["supcon"]["recognition"], ax=panels[0, 1])
    plot.save(ax, "figures/order", for_="column")           # order.pdf and order.svg, 3.35 inches wide

Each function draws into `ax` and returns it; without one it makes a figure that looks as in a report. They raise
UsageError where matplotlib is not installed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from cache.disk import make_folder, translate_os_errors, write_atomic
from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.core.config_files import validate_file
from pipeline.core.errors import UsageError, required_library
from pipeline.evaluation.comparison import comparison_tables
from pipeline.evaluation.evaluate import split_of
from pipeline.evaluation.fold_tables import fold_tables
from pipeline.evaluation.order_tests import ordinality_prompts
from pipeline.evaluation.report.curves import curves_of, draw_losses, draw_temperatures
from pipeline.evaluation.report.drawing import report_style
from pipeline.evaluation.report.figures import (
    draw_confusion,
    draw_kendall_tau,
    draw_measure,
    draw_methods,
    draw_retrieval,
    mean_labels_retrieved,
)
from pipeline.evaluation.report.projections import PANELS, pca_scatters
from pipeline.evaluation.tables import evaluation_tables
from pipeline.experiments.sweeps import figures
from pipeline.experiments.sweeps.config import SweepConfig
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.tables import Row
from pipeline.training.heads import Heads
from pipeline.training.run_folder import Run, open_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZES = {"column": 3.35, "page": 7.0, "slide": 20 / 3}  # inches; a slide is 13.33 wide, where 9 points are read as 18
SLIDE_HEIGHT = 3.75
PANEL = (4.2, 3.4)
STYLE = "dimensional"  # of captions, where no evaluation says


def loss(run: Run | str | Path, *, ax: Axes | None = None) -> Axes:
    """Training and development loss of every seed; the rings are the epochs that were kept."""
    with _axes(ax) as axes:
        draw_losses(axes, _curves(run))
    return axes


def temperature(run: Run | str | Path, *, ax: Axes | None = None) -> Axes:
    """The temperature of every seed."""
    with _axes(ax) as axes:
        draw_temperatures(axes, _curves(run))
        axes.legend(fontsize=8)
    return axes


def measure(result: Mapping[str, Any], key: str, *, test: str | None = None, ax: Axes | None = None) -> Axes:
    """A dot a method, with its intervals, of what `compare`, `cross_validate` or `evaluate` returned.

    `key` is a measure, such as aoc, of the first table that has it, or of the table `test` (ordinality, word_norms,
    alignment, recognition). Raises UsageError where there is none.
    """
    rows = {**result.get("methods", {}), **result.get("references", {})}
    tables: Any = fold_tables(result) if "folds" in result else comparison_tables(rows).tables if rows else None
    tables = tables or evaluation_tables({result["method"]: result})
    found = [(of, column) for of in tables for column in of.columns if column.key == key and test in (None, of.name)]
    if not found:
        known = ", ".join(f"{of.name}: {' '.join(column.key for column in of.columns)}" for of in tables)
        raise UsageError(f"measure {key}", f"none of {test or 'the tables'}", known, "Name one of these.")
    table, column = found[0]
    with _axes(ax, (PANEL[0], 1.3 + 0.3 * len(table.rows))) as axes:
        draw_measure(axes, table, column)
        draw_methods(axes, table)
    return axes


def confusion(recognition: Mapping[str, Any], *, title: str = "", ax: Axes | None = None) -> Axes:
    """The confusion matrix of a recognition, as `compare` has it for each method and `zero_shot` returns it."""
    with _axes(ax, (3.6, 3.8)) as axes:
        draw_confusion(axes, title, recognition)
    return axes


def tau_histogram(evaluation: Mapping[str, Any], key: str = "aoc", *, ax: Axes | None = None) -> Axes:
    """A histogram over the lists of all seeds of Kendall's tau, of aoc or voc, beside chance."""
    with _axes(ax) as axes:
        draw_kendall_tau(
            axes, key, [tau for seed in evaluation["seeds"].values() for tau in seed["ordinality"][key]["taus"]]
        )
    return axes


def retrieval(
    run: Run | str | Path,
    *,
    stores: Stores | str | Path | None = None,
    split: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """From each point of the valence-arousal plane that a prompt describes to the mean labels that it retrieves.

    Of the best seed's heads, on the test split. Raises as `evaluate` does.
    """
    opened, heads, pairs = _embedded(run, stores, split)
    prompts, vectors = ordinality_prompts(opened, STYLE, torch.device("cpu"))
    with torch.no_grad():
        speech, asked = heads.embed_speech(pairs.speech), heads.embed_text(vectors)
    with _axes(ax, (5.0, 5.0)) as axes:
        draw_retrieval(axes, mean_labels_retrieved(speech, pairs.labels[:, :2], prompts, asked))
        axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return axes


def projection(
    run: Run | str | Path, *, panel: str = "both after", by: Literal["valence", "arousal"] = "valence",
    stores: Stores | str | Path | None = None, split: str | None = None, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Principal components of speech and text of the test split, in the colours of their labels.

    `panel` is "speech before" or "text before" the heads, or "both after" them. Raises as `evaluate` does.
    """
    if panel not in PANELS:
        raise UsageError(f"panel {panel}", "no such panel", ", ".join(PANELS), "Name one of these.")
    _, heads, pairs = _embedded(run, stores, split)
    scatters = pca_scatters(heads, pairs)
    with _axes(ax, (4.8, 3.8)) as axes:
        axes.figure.colorbar(scatters.draw_panel(axes, panel, by), ax=axes, label=f"{by} (1-7)")
        axes.set_title(panel)
        if panel == PANELS[-1]:
            scatters.draw_legend(axes)
            axes.legend(fontsize=8)
    return axes


def halving(sweep: Mapping[str, Any] | str | Path, *, ax: Axes | None = None) -> Axes:
    """The score of every trial of a sweep, which `sweep` returned or which is in this folder, rung by rung.

    Raises UsageError for a sweep without halving.
    """
    space, rows, out = _swept(sweep)
    if space.config.halving is None:
        raise UsageError(out, "a sweep without halving", "one with rungs", "Draw its parallel_coordinates.")
    with _axes(ax, (8.0, 3.8)) as axes:
        figures.draw_halving(axes, space, figures.scores_by_rung(space, rows), figures.best_trial(rows))
    return axes


def parallel_coordinates(sweep: Mapping[str, Any] | str | Path, *, ax: Axes | None = None) -> Axes:
    """A line a trial of a sweep through its settings to its score."""
    space, rows, _ = _swept(sweep)
    with _axes(ax, (8.0, 3.8)) as axes:
        colours = figures.draw_parallel(axes, space, figures.scored(rows), list(space.dimensions))
        axes.figure.colorbar(colours, ax=axes, label=figures.score_name(space))
    return axes


def dimension(sweep: Mapping[str, Any] | str | Path, name: str, *, ax: Axes | None = None) -> Axes:
    """The score of every trial of a sweep against the setting `name`. Raises UsageError where there is no such one."""
    space, rows, out = _swept(sweep)
    if name not in space.dimensions:
        known = ", ".join(space.dimensions)
        raise UsageError(f"dimension {name}", f"none of {out}", known, "Name one of these.")
    with _axes(ax) as axes:
        points = figures.points_of(name, rows)
        figures.draw_dimension(axes, space.dimensions[name], points, figures.best_trial(rows))
        axes.set(xlabel=figures.axis_name(space, name), ylabel=figures.score_label(space).replace(" (", "\n("))
    return axes


def importance(sweep: Mapping[str, Any] | str | Path, *, storage: str | None = None, ax: Axes | None = None) -> Axes:
    """Each setting's share in what sets the best quarter of a sweep's trials apart (PED-ANOVA).

    `storage` is the URL that the sweep was given, if any. Raises UsageError for too few trials, or no storage.
    """
    from pipeline.experiments.sweeps.report import MIN_TRIALS, importances  # which need Optuna
    from pipeline.experiments.sweeps.study import load_study

    space, rows, out = _swept(sweep)
    shares = importances(load_study(space, out, storage), rows)
    if not shares:
        found = f"{len(figures.scored(rows))} trials with a score"
        raise UsageError(out, found, f"{MIN_TRIALS} or more", "Train more of them.")
    with _axes(ax, (5.0, 0.9 + 0.32 * len(shares))) as axes:
        figures.draw_importance(axes, shares)
    return axes


def save(
    figure: Any, path: str | Path, *, for_: Literal["column", "page", "slide"] = "column", height: float | None = None
) -> list[Path]:
    """Write a figure, or that of given axes, as wide as a paper's column (3.35 inches) or page (7), or for a slide.

        plot.save(ax, "order", for_="column")          # order.pdf and order.svg
        plot.save(ax, "order.png", for_="slide")       # 2000 pixels across, 16:9

    The suffix chooses the format. Text stays text: TrueType in PDF, the reader's font in SVG. `height` is in inches;
    without it a slide is 16:9 and anything else as high for its width as it was. The figure itself is not changed.
    Returns the paths. Raises UsageError for an unknown format or width.
    """
    matplotlib = required_library("matplotlib", "report", "plot.save")
    if for_ not in SIZES:
        raise UsageError(f"for_={for_}", "no such width", ", ".join(SIZES), "Name one of these.")
    path, figure = Path(path), getattr(figure, "figure", figure)
    paths = [path] if path.suffix else [path.with_name(f"{path.name}.{suffix}") for suffix in ("pdf", "svg")]
    known = figure.canvas.get_supported_filetypes()
    if unknown := [each for each in paths if each.suffix[1:] not in known]:
        raise UsageError(unknown[0], f"the format {unknown[0].suffix[1:]}", ", ".join(known), "Choose another suffix.")
    size, layout = figure.get_size_inches().tolist(), figure.get_layout_engine()
    height = height or (SLIDE_HEIGHT if for_ == "slide" else SIZES[for_] * size[1] / size[0])
    embedded = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}
    try:
        figure.set_size_inches(SIZES[for_], height)
        if layout is None:
            figure.set_layout_engine("constrained")  # labels at an edge would be cut
        with matplotlib.rc_context(embedded), translate_os_errors(path.parent):
            make_folder(path.parent)
            for each in paths:
                picture = io.BytesIO()
                figure.canvas.print_figure(picture, format=each.suffix[1:], dpi=300)
                write_atomic(each, [picture.getvalue()])
    finally:
        figure.set_size_inches(*size)
        figure.set_layout_engine("none" if layout is None else layout)
    return paths


@contextmanager
def _axes(ax: Axes | None, size: tuple[float, float] = PANEL) -> Iterator[Axes]:
    """`ax` as it is, or the axes of a new figure of `size` inches in the style of the reports."""
    matplotlib = required_library("matplotlib", "report", "pipeline.plot")
    if ax is not None:
        with matplotlib.rc_context({"text.parse_math": False}):  # a name may hold dollars
            yield ax
        return
    from matplotlib import pyplot

    with report_style():
        yield pyplot.figure(figsize=size).add_subplot()


def _curves(run: Run | str | Path) -> Any:
    opened = run if isinstance(run, Run) else open_run(run)
    return curves_of(opened, opened.about["seeds"])


def _embedded(
    run: Run | str | Path, stores: Stores | str | Path | None, split: str | None
) -> tuple[Stores, Heads, CachedPairs]:
    """The stores of a run, the heads of its best seed, and the pairs of `split`, else of the test split."""
    run = run if isinstance(run, Run) else open_run(run)
    opened = run.stores(stores)
    return opened, run.heads_for(opened), cached_pairs(opened, split_of(opened, split), style=STYLE)


def _swept(sweep: Mapping[str, Any] | str | Path) -> tuple[Space, list[Row], Path]:
    """A sweep's space, trials and folder."""
    out = Path(sweep["out"] if isinstance(sweep, Mapping) else sweep)
    try:
        rows = sweep["trials"] if isinstance(sweep, Mapping) else json.loads((out / "sweep.json").read_text())["trials"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(out, "no sweep.json", "the folder of a sweep", "Run sweep-heads first.") from None
    return Space(validate_file(SweepConfig, out / "sweep.yaml")), rows, out
