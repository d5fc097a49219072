"""A comparison of methods as Markdown, LaTeX (booktabs), CSV or JSON. Built by `comparison.comparison_tables`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.evaluation.ordinality import NULL_STD, null_standard_error
from pipeline.evaluation.significance import Better, PairedTest

MARK = "†"
_ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓"}
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
    }
)


@dataclass(frozen=True)
class Column:
    """One measure: its key in a result, its header, which direction is better, and the decimals shown."""

    key: str
    header: str
    better: Better
    digits: int


@dataclass(frozen=True)
class Cell:
    """mean ± std of one method, whether it is the column's best, and the test of it against the best."""

    mean: float
    std: float | None = None
    seed_std: float | None = None
    best: bool = False
    test: PairedTest | None = None
    worse: bool = False  # significantly worse than the best


@dataclass(frozen=True)
class Table:
    """One test of all methods: `rows[method][column.key]`, absent where it was not run. `name` is the test's."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    notes: tuple[str, ...]

    def headers(self) -> list[str]:
        """`method` and each measure with an arrow to its better side."""
        return ["method", *(f"{column.header} {_ARROWS[column.better]}" for column in self.columns)]

    def cells(self, bold: Callable[[str], str]) -> list[list[str]]:
        """Each row's texts, the method's name first: `0.552 ± 0.120`, the best in `bold`, † where it is worse."""
        return [[name, *(_shown(row.get(c.key), c, bold) for c in self.columns)] for name, row in self.rows.items()]


class Listing(Protocol):
    """Anything with rows of texts: as much of a `Table` as Markdown and LaTeX need."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...
    def headers(self) -> list[str]: ...
    def cells(self, bold: Callable[[str], str]) -> list[list[str]]: ...


@dataclass(frozen=True)
class Comparison:
    """Tables of several methods, with every convention in their notes."""

    tables: tuple[Table, ...]

    def markdown(self) -> str:
        """GitHub's tables, the notes as a list below each."""
        return "\n\n".join(table_markdown(table) for table in self.tables) + "\n"

    def latex(self) -> str:
        """A `table` float for each; needs `\\usepackage{booktabs}`. Names and notes are escaped."""
        return "\n\n".join(table_latex(table) for table in self.tables) + "\n"

    def csv(self) -> str:
        """One line per table, method and measure, in full precision, with the test against the best."""
        file = io.StringIO()
        fields = ["table", "method", "measure", "mean", "std", "seed_std", "best", "worse", *_TESTED]
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {"table": table.name, "method": method, "measure": key, **_flat(cell)}
            for table in self.tables
            for method, row in table.rows.items()
            for key, cell in row.items()
        )
        return file.getvalue()

    def as_json(self) -> dict[str, Any]:
        """`{table: {"title", "rows": {method: {measure: {...}}}, "notes"}}`, for `json.dumps`."""
        return {
            table.name: {
                "title": table.title,
                "rows": {method: {key: _flat(cell) for key, cell in row.items()} for method, row in table.rows.items()},
                "notes": list(table.notes),
            }
            for table in self.tables
        }


_TESTED = ("against", "difference", "p", "p_corrected", "pairs")


def _flat(cell: Cell) -> dict[str, Any]:
    test = cell.test
    found = (test.baseline, test.difference, test.p, test.corrected, test.n) if test else (None,) * len(_TESTED)
    plain = {name: getattr(cell, name) for name in ("mean", "std", "seed_std", "best", "worse")}
    return {**plain, **dict(zip(_TESTED, found, strict=True))}


def _shown(cell: Cell | None, column: Column, bold: Callable[[str], str]) -> str:
    if cell is None:
        return "-"
    text = f"{cell.mean:.{column.digits}f}" + (f" ± {cell.std:.{column.digits}f}" if cell.std is not None else "")
    return (bold(text) if cell.best else text) + (f" {MARK}" if cell.worse else "")


def table_markdown(table: Listing) -> str:
    """One of GitHub's tables, its notes as a list below."""
    lines = [table.headers(), ["---", *("---:" for _ in table.headers()[1:])]]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in table.cells(lambda text: f"**{text}**")]
    grid = [f"| {' | '.join(cells)} |" for cells in [*lines, *escaped]]
    return "\n".join([f"**{table.title}**", "", *grid, "", *(f"- {note}" for note in table.notes)])


def table_latex(table: Listing) -> str:
    """One `table` float, its notes in it."""
    # a cell's text is escaped as a whole, so bold is put in as marks that escaping leaves alone
    cells = [
        [text.translate(_LATEX).replace("\x02", r"\textbf{").replace("\x03", "}") for text in row]
        for row in table.cells(lambda text: f"\x02{text}\x03")
    ]
    header = [text.translate(_LATEX) for text in table.headers()]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"  \centering",
            rf"  \caption{{{table.title.translate(_LATEX)}}}",
            rf"  \label{{tab:{table.name}}}",
            rf"  \begin{{tabular}}{{l{'c' * (len(table.headers()) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(header)} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(row)} \\\\" for row in cells),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par{{\footnotesize {note.translate(_LATEX)}\par}}" for note in table.notes),
            r"\end{table}",
        ]
    )


TESTS = {
    "ordinality": ("Ordinality (Kendall's tau, higher is better)", {"aoc": "AOC", "voc": "VOC"}),
    "alignment": (
        "Alignment (distance of speech and text, lower is better)",
        {"mmd": "MMD", "wasserstein": "Wasserstein", "sliced_wasserstein": "sliced Wasserstein"},
    ),
}
_DIGITS = {"ordinality": 3, "alignment": 4}
_NAME = "evaluation"


def evaluation_table(result: Mapping[str, Any]) -> str:
    """The tables of one evaluation (`{"ordinality": ..., "alignment": ...}`) or of several by name (seeds, methods).

    A cell is mean ± std (over lists or trials). A convention shared by all rows is given once, without a name.
    """
    rows = {_NAME: result} if TESTS.keys() & result.keys() else result
    return "\n\n".join(_test(test, rows) for test in TESTS if any(test in row for row in rows.values()))


def _test(test: str, rows: Mapping[str, Any]) -> str:
    title, columns = TESTS[test]
    present = {name: row[test] for name, row in rows.items() if test in row}
    lines = [["", *columns.values()]]
    lines += [[name, *(_cell(row.get(key), _DIGITS[test]) for key in columns)] for name, row in present.items()]
    if test == "ordinality":
        lines.append(["chance", *(_chance(present, key) for key in columns)])
    notes = [note for key, header in columns.items() for note in _notes(header, key, present)]
    if test == "ordinality":
        notes.append(
            f"chance: mean of lists in random order ± its standard error {NULL_STD:.4f} / sqrt(lists) (no std over "
            "lists), were lists independent; they share their utterances, so the true spread is larger"
        )
    return "\n".join([title, *_aligned(lines), *notes])


def _cell(entry: Mapping[str, Any] | None, digits: int) -> str:
    return f"{entry['mean']:.{digits}f} ± {entry['std']:.{digits}f}" if entry else "-"


def _chance(rows: Mapping[str, Any], key: str) -> str:
    lists = {len(row[key]["taus"]) for row in rows.values() if key in row}
    return f"{0:.3f} ± {null_standard_error(min(lists)):.3f}" if lists else "-"


def _notes(header: str, key: str, rows: Mapping[str, Any]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, row in rows.items():
        if key in row:
            names.setdefault(row[key]["convention"], []).append(name)
    if len(names) == 1:
        return [f"{header}: {convention}" for convention in names]
    return [f"{header} ({', '.join(of)}): {convention}" for convention, of in names.items()]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in lines
    ]
