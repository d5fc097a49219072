"""A figure of a report, its caption, and the data in it."""

from __future__ import annotations

import io
import logging
import math
import re
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
    """`draw` draws into a matplotlib Figure of `size` inches; `rows` under `columns` are what is drawn.

    `name` is that of its files, `REPORT/NAME.{csv,svg,png}`.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    draw: Callable[[Any], None]
    size: tuple[float, float]

    def csv(self) -> str:
        """The data, in full precision."""
        return csv_text(self.columns, ([_plain(value) for value in row] for row in self.rows))


def _plain(value: Any) -> Any:
    return one_line(value) if isinstance(value, str) else value


BLUE, ORANGE, SKY = "#0072B2", "#D55E00", "#56B4E9"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", SKY, "#000000")  # without yellow, pale on white
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":")
SUFFIXES = (".csv", ".svg", ".png")
WITHOUT = "matplotlib is not installed: the report has no figures (pip install 'emotionrankclap[report]')"
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
_LARGEST = 1e9
_REFERENCE = re.compile(r"url\(#")


def publish(exhibits: Iterable[Figure], folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Write each exhibit's CSV, SVG and PNG into `folder`; returns its SVG, to stand in a page, by name.

    Without matplotlib only the CSV is written, nothing is returned, and a line says so. `names` are all that a report
    of this kind may have: files of those that are not drawn this time are removed.
    """
    chosen = {exhibit.name: exhibit for exhibit in exhibits}
    make_folder(folder)
    for name, exhibit in chosen.items():
        write_text(folder / f"{name}.csv", exhibit.csv())
    pictures = _pictures(chosen.values())
    for name, pair in pictures.items():
        for suffix, contents in zip(SUFFIXES[1:], pair, strict=True):
            write_atomic(folder / (name + suffix), [contents])
    for name in names:
        for suffix in SUFFIXES if name not in chosen else () if name in pictures else SUFFIXES[1:]:
            remove(folder / (name + suffix))
    return {name: inline(svg.decode(), name, chosen[name].title) for name, (svg, _) in pictures.items()}


def drawable(value: float) -> float:
    """`value`, or NaN where an axis that holds it would show nothing else: a file can hold any number."""
    return value if abs(value) < _LARGEST else math.nan


def inline(svg: str, name: str, title: str) -> str:
    """matplotlib's SVG as an element of an HTML page: no declaration, no metadata, ids that no other figure has."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _of(name, _local(key), value) for key, value in element.attrib.items()}
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    root.attrib |= {"role": "img", "aria-label": one_line(title)}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _of(figure: str, key: str, value: str) -> str:
    """An attribute's value whose id, or reference to one, is of this figure alone."""
    if key == "id":
        return f"{figure}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{figure}-{value[1:]}"
    return _REFERENCE.sub(lambda found: f"{found[0]}{figure}-", value)


def _pictures(exhibits: Iterable[Figure]) -> dict[str, tuple[bytes, bytes]]:
    """(SVG, PNG) of each; empty where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        log.info(WITHOUT)
        return {}
    with _style():
        return {exhibit.name: _picture(exhibit) for exhibit in exhibits}


def _picture(exhibit: Figure) -> tuple[bytes, bytes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=exhibit.size)
    exhibit.draw(figure)
    svg, png = io.BytesIO(), io.BytesIO()
    FigureCanvasSVG(figure).print_figure(svg, format="svg", metadata={"Date": None})
    figure.set_layout_engine("none")  # the PNG's is the same
    FigureCanvasAgg(figure).print_figure(png, format="png", dpi=130)
    return svg.getvalue(), png.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    """Our style, whatever the user's matplotlibrc says. Letters its font lacks are no warning: browsers have them."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")  # some scripts in the PNG
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield
