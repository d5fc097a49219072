"""Tables in plain text, as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Listing(Protocol):
    """Anything with rows of texts: as much of a `Table` as Markdown, LaTeX and HTML need."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...
    def headers(self) -> list[str]: ...
    def cells(self, bold: Callable[[str], str]) -> list[list[str]]: ...


def table_text(table: Listing) -> str:
    """Aligned columns for a terminal, one note a line below."""
    grid = [table.headers(), *table.cells(str)]
    room = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        [row[0].ljust(room[0]), *(cell.rjust(n) for cell, n in zip(row[1:], room[1:], strict=True))] for row in grid
    ]
    return "\n".join([table.title, *map("  ".join, lines), *table.notes])


def table_markdown(table: Listing) -> str:
    """One of GitHub's tables, its notes as a list below."""
    lines = [table.headers(), ["---", *("---:" for _ in table.headers()[1:])]]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in table.cells(lambda text: f"**{text}**")]
    grid = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([f"**{table.title}**", "", *grid, "", *(f"- {note}" for note in table.notes)])


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
            *(rf"  \par{{\footnotesize {escape(note)}\par}}" for note in table.notes),
            r"\end{table}",
        ]
    )
