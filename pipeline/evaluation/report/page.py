"""Strings of a report. Ids, names and captions come from files of strangers: none is markup, and each is one line."""

from __future__ import annotations

import base64
import hashlib
import html
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.disk import write_text
from cache.errors import one_line
from pipeline.core.errors import StoreCorrupt, UsageError
from pipeline.evaluation.comparison import comparison_tables
from pipeline.evaluation.report.drawing import Figure, publish
from pipeline.evaluation.tables import Listing, Table, table_latex, table_markdown

log = logging.getLogger(__name__)

LONGEST = 48  # characters of a name in a figure


def escaped(text: object) -> str:
    """`text` for HTML, in an element or a quoted attribute; what cannot be printed is written as escapes."""
    return html.escape("\n".join(one_line(line) for line in str(text).split("\n")))


def label(text: object, longest: int = LONGEST) -> str:
    """`text` for a figure: one printable line, cut where it is long."""
    line = one_line(str(text))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


NO_FIGURE = "Drawn where matplotlib is installed (pip install 'emotionrankclap[report]'); its data are in"
STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1a1a1a; font: 16px/1.5 system-ui, "Segoe UI", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #999; }
.wide { overflow-x: auto; }
.many table { font-size: .8rem; } .many th, .many td { padding-right: .4rem; }
.many th:first-child { min-width: 5ch; }
table { border-collapse: collapse; margin: .4rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; white-space: nowrap; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid #333; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8ch; }
.facts td, .facts th { text-align: left; white-space: normal; overflow-wrap: anywhere; font-weight: normal; }
.facts { font-size: .85rem; }
ul.notes { margin: .3rem 0 .6rem; padding-left: 1.2rem; font-size: .85rem; color: #333; }
figure { margin: 1rem 0; }
figure svg { display: block; max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #333; max-width: 50rem; }
button { font: inherit; font-size: .85rem; color: #1a1a1a; background: #f2f2f2; border: 1px solid #767676;
  border-radius: 3px; padding: .15rem .6rem; margin: 0 .4rem .3rem 0; cursor: pointer; }
details { font-size: .85rem; } pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; }
@media print {
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  button, details.source { display: none; }
  h2, figure, table, tr { break-inside: avoid; } .facts { break-inside: auto; } h2 { break-after: avoid; }
  .wide { overflow: visible; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  table { font-size: 8.5pt; } th, td { white-space: normal; padding-right: .5rem; }
  th { overflow-wrap: anywhere; } .many table { font-size: 6pt; }
  .facts { font-size: 7pt; } .facts td, .facts th { padding: .05rem .5rem .05rem 0; }
}
"""
SCRIPT = """
for (const button of document.querySelectorAll("button[data-copy]")) {
  const name = button.textContent;
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy).textContent;
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    button.textContent = done ? "Copied" : "Open the text below and copy it";
    setTimeout(() => { button.textContent = name; }, 2000);
  });
}
"""
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"


@dataclass(frozen=True)
class Section:
    """A heading, HTML below it (already escaped), and figures below that."""

    title: str
    body: str = ""
    exhibits: Sequence[Figure] = field(default=())


def write_page(title: str, lede: str, sections: Sequence[Section], path: Path, names: Iterable[str]) -> None:
    """Write the page to `path` and its figures to the folder `report` beside; `names` are those it may have."""
    exhibits = [exhibit for section in sections for exhibit in section.exhibits]
    pictures = publish(exhibits, path.with_suffix(""), names)
    body = "\n".join(_section(section, pictures) for section in sections)
    write_text(path, _page(title, lede, body))


def unless_damaged(title: str, exhibit: Callable[[], Figure | None]) -> Section:
    """The section, or why it is left out: a report is no stricter than what it is of. None is nothing to draw."""
    try:
        drawn = exhibit()
        return Section(title, exhibits=[drawn]) if drawn else Section(title, notes_list(["Nothing of it is here."]))
    except (StoreCorrupt, UsageError) as error:
        log.warning(f"report: {title.lower()} is left out: {error}")
        return Section(title, notes_list([f"Left out: {error}"]))


def notes_list(notes: Iterable[object]) -> str:
    """A list of remarks."""
    return f'<ul class="notes">{"".join(f"<li>{escaped(note)}</li>" for note in notes)}</ul>'


def _section(section: Section, pictures: Mapping[str, str]) -> str:
    figures = "\n".join(_figure(exhibit, pictures.get(exhibit.name)) for exhibit in section.exhibits)
    return f"<section>\n<h2>{escaped(section.title)}</h2>\n{section.body}\n{figures}\n</section>"


def _figure(exhibit: Figure, svg: str | None) -> str:
    drawn = svg or f"<p>{escaped(NO_FIGURE)} report/{exhibit.name}.csv.</p>"
    caption = f"<strong>{escaped(exhibit.title)}.</strong> {escaped(exhibit.caption)}"
    return (
        f'<figure id="figure-{exhibit.name}">\n<div class="wide">{drawn}</div>\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


def _page(title: str, lede: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escaped(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escaped(title)}</h1>
<p>{escaped(lede)}</p>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


_BEST = "bold: best mean"
_MANY = 10  # columns from which paper wants smaller print


def table_html(table: Listing) -> str:
    """One table, its buttons, and its notes."""
    header = "".join(f'<th scope="col">{escaped(name)}</th>' for name in table.headers())
    rows = "\n".join(
        f'<tr><th scope="row">{escaped(name)}</th>{"".join(f"<td>{_shown(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in table.cells(lambda text: f"\x02{text}\x03")
    )
    room = "wide many" if len(table.headers()) > _MANY else "wide"
    return (
        f'<div class="{room}"><table>\n<caption>{escaped(table.title)}</caption>\n'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n"
        f"{_sources(table)}\n{notes_list(table.notes)}"
    )


def facts_html(facts: Iterable[tuple[str, object]]) -> str:
    """Names and what they are, one a line."""
    rows = "\n".join(f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>' for name, value in facts)
    return f'<table class="facts">\n<tbody>\n{rows}\n</tbody>\n</table>'


def evaluation_tables(results: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """A row for each of `results`, of one run: all seeds together, then each. They are not a contest: none is best."""
    each = {name: comparison_tables({name: result}).tables for name, result in results.items()}
    first = next(iter(each.values()))
    return [
        replace(
            table,
            rows={name: _none_best(tables[place].rows[name]) for name, tables in each.items()},
            notes=tuple(note for note in table.notes if note != _BEST),
        )
        for place, table in enumerate(first)
    ]


def _none_best(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: replace(cell, best=False) for key, cell in row.items()}


def _shown(text: str) -> str:
    """A cell's text is escaped as a whole, bold apart: its marks are none that a name can bring along."""
    if text.startswith("\x02") and "\x03" in text:
        bold, _, rest = text[1:].partition("\x03")
        return f"<strong>{escaped(bold)}</strong>{escaped(rest)}"
    return escaped(text)


def command_html(name: str, command: str) -> str:
    """A command, and a button that copies it."""
    button = f'<button type="button" data-copy="{name}">Copy</button>'
    return f'<pre id="{name}">{escaped(command)}</pre>\n<div>{button}</div>'


def _sources(table: Listing) -> str:
    texts = {"Markdown": table_markdown(table) + "\n", "LaTeX": table_latex(table) + "\n"}
    ids = {kind: f"{table.name}-{kind.lower()}" for kind in texts}
    buttons = "".join(f'<button type="button" data-copy="{ids[kind]}">Copy as {kind}</button>' for kind in texts)
    blocks = "".join(f'<pre id="{ids[kind]}">{escaped(text)}</pre>' for kind, text in texts.items())
    return f'<div>{buttons}</div>\n<details class="source"><summary>Markdown and LaTeX</summary>{blocks}</details>'
