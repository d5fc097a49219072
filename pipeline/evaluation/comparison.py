"""Methods side by side: Table 1 (alignment, F12) and Table 2 (ordinality, F13) of the paper, and recognition (F29).

print(comparison_tables({"emotionrankclap": evaluate(a), "clap_sce": evaluate(b)}).markdown())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.core.errors import UsageError
from pipeline.evaluation.ordinality import NULL_STD
from pipeline.evaluation.significance import CAUTION, PairedTest, Test, paired_tests
from pipeline.evaluation.tables import MARK, TABLES, Cell, Column, Comparison, Results, Table, measure, measured_tables

_TEST_NAMES: dict[Test, str] = {"wilcoxon": "Wilcoxon signed-rank test", "t": "Student's t test"}


def comparison_tables(results: Results, *, test: Test = "wilcoxon", alpha: float = 0.05) -> Comparison:
    """The tables of `results[method]`, each what `evaluate` returns; a test that no method ran has no table.

    Cells are mean ± std over the lists or trials of all seeds. The best of a column is bold; † marks a method that the
    best is better than at `alpha` by paired `test`s, Holm-corrected over the column. A column whose conventions, seeds
    or numbers of values differ between methods is not tested, and a note says why.

    Raises UsageError without a method or a test, or when methods were evaluated on different splits.
    """
    for setting in ("split", "utterances"):
        found = {method: result[setting] for method, result in results.items() if setting in result}
        if len(set(found.values())) > 1:
            raise UsageError(
                "comparison",
                f"{setting} {', '.join(f'{value} of {method}' for method, value in found.items())}",
                "the same for every method",
                "Evaluate all methods on one split of one corpus.",
            )
    tables = tuple(_compared(table, results, test, alpha) for table in measured_tables(results))
    if not tables:
        found_none = f"{len(results)} methods without a result"
        raise UsageError("comparison", found_none, ", ".join(TABLES), "Run evaluate-heads.")
    return Comparison(tables)


def _compared(table: Table, results: Results, test: Test, alpha: float) -> Table:
    """`table` with its best cells marked, those that are significantly worse, and notes that say by which test."""
    rows = {method: dict(row) for method, row in table.rows.items()}
    notes = list(table.notes)
    for column in table.columns:
        measured = {method: row[column.key] for method, row in rows.items() if column.key in row}
        entries = {method: measure(results[method][table.name], column.key) for method in measured}
        reason = _why_untested(entries, [tuple(results[method].get("seeds", ())) for method in measured])
        if reason:
            notes.append(f"{column.header}: not tested, {reason}")
        tested: dict[str, PairedTest] = {}
        if len(measured) > 1 and not reason:
            values = {method: _values(entry) for method, entry in entries.items()}
            tested = {each.method: each for each in paired_tests(values, test=test, better=column.better)}
        for method, cell in _marked(measured, column, tested, alpha).items():
            rows[method][column.key] = cell
    notes.append("bold: best mean")
    if any(cell.test for row in rows.values() for cell in row.values()):
        notes.append(
            f"{MARK}: the best is better, p < {alpha:g}, two-tailed {_TEST_NAMES[test]} over pairs of the same list or "
            f"trial and seed, Holm-corrected over the column; {CAUTION}"
        )
    if table.name == "ordinality":
        notes.append(f"chance: 0, a list's std {NULL_STD:.4f}")
    return replace(table, rows=rows, notes=tuple(notes))


def _marked(
    cells: Mapping[str, Cell], column: Column, tests: Mapping[str, PairedTest], alpha: float
) -> dict[str, Cell]:
    """The cells of one column by method, the best marked, and those that it is better than at `alpha`."""
    best = (max if column.better == "higher" else min)(cell.mean for cell in cells.values())
    marked = {}
    for method, cell in cells.items():
        test, is_best = tests.get(method), cell.mean == best
        worse = test is not None and not is_best and test.corrected < alpha
        marked[method] = replace(cell, best=is_best, test=test, worse=worse)
    return marked


def _values(entry: Mapping[str, Any]) -> Sequence[float]:
    """One value a list or trial, seed after seed."""
    found: Sequence[float] = entry.get("taus", entry.get("values", ()))
    return found


def _why_untested(entries: Mapping[str, Mapping[str, Any]], seeds: Sequence[tuple[str, ...]]) -> str:
    """Why methods cannot be paired by list or trial; "" where they can be, or where there is one method only."""
    counts = {len(_values(entry)) for entry in entries.values()}
    if len(entries) < 2:
        return ""
    if len({entry["convention"] for entry in entries.values()}) > 1:
        return "the conventions differ"
    if len(set(seeds)) > 1:
        return "the seeds differ"
    if len(counts) > 1:
        return "the numbers of values differ"
    if counts == {0}:
        return "it has no lists or trials to pair; the std is over seeds"
    return "fewer than two values a method" if counts == {1} else ""


PAPER_NOTE = (
    "the paper's own figures, for reference: MSP-Podcast 1.12, WavLM-large and DistilRoBERTa encoders, captions by "
    "OpenAI o1; kernel width, estimator and solver not stated. Other data, encoders or conventions give other numbers: "
    "not to be compared with the tables above"
)
PaperFigures = dict[str, dict[str, tuple[float, float]]]  # method: measure: (mean, std)
PAPER_TABLE_1: PaperFigures = {
    "CLAP-SCE (A-V)": {"mmd": (0.096, 0.002), "wasserstein": (0.180, 0.003)},
    "SupConCLAP (A-V)": {"mmd": (0.4436, 0.003), "wasserstein": (0.4172, 0.003)},
    "EmotionRankCLAP": {"mmd": (0.087, 0.001), "wasserstein": (0.065, 0.007)},
}
PAPER_TABLE_2: PaperFigures = {
    "CLAP-template": {"aoc": (0.171, 0.26), "voc": (0.466, 0.14)},
    "CLAP4Emo": {"aoc": (0.284, 0.20), "voc": (0.533, 0.14)},
    "ParaCLAP": {"aoc": (0.283, 0.20), "voc": (0.217, 0.20)},
    "CLAP-SCE (A-V)": {"aoc": (0.492, 0.15), "voc": (0.505, 0.13)},
    "SupConCLAP (A-V)": {"aoc": (0.346, 0.19), "voc": (0.530, 0.15)},
    "EmotionRankCLAP": {"aoc": (0.552, 0.12), "voc": (0.616, 0.13)},
}


def paper_tables() -> Comparison:
    """Tables 1 and 2 as the paper prints them (mean ± std over 30 trials, over 100 lists), labelled as the paper's."""
    tables = []
    for name, figures in (("alignment", PAPER_TABLE_1), ("ordinality", PAPER_TABLE_2)):
        title, columns = TABLES[name]
        present = tuple(column for column in columns if all(column.key in row for row in figures.values()))
        rows: dict[str, dict[str, Cell]] = {method: {} for method in figures}
        for column in present:
            cells = {method: Cell(*figures[method][column.key]) for method in figures}
            for method, cell in _marked(cells, column, {}, 0.0).items():
                rows[method][column.key] = cell
        tables.append(Table(f"paper_{name}", f"The paper's figures, not ours. {title}", present, rows, (PAPER_NOTE,)))
    return Comparison(tuple(tables))
