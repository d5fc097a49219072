"""Tables in plain text, as Markdown and as LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol


class Listing(Protocol):
    """Anything with rows of texts: as much of a `Table` as Markdown, LaTeX and HTML need.

    `notes` stand below it; `conventions` are the footnotes [1], [2] ... that cells and notes refer to.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def conventions(self) -> Sequence[str]: ...
    def headers(self) -> list[str]: ...
    def cells(self, bold: Callable[[str], str]) -> list[list[str]]: ...


WIDTH = 120  # characters of a line in a terminal


def footnotes(table: Listing) -> list[str]:
    """The conventions, each with the number that notes and cells refer to it by."""
    return [f"[{number}] {text}" for number, text in enumerate(table.conventions, 1)]


def table_text(table: Listing, *, conventions: bool = False) -> str:
    """Aligned columns for a terminal, the notes below; a table of more columns than fit goes on below itself."""
    grid = [table.headers(), *table.cells(str)]
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


def table_markdown(table: Listing, *, conventions: bool = True) -> str:
    """One of GitHub's tables, aligned to be read as it is; its notes as a list below."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in table.cells(lambda text: f"**{text}**")]
    room = [max(3, *map(len, column)) for column in zip(table.headers(), *cells, strict=True)]
    rule = ["-" * room[0], *("-" * (width - 1) + ":" for width in room[1:])]
    grid = [
        [row[0].ljust(room[0]), *(cell.rjust(width) for cell, width in zip(row[1:], room[1:], strict=True))]
        for row in (table.headers(), rule, *cells)
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


class _Escaped(str):
    """LaTeX already."""


def table_latex(table: Listing) -> str:
    """One booktabs `table` float, its notes in it. Names and notes are escaped."""

    def escape(text: str) -> str:
        return text if isinstance(text, _Escaped) else text.translate(_LATEX)

    rows = table.cells(lambda text: _Escaped(rf"\textbf{{{escape(text)}}}"))
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"  \centering",
            rf"  \caption{{{escape(table.title)}}}",
            rf"  \label{{tab:{table.name}}}",
            rf"  \begin{{tabular}}{{l{'c' * (len(table.headers()) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(map(escape, table.headers()))} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(map(escape, row))} \\\\" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par{{\footnotesize {escape(note)}\par}}" for note in (*table.notes, *footnotes(table))),
            r"\end{table}",
        ]
    )
