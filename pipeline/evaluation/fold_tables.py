"""What `cross_validate` found as tables: spread over folds and over seeds apart, and marks by either.

    summary, _ = cross_validate("stores/mine", folds=5, out="runs/folds")
    print("\\n\\n".join(map(table_markdown, fold_tables(summary))))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.evaluation.cells import BOUNDS, MARK, SPEECH_MARK, Column
from pipeline.evaluation.fold_statistics import CONVENTION, fold_tests
from pipeline.evaluation.significance import ALPHA, MIN_UNITS, MethodDifference, between, seed_tests
from pipeline.evaluation.table_formats import Listing, table_markdown
from pipeline.evaluation.tables import TABLES, Results, measured_cell

Entries = Mapping[str, Mapping[str, Any]]  # by method: one measure as `over_folds` gives it
_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


@dataclass(frozen=True)
class FoldCell:
    """One measure of one method over folds and seeds, and how it stands to the best.

    Without `fold_std` it is of all folds together (summed confusions); `seed_std` is None where there is one seed. The
    tests are of this method less the best one.
    """

    mean: float
    fold_std: float | None = None
    seed_std: float | None = None
    low: float | None = None  # the 95 % interval of the mean on other speech
    high: float | None = None
    best: bool = False
    seed_test: MethodDifference | None = None
    fold_test: MethodDifference | None = None
    worse: bool = False  # another training of the best is better on these folds
    worse_on_other_speech: bool = False

    def text(self, digits: int) -> str:
        """`0.552 ± 0.031 (0.007)` or what is there of it, and the marks."""
        folds = "" if self.fold_std is None else f" ± {self.fold_std:.{digits}f}"
        seeds = "" if self.seed_std is None else f" ({self.seed_std:.{digits}f})"
        marks = MARK * self.worse + SPEECH_MARK * self.worse_on_other_speech
        return f"{self.mean:.{digits}f}{folds}{seeds} {marks}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """In full precision; a test has the difference, its interval, p and Holm's p."""
        tests = {"seed_test": self.seed_test, "fold_test": self.fold_test}
        return vars(self) | {name: asdict(test) if test else None for name, test in tests.items()}


@dataclass(frozen=True)
class FoldTests:
    """Every pair of methods of a column, by seeds and by folds."""

    seeds: Sequence[MethodDifference] = ()
    folds: Sequence[MethodDifference] = ()


