"""Results as tables: the figures of `evaluate` by name, and every table as Markdown, LaTeX, CSV, JSON or plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipeline.core.files import csv_text
from pipeline.evaluation.ordinality import NULL_STD, null_standard_error
from pipeline.evaluation.significance import Better, PairedTest

Results = Mapping[str, Mapping[str, Any]]  # by name of a method or seed: what `evaluate` returns
MARK = "†"
_ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Column:
    """One measure: its key in a result, its header, which direction is better, its decimals, and its name in full."""

    key: str
    header: str
    better: Better
    digits: int
    full_name: str = ""

    def conventions(self, tests: Results) -> list[str]:
        """A note a convention that the measure was taken with; with the names of rows where these differ."""
        names: dict[str, list[str]] = {}
        for name, test in tests.items():
            if self.key in test:
                names.setdefault(measure(test, self.key)["convention"] or "convention not given", []).append(name)
        legend = f"{self.header} ({self.full_name})" if self.full_name else self.header
        if len(names) == 1:
            return [f"{legend}: {convention}" for convention in names]
        return [f"{legend} of {', '.join(of)}: {convention}" for convention, of in names.items()]


TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "alignment": (
        "Alignment (Table 1 of the paper): distance of speech and text, lower is better",
        (
            Column("mmd", "MMD", "lower", 4, "maximum mean discrepancy"),
            Column("wasserstein", "Wasserstein", "lower", 4),
            Column("sliced_wasserstein", "sliced Wasserstein", "lower", 4),
        ),
    ),
    "ordinality": (
        "Ordinality (Table 2 of the paper): Kendall's tau, higher is better",
        (
            Column("aoc", "AOC", "higher", 3, "arousal ordinal consistency"),
            Column("voc", "VOC", "higher", 3, "valence ordinal consistency"),
        ),
    ),
    "recognition": (
        "Zero-shot recognition, higher is better",
        (
            Column("war", "WAR", "higher", 3, "weighted average recall"),
            Column("uar", "UAR", "higher", 3, "unweighted average recall"),
        ),
    ),
}


@dataclass(frozen=True)
class Cell:
    """mean ± std of one method, whether it is the column's best, and the test of it against the best."""

    mean: float
    std: float | None = None
    seed_std: float | None = None
    best: bool = False
    test: PairedTest | None = None
    worse: bool = False  # significantly worse than the best

    def as_json(self) -> dict[str, Any]:
        """The cell in full precision, with the test against the best (None where there is none)."""
        test = self.test
        return {
            "mean": self.mean,
            "std": self.std,
            "seed_std": self.seed_std,
            "best": self.best,
            "worse": self.worse,
            "against": test.baseline if test else None,
            "difference": test.difference if test else None,
            "p": test.p if test else None,
            "p_corrected": test.corrected if test else None,
            "pairs": test.n if test else None,
        }


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

        def text(column: Column, cell: Cell | None) -> str:
            if cell is None:
                return "-"
            std = f" ± {cell.std:.{column.digits}f}" if cell.std is not None else ""
            figure = f"{cell.mean:.{column.digits}f}{std}"
            return bold(figure) if cell.best else f"{figure} {MARK}" if cell.worse else figure

        return [
            [name, *(text(column, row.get(column.key)) for column in self.columns)] for name, row in self.rows.items()
        ]


def measure(test: Mapping[str, Any], key: str) -> dict[str, Any]:
    """`{"mean", "std", "convention", ...}` of one measure of a test; a single number (recognition's) has no std."""
    found = test[key]
    entry = found if isinstance(found, Mapping) else {"mean": float(found)}
    return {"convention": test.get("convention", ""), **entry}


def measured_tables(results: Results) -> list[Table]:
    """A table for each test in `results`: rows by name, no row marked; notes give every convention."""
    tables = []
    for test, (title, columns) in TABLES.items():
        ran = {name: result[test] for name, result in results.items() if test in result}
        if not ran:
            continue
        present = tuple(column for column in columns if any(column.key in entry for entry in ran.values()))
        rows: dict[str, dict[str, Cell]] = {name: {} for name in ran}
        for name, entry in ran.items():
            for key in (column.key for column in present if column.key in entry):
                found = measure(entry, key)
                rows[name][key] = Cell(found["mean"], found.get("std"), found.get("seed_std"))
        notes = [note for column in present for note in column.conventions(ran)]
        tables.append(Table(test, title, present, rows, tuple(notes)))
    return tables


def evaluation_tables(results: Results) -> list[Table]:
    """`measured_tables`, with a row for chance in that of ordinality."""
    return [_with_chance(table, results) if table.name == "ordinality" else table for table in measured_tables(results)]


def _with_chance(table: Table, results: Results) -> Table:
    chance = {}
    for key in (column.key for column in table.columns):
        entries = [results[name]["ordinality"][key] for name, row in table.rows.items() if key in row]
        lists = [len(entry["taus"]) for entry in entries if "taus" in entry]
        chance[key] = Cell(0.0, null_standard_error(min(lists)) if lists else None)
    note = (
        f"chance: mean of lists in random order ± its standard error {NULL_STD:.4f} / sqrt(lists) (no std over lists), "
        "were lists independent; they share their utterances, so the true standard error is larger"
    )
    return replace(table, rows={**table.rows, "chance": chance}, notes=(*table.notes, note))


def evaluation_table(result: Mapping[str, Any]) -> str:
    """Plain text of one evaluation (`{"ordinality": ..., "alignment": ...}`) or of several by name (seeds, methods).

    A cell is mean ± std (over lists or trials).
    """
    results = {"evaluation": result} if TABLES.keys() & result.keys() else result
    return "\n\n".join(map(table_text, evaluation_tables(results)))


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


@dataclass(frozen=True)
class Comparison:
    """Tables of several methods, with every convention in their notes."""

    tables: tuple[Table, ...]

    def markdown(self) -> str:
        """GitHub's tables, the notes as a list below each."""
        return "\n\n".join(map(table_markdown, self.tables)) + "\n"

    def latex(self) -> str:
        """A `table` float for each; needs `\\usepackage{booktabs}`."""
        return "\n\n".join(map(table_latex, self.tables)) + "\n"

    def csv(self) -> str:
        """One line per table, method and measure, in full precision, with the test against the best."""
        found = [
            [table.name, method, key, *cell.as_json().values()]
            for table in self.tables
            for method, row in table.rows.items()
            for key, cell in row.items()
        ]
        return csv_text(["table", "method", "measure", *Cell(0.0).as_json()], found)

    def as_json(self) -> dict[str, Any]:
        """`{table: {"title", "rows": {method: {measure: {...}}}, "notes"}}`, for `json.dumps`."""
        found = {}
        for table in self.tables:
            rows = {method: {key: cell.as_json() for key, cell in row.items()} for method, row in table.rows.items()}
            found[table.name] = {"title": table.title, "rows": rows, "notes": list(table.notes)}
        return found
