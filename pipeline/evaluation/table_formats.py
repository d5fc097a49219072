"""Tables in plain text, as Markdown and as LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class Bold(str):
    """A cell in bold."""


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are texts, for every format alike.

    `notes` stand below it; `conventions` are the footnotes [1], [2] ... that cells and notes refer to.
    """

    name: str
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    conventions: Sequence[str] = ()


WIDTH = 120  # characters of a line in a terminal


def footnotes(table: TextTable) -> list[str]:
    """The conventions, each with the number that notes and cells refer to it by."""
    return [f"[{number}] {text}" for number, text in enumerate(table.conventions, 1)]


def table_text(table: TextTable, *, conventions: bool = False) -> str:
    """Aligned columns for a terminal, the notes below; a table of more columns than fit goes on below itself."""
    grid = [table.headers, *table.rows]
    room = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  ".join([row[0].ljust(room[0]), *(row[column].rjust(room[column]) for column in block)])
        for block in _blocks(room)
        for row in grid
    ]
    notes = [*table.notes, *(footnotes(table) if conventions else ())]
    wrapped = [
        line
        for note in notes
        for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    ]
    return "\n".join([table.title, *lines, *wrapped])


def _blocks(room: Sequence[int]) -> Iterator[list[int]]:
    """The columns beside the first, as many at a time as fit into a line with it."""
    block: list[int] = []
    for column in range(1, len(room)):
        if block and room[0] + sum(2 + room[each] for each in (*block, column)) > WIDTH:
            yield block
            block = []
        block.append(column)
    yield block


def table_markdown(table: TextTable, *, conventions: bool = True) -> str:
    """One of GitHub's tables, aligned to be read as it is; its notes as a list below."""

    def cell_text(cell: str) -> str:
        escaped = cell.replace("|", "\\|")
        return f"**{escaped}**" if isinstance(cell, Bold) else escaped

    cells = [list(map(cell_text, row)) for row in table.rows]
    room = [max(3, *map(len, column)) for column in zip(table.headers, *cells, strict=True)]
    rule = ["-" * room[0], *("-" * (width - 1) + ":" for width in room[1:])]
    grid = [
        [row[0].ljust(room[0]), *(cell.rjust(width) for cell, width in zip(row[1:], room[1:], strict=True))]
        for row in (table.headers, rule, *cells)
    ]
    notes = [*table.notes, *(footnotes(table) if conventions else ())]
    lines = [f"| {' | '.join(row)} |" for row in grid]
    return "\n".join([f"**{table.title}**", "", *lines, "", *(f"- {note}" for note in notes)])


_LATEX = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        '"': r"\textquotedbl{}",
        "±": r"$\pm$",
        "√": r"$\surd$",
        "“": "``",
        "”": "''",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
    }
)


def table_latex(table: TextTable) -> str:
    """One booktabs `table` float, its notes in it. Names and notes are escaped."""

    def escape(text: str) -> str:
        escaped = text.translate(_LATEX)
        return rf"\textbf{{{escaped}}}" if isinstance(text, Bold) else escaped

    return "\n".join(
        [
            r"\begin{table}[t]",
            r"  \centering",
            rf"  \caption{{{escape(table.title)}}}",
            rf"  \label{{tab:{table.name}}}",
            rf"  \begin{{tabular}}{{l{'c' * (len(table.headers) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(map(escape, table.headers))} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(map(escape, row))} \\\\" for row in table.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par{{\footnotesize {escape(note)}\par}}" for note in (*table.notes, *footnotes(table))),
            r"\end{table}",
        ]
    )
