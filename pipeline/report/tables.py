"""Tables of a report: those of `evaluation.rendering` as HTML, with what they are in Markdown and LaTeX to copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.evaluation.comparison import comparison_tables
from pipeline.evaluation.rendering import Listing, Table, table_latex, table_markdown
from pipeline.report.page import notes_list
from pipeline.report.text import escaped

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
