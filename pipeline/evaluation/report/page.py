"""The HTML page of a report: one file without network. Ids, names and captions come from files of strangers: Jinja2
escapes each of them, and what cannot be printed is written as an escape.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cache.disk import write_text
from cache.errors import one_line
from pipeline.core.errors import StoreCorrupt, UsageError
from pipeline.evaluation.report.drawing import Figure, write_figures
from pipeline.evaluation.table_formats import Bold, TextTable, table_latex, table_markdown

log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_STYLE, _SCRIPT = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"
MAX_LABEL = 48  # characters of a name in a figure


@dataclass(frozen=True)
class Section:
    """A heading, HTML below it (from the functions of this module), and figures below that."""

    title: str
    body: str = ""
    figures: Sequence[Figure] = ()


def write_page(title: str, subtitle: str, sections: Sequence[Section], path: Path, names: Iterable[str]) -> None:
    """Write the page to `path` and its figures to the folder `report` beside; `names` are those it may have."""
    svgs = write_figures([figure for section in sections for figure in section.figures], path.with_suffix(""), names)
    page = _TEMPLATES.get_template("report.html.j2").render(
        title=title, subtitle=subtitle, sections=sections, svgs=svgs, policy=_POLICY, style=Markup(_STYLE),
        script=Markup(_SCRIPT),
    )  # fmt: skip
    write_text(path, page)


def unless_damaged(title: str, figure: Callable[[], Figure | None]) -> Section:
    """A section of one figure; where its data are corrupt or absent, of the reason why it is left out."""
    try:
        drawn = figure()
        return Section(title, figures=[drawn]) if drawn else Section(title, notes_list(["Nothing of it is here."]))
    except (StoreCorrupt, UsageError) as error:
        log.warning(f"report: {title.lower()} is left out: {error}")
        return Section(title, notes_list([f"Left out: {error}"]))


def label(text: object, longest: int = MAX_LABEL) -> str:
    """`text` for a figure: one printable line, cut where it is long."""
    line = one_line(str(text))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def notes_list(notes: Iterable[object]) -> Markup:
    """A list of remarks."""
    return Markup(_PARTS.notes(notes))


def facts_html(facts: Iterable[tuple[str, object]]) -> Markup:
    """Names and their values, one a line."""
    return Markup(_PARTS.facts([(name, value_text(value)) for name, value in facts]))


def settings_html(facts: Iterable[tuple[str, object]]) -> Markup:
    """`facts_html`, folded until it is asked for."""
    return Markup(_PARTS.folded("Settings and fingerprints", facts_html(facts)))


_HASH_TEXT = re.compile("[0-9a-f]{24,}")
SHORT_HASH = 12  # characters: enough to tell two apart by eye; the JSON has the whole


def value_text(value: object) -> str:
    """A value of a config or a fingerprint in words, with no sign of Python; hashes by their first characters."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(map(value_text, value)) or "none"
        case dict():
            return ", ".join(f"{name} {value_text(of)}" for name, of in value.items()) or "none"
    return _HASH_TEXT.sub(lambda found: f"{found[0][:SHORT_HASH]}…", str(value))


def command_html(name: str, command: str) -> Markup:
    """A command, and a button that copies it."""
    return Markup(_PARTS.command(name, command))


def table_html(table: TextTable) -> Markup:
    """One table, buttons that copy it as Markdown or LaTeX, and its notes."""
    sources = {"Markdown": table_markdown(table) + "\n", "LaTeX": table_latex(table) + "\n"}
    return Markup(_PARTS.table(table, sources))


def _printable(value: object) -> object:
    """`value` as text in which only line breaks are control characters, bold where it is; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    text = "\n".join(one_line(line) for line in str(value).split("\n"))
    return Markup("<strong>{}</strong>").format(text) if isinstance(value, Bold) else text


_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, finalize=_printable, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
_PARTS: Any = _TEMPLATES.get_template("parts.html.j2").module