@dataclass(frozen=True)
class FoldTable:
    """One test of all methods: `rows[method][column.key]`, absent where it was not run; `BOUNDS` come last."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, FoldCell]]
    notes: tuple[str, ...]
    tests: Mapping[str, FoldTests] = field(default_factory=dict)  # by key of a column

    def headers(self) -> list[str]:
        """`method` and each measure with an arrow to its better side."""
        return ["method", *(f"{column.header}{_ARROWS[column.better]}" for column in self.columns)]

    def cells(self, bold: Callable[[str], str]) -> list[list[str]]:
        """Each row's texts, the method's name first, the best in `bold`."""

        def text(column: Column, cell: FoldCell | None) -> str:
            if cell is None:
                return "-"
            return bold(cell.text(column.digits)) if cell.best else cell.text(column.digits)

        return [
            [name, *(text(column, row.get(column.key)) for column in self.columns)] for name, row in self.rows.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """`{"title", "rows": {method: {measure: {...}}}, "tests": {measure: {"seeds", "folds"}}, "notes"}`."""
        return {
            "title": self.title,
            "rows": {name: {key: cell.as_json() for key, cell in row.items()} for name, row in self.rows.items()},
            "tests": {
                key: {"seeds": list(map(asdict, tests.seeds)), "folds": list(map(asdict, tests.folds))}
                for key, tests in self.tests.items()
            },
            "notes": list(self.notes),
        }


def _columns(test: str, key: str, header: str) -> tuple[Column, ...]:
    return tuple(
        replace(column, key=key.format(column.key), header=header.format(column.header)) for column in TABLES[test][1]
    )


_TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "ordinality": (
        f"{TABLES['ordinality'][0]}; asked by the grammar's prompts, then by rated words",
        (*TABLES["ordinality"][1], *_columns("word_norms", "word_norms_{}", "{}, rated words")),
    ),
    "alignment": TABLES["alignment"],
    "recognition": (
        f"{TABLES['recognition'][0]}: mean over folds, then of the folds' summed confusions",
        (*TABLES["recognition"][1], *_columns("recognition", "pooled_{}", "{}, pooled")),
    ),
}


def fold_tables(summary: Mapping[str, Any], *, alpha: float = ALPHA) -> list[FoldTable]:
    """The tables of what `cross_validate` returned: order, distances, recognition, and that of each other corpus.

    The best method of a column is bold. Every pair of methods is tested by seeds, where each has enough, and by folds,
    two-tailed and Holm-corrected over the column; † and ‡ mark what the best is better than at `alpha`. Rows of
    `BOUNDS` come last and take no part in this.
    """
    results = {**summary["methods"], **summary["references"]}
    tables = []
    for name, (title, columns) in _TABLES.items():
        entries = {method: _entries(name, result) for method, result in results.items()}
        tables.append(_table(name, title, columns, entries, summary, alpha))
    for number, corpus in enumerate(next(iter(results.values())).get("zero_shot", ())):
        title = f"{TABLES['recognition'][0]}, on another corpus: {corpus['stores']}"
        entries = {method: result["zero_shot"][number] for method, result in results.items() if "zero_shot" in result}
        tables.append(_table(f"recognition_{number + 1}", title, TABLES["recognition"][1], entries, summary, alpha))
    return [table for table in tables if table.rows]


def _entries(table: str, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The measures of one method by the keys of the table's columns."""
    entries = dict(result.get(table, {}))
    for test, more in (("word_norms", result.get("word_norms", {})), ("pooled", entries.get("pooled", {}))):
        entries |= {f"{test}_{key}": entry for key, entry in more.items()}
    return entries


def _table(
    name: str, title: str, columns: Sequence[Column], entries: Results, summary: Mapping[str, Any], alpha: float
) -> FoldTable:
    """Marked, with every convention in its notes; without rows where no method has one of the measures."""
    present = tuple(column for column in columns if any(column.key in entry for entry in entries.values()))
    rows: dict[str, dict[str, FoldCell]] = {}
    tests, untested, conventions = {}, {}, []
    for column in present:
        measured = {method: entry[column.key] for method, entry in entries.items() if column.key in entry}
        tests[column.key], reason = _tests(column, measured, summary["resampling_ratio"])
        if reason:
            untested.setdefault(reason, []).append(column.header)
        for method, cell in _cells(column, measured, tests[column.key], alpha).items():
            rows.setdefault(method, {})[column.key] = cell
        cells = {method: {column.key: measured_cell(entry)} for method, entry in measured.items()}
        conventions += column.conventions(cells)
    reasons = [f"{', '.join(headers)}: {reason}" for reason, headers in untested.items()]
    notes = (*conventions, *summary["notes"], *reasons, *_legend(rows, tests, alpha))
    return FoldTable(name, title, present, {method: rows[method] for method in entries if method in rows}, notes, tests)


def _tests(column: Column, entries: Entries, ratio: float) -> tuple[FoldTests, str]:
    """Every pair of methods of a column by seeds and by folds, and why there is none by seeds."""
    methods = {method: entry for method, entry in entries.items() if method not in BOUNDS}
    if column.better is None or len(methods) < 2:
        return FoldTests(), ""
    seeds = {method: entry["seed_values"] for method, entry in methods.items()}
    by_fold = {method: entry["fold_values"] for method, entry in methods.items() if "low" in entry}
    folds = fold_tests(by_fold, ratio=ratio)
    if min(map(len, seeds.values())) < MIN_UNITS:
        return FoldTests((), folds), f"not tested by seeds, of which a method needs {MIN_UNITS}"
    return FoldTests(seed_tests(seeds), folds), ""


