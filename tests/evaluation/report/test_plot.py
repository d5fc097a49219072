"""`pipeline.plot` draws what the reports draw, by their own functions, and its files fit a paper and a slide."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

import pipeline
from pipeline import plot
from pipeline.core.errors import UsageError
from pipeline.evaluation.data_frames import ComparisonResult
from pipeline.evaluation.report.drawing import write_figures
from pipeline.evaluation.report.figures import measures_figure
from pipeline.evaluation.tables import evaluation_tables
from tests.evaluation.report.conftest import result_of, rows_of
from tests.evaluation.results import bound, result

Draw = Callable[[Path, Path, Any], Any]
PANELS: dict[str, Draw] = {
    "loss": lambda run, _, ax: plot.loss(run, ax=ax),
    "temperature": lambda run, _, ax: plot.temperature(run, ax=ax),
    "measure": lambda run, _, ax: plot.measure(result_of(run), "voc", ax=ax),
    "tau_histogram": lambda run, _, ax: plot.tau_histogram(result_of(run), "voc", ax=ax),
    "retrieval": lambda run, _, ax: plot.retrieval(run, ax=ax),
    "projection": lambda run, _, ax: plot.projection(run, by="arousal", ax=ax),
    "halving": lambda _, swept, ax: plot.halving(swept, ax=ax),
    "parallel_coordinates": lambda _, swept, ax: plot.parallel_coordinates(swept, ax=ax),
    "dimension": lambda _, swept, ax: plot.dimension(swept, "learning_rate", ax=ax),
    "importance": lambda _, swept, ax: plot.importance(swept, ax=ax),
}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    with matplotlib.rc_context({"backend": "agg"}):
        yield
        pyplot.close("all")


def points(axes: Any) -> list[tuple[float, float]]:
    """Of every line and scatter, sorted."""
    found = [tuple(point) for line in axes.lines for point in np.column_stack(line.get_data()).astype(float).tolist()]
    found += [tuple(point) for dots in axes.collections for point in np.asarray(dots.get_offsets()).tolist()]
    return sorted(each for each in found if np.isfinite(each).all())


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_is_drawn_into_the_axes_given_and_into_new_ones(name: str, run: Path, swept: Path) -> None:
    _, mine = pyplot.subplots()
    assert PANELS[name](run, swept, mine) is mine
    alone = PANELS[name](run, swept, None)
    assert alone.figure is not mine.figure
    assert points(alone) == points(mine)
    assert points(mine) or mine.patches  # bars
    pyplot.gcf().canvas.draw()  # without a warning


def test_the_panels_show_the_data_of_the_report(run: Path, swept: Path) -> None:
    for name, columns in {"retrieval": ("prompt", "retrieved"), "projection": ()}.items():
        rows = rows_of(run, name)
        if columns:
            expected = [
                (float(row[f"{side} valence"]), float(row[f"{side} arousal"])) for row in rows for side in columns
            ]
            shown = points(plot.retrieval(run))
        else:
            chosen = [row for row in rows if row["panel"] == "both after"]
            expected = [(float(row["first"]), float(row["second"])) for row in chosen]
            shown = points(plot.projection(run))
        assert set(np.round(expected, 5).ravel()) <= set(np.round(shown, 5).ravel())
    losses = {(float(row["epoch"]), float(row["dev_loss"])) for row in rows_of(run, "curves")}
    assert losses <= set(points(plot.loss(run)))
    scores = [float(row[key]) for row in rows_of(swept, "dimensions") for key in row if key.endswith("rung 1")]
    assert {y for _, y in points(plot.dimension(swept, "method"))} >= set(scores)
    bars = [patch.get_width() for patch in plot.importance(swept).patches]
    assert bars == pytest.approx([float(row["importance"]) for row in rows_of(swept, "importance")])


def test_a_measure_shows_every_method_and_bound_of_a_comparison_at_its_mean() -> None:
    methods = {"a": result(0.5, 0.1, 1), "b": result(0.2, 0.3, 2)}
    summary = ComparisonResult(methods=methods, references={"ceiling": bound(0.7, "the true point asked")})
    axes = plot.measure(summary, "aoc")
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["a", "b", "ceiling"]
    means = {float(y): x for x, y in points(axes) if float(y).is_integer()}
    for place, (name, found) in enumerate({**methods, **summary["references"]}.items()):
        assert (found["ordinality"]["aoc"]["mean"], place) in points(axes), (name, means)


def test_a_confusion_shows_the_shares_of_each_label() -> None:
    found = {
        "classes": ["calm", "$\\frac{$"],
        "confusion": [[3, 1], [0, 2]],
        "uar": {"mean": 0.875},
        "chance": 0.5,
        "n": 6,
    }
    axes = plot.confusion(found, title="mine")
    assert [text.get_text() for text in axes.texts] == ["75", "25", "0", "100"]
    margin = 1.96 * np.sqrt(0.25 / 4 + 0.25 / 2) / 2  # of a guess of four and of two utterances
    assert axes.get_title() == f"mine\nUAR 0.875 (chance {0.5 - margin:.3f} to {0.5 + margin:.3f})"
    axes.figure.canvas.draw()


def test_the_report_and_the_panel_are_drawn_by_one_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    for module in ("pipeline.evaluation.report.figures", "pipeline.experiments.plot"):
        monkeypatch.setattr(f"{module}.draw_measure", lambda _axes, _table, column: drawn.append(column.key))
    results = {"a": result(0.5, 0.1, 1)}
    [order, *_] = evaluation_tables(results)
    write_figures([measures_figure(order)], tmp_path / "report", [])
    plot.measure(results["a"] | {"method": "a"}, "aoc")
    assert drawn == ["aoc", "voc", "aoc"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda run, _: plot.measure(result_of(run), "ooc"),
            "measure ooc: none of the tables; expected ordinality: aoc",
        ),
        (lambda run, _: plot.projection(run, panel="after"), "panel after: no such panel; expected speech before"),
        (lambda _, swept: plot.dimension(swept, "lr"), "dimension lr: none of .*; expected learning_rate"),
        (lambda run, _: plot.halving(run), "no sweep.json; expected the folder of a sweep"),
        (lambda _, swept: plot.importance(swept, storage="sqlite://"), "sqlite://: no study of this name"),
        (lambda run, _: plot.save(plot.loss(run), run / "x.gif2"), "the format gif2; expected "),
        (lambda run, _: plot.save(plot.loss(run), run / "x", for_="poster"), "for_=poster: no such width"),
    ],
)
def test_what_cannot_be_drawn_is_a_line(call: Any, said: str, run: Path, swept: Path) -> None:
    with pytest.raises(UsageError, match=said):
        call(run, swept)


def test_without_matplotlib_a_line_names_the_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"matplotlib is not installed; .*'emotionrankclap\[report\]'"):
        plot.loss(run)


def test_the_module_is_loaded_when_it_is_used_and_draws_in_the_reports_style_alone() -> None:
    assert pipeline.plot is plot
    found = {"classes": ["a", "b"], "confusion": [[3, 1], [0, 2]], "uar": {"mean": 0.875}, "chance": 0.5, "n": 6}
    before = dict(matplotlib.rcParams)
    alone = plot.confusion(found)
    assert matplotlib.rcParams == before
    assert not alone.spines["top"].get_visible()


def pdf_text(path: Path) -> bytes:
    """A PDF with its compressed streams opened."""
    data = path.read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    opened = []
    for stream in streams:
        try:
            opened.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return data + b"".join(opened)


@pytest.mark.parametrize(("kind", "inches"), [("column", 3.35), ("page", 7.0), ("slide", 20 / 3)])
def test_a_file_is_as_wide_as_its_place_and_its_text_stays_text(kind: Any, inches: float, tmp_path: Path) -> None:
    found = {"classes": ["calm", "angry"], "confusion": [[3, 1], [0, 2]], "uar": {"mean": 0.875}, "chance": 0.5, "n": 6}
    axes = plot.confusion(found)
    size = axes.figure.get_size_inches().tolist()
    pdf, svg = plot.save(axes, tmp_path / "new/figure", for_=kind)
    assert (pdf.name, svg.name) == ("figure.pdf", "figure.svg")
    text = pdf_text(pdf)
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", text)
    assert box is not None
    assert float(box[1]) == pytest.approx(72 * inches, abs=0.01)
    assert b"/FontFile2" in text  # TrueType, not outlines of type 3
    assert b"/Type3" not in text
    root = ElementTree.parse(svg).getroot()
    assert root.attrib["width"] == f"{72 * inches:g}pt" or float(root.attrib["width"][:-2]) == pytest.approx(
        72 * inches
    )
    assert "calm" in ["".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")]
    [png] = plot.save(axes.figure, tmp_path / "figure.png", for_=kind)
    with Image.open(png) as image:
        assert image.width == pytest.approx(300 * inches, abs=1)
        if kind == "slide":
            assert image.width / image.height == pytest.approx(16 / 9, abs=0.01)
    assert axes.figure.get_size_inches().tolist() == size
    assert not list(tmp_path.glob("**/*.tmp"))
