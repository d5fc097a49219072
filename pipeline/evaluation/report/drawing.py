"""A figure of a report, its caption, and the data in it."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cache.disk import make_folder, remove, write_atomic, write_text
from cache.errors import one_line
from pipeline.core.files import csv_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Figure:
    """A picture, its caption, and its data: `rows` under `columns`.

    `draw` draws into a matplotlib Figure of `size` inches. `name` is that of its files, `REPORT/NAME.{csv,svg,png}`.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    draw: Callable[[Any], None]
    size: tuple[float, float]

    def csv(self) -> str:
        """The data, in full precision; text on one line."""
        plain = ([one_line(value) if isinstance(value, str) else value for value in row] for row in self.rows)
        return csv_text(self.columns, plain)


BLUE, ORANGE, SKY = "#0072B2", "#D55E00", "#56B4E9"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", SKY, "#000000")  # without yellow, pale on white
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":")
WITHOUT_MATPLOTLIB = "matplotlib is not installed: the report has no figures (pip install 'emotionrankclap[report]')"
_MAX_DRAWN = 1e9
PNG_DPI = 130
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "emotionrankclap",  # equal data give equal bytes
    "text.parse_math": False,  # a name may hold dollars
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.88",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.framealpha": 0.9,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.09,  # inches; labels at an edge are cut with less
    "figure.constrained_layout.h_pad": 0.09,
}


@contextmanager
def report_style() -> Iterator[None]:
    """Figures made within look as in a report, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def write_figures(figures: Iterable[Figure], folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Write each figure's CSV, SVG and PNG into `folder`; returns the SVGs, to stand in a page, by name.

    Without matplotlib only the CSV is written, nothing is returned, and a line says so. `names` are all that a report
    of this kind may have: files of those that are not drawn this time are removed.
    """
    chosen = {figure.name: figure for figure in figures}
    make_folder(folder)
    for name, figure in chosen.items():
        write_text(folder / f"{name}.csv", figure.csv())
    pictures = _render(chosen.values())
    for name, (svg, png) in pictures.items():
        write_atomic(folder / f"{name}.svg", [svg])
        write_atomic(folder / f"{name}.png", [png])
    for name in names:
        if name not in chosen:
            remove(folder / f"{name}.csv")
        if name not in pictures:
            remove(folder / f"{name}.svg")
            remove(folder / f"{name}.png")
    return {name: inline(svg.decode(), name, chosen[name].title) for name, (svg, _) in pictures.items()}


def drawable(value: float) -> float:
    """`value`, or NaN where an axis that holds it would show nothing else: a file can hold any number."""
    return value if abs(value) < _MAX_DRAWN else math.nan


def inline(svg: str, name: str, title: str) -> str:
    """matplotlib's SVG as an element of an HTML page: no declaration, no metadata, ids that no other figure has."""

    def attribute(key: str, value: str) -> str:
        if key == "id":
            return f"{name}-{value}"
        if key == "href" and value.startswith("#"):
            return f"#{name}-{value[1:]}"
        return value.replace("url(#", f"url(#{name}-")

    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = _without_namespace(element.tag)
        keys = {_without_namespace(key): value for key, value in element.attrib.items()}
        element.attrib = {key: attribute(key, value) for key, value in keys.items()}
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    root.attrib |= {"role": "img", "aria-label": one_line(title)}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _without_namespace(name: str) -> str:
    return name.rpartition("}")[2]


def _render(figures: Iterable[Figure]) -> dict[str, tuple[bytes, bytes]]:
    """(SVG, PNG) of each, in our style whatever the user's matplotlibrc says; empty where there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        log.info(WITHOUT_MATPLOTLIB)
        return {}
    with report_style(), warnings.catch_warnings():
        # letters that the font lacks, and scripts in the PNG: browsers have fonts for them
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        return {figure.name: _picture(figure) for figure in figures}


def _picture(figure: Figure) -> tuple[bytes, bytes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=figure.size)
    figure.draw(canvas)
    svg, png = io.BytesIO(), io.BytesIO()
    vector: Any = FigureCanvasSVG(canvas)
    if layout := canvas.get_layout_engine():  # once for both pictures; print_figure would draw each of them twice
        layout.execute(canvas)
        canvas.set_layout_engine("none")
    vector.print_svg(svg, metadata={"Date": None})
    canvas.set_dpi(PNG_DPI)
    raster: Any = FigureCanvasAgg(canvas)
    raster.print_png(png)
    return svg.getvalue(), png.getvalue()