def _cells(column: Column, entries: Entries, tests: FoldTests, alpha: float) -> dict[str, FoldCell]:
    """The cells of one column by method, the best marked, and those that it is better than at `alpha`."""
    cells = {
        method: FoldCell(
            entry["mean"], entry.get("fold_std"), entry.get("seed_std") if len(entry["seed_values"]) > 1 else None,
            entry.get("low"), entry.get("high"),
        )
        for method, entry in entries.items()
    }  # fmt: skip
    methods = [method for method in cells if method not in BOUNDS]
    if column.better is None or not methods:
        return cells
    best = (max if column.better == "higher" else min)(methods, key=lambda method: cells[method].mean)
    for method in methods:
        cell, seeds, folds = cells[method], between(tests.seeds, method, best), between(tests.folds, method, best)
        is_best = cell.mean == cells[best].mean
        worse = not is_best and seeds is not None and seeds.corrected < alpha
        # on other speech *too*; without a test by seeds, that part has nothing to say
        elsewhere = not is_best and folds is not None and folds.corrected < alpha and (worse or seeds is None)
        cells[method] = replace(
            cell, best=is_best, seed_test=seeds, fold_test=folds, worse=worse, worse_on_other_speech=elsewhere
        )
    return cells


def _legend(rows: Mapping[str, Mapping[str, FoldCell]], tests: Mapping[str, FoldTests], alpha: float) -> list[str]:
    """What bold, † and ‡ mean."""
    corrected = f"p < {alpha:g} two-tailed, Holm-corrected over all pairs of methods of the column"
    notes = ["bold: best mean of the methods"]
    if any(column.seeds for column in tests.values()):
        notes.append(f"{MARK}: the best is better on these folds, another training of it too; {corrected}, Welch's t over seeds")
    if any(column.folds for column in tests.values()):
        notes.append(f"{SPEECH_MARK}: the best is better on other speech too; {corrected}, paired by fold; {CONVENTION}")
    bounds = [name for name in BOUNDS if name in rows]
    if bounds:
        notes.append(f"{', '.join(bounds)}: what the figures can be judged by; not methods, and not tested")
    return notes


@dataclass(frozen=True)
class _Grid:
    """A table of texts."""

    name: str
    title: str
    head: list[str]
    body: list[list[str]]
    notes: tuple[str, ...] = ()

    def headers(self) -> list[str]:
        return self.head

    def cells(self, bold: Callable[[str], str]) -> list[list[str]]:
        return self.body


def folds_markdown(summary: Mapping[str, Any], tables: Sequence[FoldTable]) -> str:
    """The tables of methods; then for each method its folds, and its confusions where it has recognition."""
    grids: list[Listing] = [*tables]
    for method, result in summary["methods"].items():
        grids.append(_fold_by_fold(method, result["folds"], summary))
        if recognised := result.get("recognition"):
            classes, confusion = recognised["classes"], recognised["confusion"]
            title = f"{method}, confusions summed over folds and seeds (a row is the truth, a column the nearest prompt)"
            body = [[name, *map(str, row)] for name, row in zip(classes, confusion, strict=True)]
            grids.append(_Grid("confusion", title, ["", *classes], body))
    return "\n\n".join(map(table_markdown, grids))


def _fold_by_fold(method: str, folds: Mapping[str, Any], summary: Mapping[str, Any]) -> _Grid:
    """Each fold's own measures of one method, mean ± std over seeds."""
    first = next(iter(folds.values()))
    columns = [
        (test, column)
        for test, (_, of_test) in TABLES.items()
        for column in of_test
        if column.key in first.get(test, {})
    ]
    head = ["tested", "n"]
    for test, column in columns:
        head.append(f"{column.header}, rated words" if test == "word_norms" else column.header)
    head += ["recognised", "always the most frequent, WAR"] if "recognition" in first else []
    body = []
    for fold, result in folds.items():
        about = summary["folds"][fold]
        name = f"{fold}: {', '.join(about['speakers'])}" if summary["scheme"] == "speaker" else fold
        cells = [
            f"{result[test][column.key]['mean']:.{column.digits}f} ± {result[test][column.key]['std']:.{column.digits}f}"
            for test, column in columns
        ]
        if recognised := result.get("recognition"):
            cells += [str(recognised["n"]), f"{recognised['majority']:.3f}"]
        body.append([name, str(about["test"]), *cells])
    return _Grid("folds", f"{method}, fold by fold (mean ± std over seeds)", head, body)
