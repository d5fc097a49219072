"""What `cross_validate` found as tables: std over folds and over seeds apart, and marks by either.

summary, _ = cross_validate("stores/mine", folds=5, out="runs/folds")
print("\\n\\n".join(table_markdown(table.texts()) for table in fold_tables(summary)))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.evaluation.cells import Cell, ColumnTests, FoldSpread, Table
from pipeline.evaluation.comparison import Cells, mark_notes, mark_table
from pipeline.evaluation.measures import TABLES, Column
from pipeline.evaluation.significance import ALPHA, FOLD_CONVENTION, MIN_UNITS, fold_tests, seed_tests
from pipeline.evaluation.tables import MethodEntries, Results, bound_meanings, entries_of_corpora, measure_notes


def _columns(test: str, key: str, header: str) -> tuple[Column, ...]:
    return tuple(
        replace(column, key=key.format(column.key), header=header.format(column.header)) for column in TABLES[test][1]
    )


_TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "ordinality": (
        f"{TABLES['ordinality'][0]}; asked by the grammar's prompts, then by rated words",
        (*TABLES["ordinality"][1], *_columns("word_norms", "word_norms_{}", "{}, rated words")),
    ),
    "dominance": TABLES["dominance"],
    "alignment": TABLES["alignment"],
    "recognition": (
        f"{TABLES['recognition'][0]}: mean over folds, then of the folds' summed confusions",
        (*TABLES["recognition"][1], *_columns("recognition", "pooled_{}", "{}, pooled")),
    ),
}


def fold_tables(summary: Mapping[str, Any], *, alpha: float = ALPHA) -> list[Table]:
    """The tables of what `cross_validate` returned: order, distances, recognition, and that of each other corpus.

    The best method of a column is bold. Every pair of methods is tested by seeds, where each has enough, and by folds,
    two-tailed and Holm-corrected over the column; † and ‡ mark what the best is better than at `alpha`. Rows of
    `BOUNDS` come last and take no part in this.
    """
    results = {**summary["methods"], **summary["references"]}
    return [_table(test, summary, alpha) for test in _tests(results) if test.present()]


def _tests(results: Results) -> Iterator[MethodEntries]:
    for name, (title, columns) in _TABLES.items():
        yield MethodEntries(name, title, columns, {method: _entries(name, of) for method, of in results.items()})
    title, columns = TABLES["recognition"]
    for number, entries in enumerate(entries_of_corpora(results), 1):
        corpus = next(iter(entries.values()))["stores"]
        yield MethodEntries(f"recognition_{number}", f"{title}, on another corpus: {corpus}", columns, entries)


def _entries(table: str, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The measures of one method by the keys of the table's columns."""
    entries = dict(result.get(table, {}))
    for test, more in (("word_norms", result.get("word_norms", {})), ("pooled", entries.get("pooled", {}))):
        entries |= {f"{test}_{key}": entry for key, entry in more.items()}
    return entries


def _table(test: MethodEntries, summary: Mapping[str, Any], alpha: float) -> Table:
    """Marked, with every convention in its notes."""
    present, rows = test.present(), {method: row for method, row in test.rows(_cell).items() if row}
    test_methods = partial(_tests_of, ratio=summary["resampling_ratio"])
    marked, untested = mark_table(Table(test.name, test.title, present, rows, ()), test_methods, alpha=alpha)
    legends, conventions = measure_notes(present, rows)
    notes = [
        *legends,
        *_spread_notes(test.name, summary),
        *(f"{', '.join(headers)}: {reason}" for reason, headers in untested.items()),
        *mark_notes(marked, "on these folds", f"paired by fold, {FOLD_CONVENTION}", alpha=alpha),
        *bound_meanings(test.name, rows, "one seed's mean over folds"),
    ]
    tests = {column.key: marked.tests.get(column.key, {"seeds": (), "folds": ()}) for column in present}
    return replace(marked, notes=tuple(notes), tests=tests, conventions=conventions)


def _cell(result: Mapping[str, Any], key: str) -> Cell:
    """Of what `over_folds` returned, or of a figure of all folds together."""
    entry = result[key]
    interval = (entry["low"], entry["high"]) if "low" in entry else None
    return Cell(
        entry["mean"],
        entry["seed_std"] if len(entry["seed_values"]) > 1 else None,
        entry["seed_values"],
        folds=FoldSpread(entry.get("fold_std"), entry.get("fold_values", ()), interval),
        convention=entry["convention"],
    )


def _tests_of(cells: Cells, *, ratio: float) -> tuple[ColumnTests, list[str]]:
    """Every pair of methods of a column by folds and, where all have enough of them, by seeds; else the reason."""
    values = {of: cell.folds.values for of, cell in cells.items() if cell.folds and cell.folds.interval}
    by_fold = fold_tests(values, ratio=ratio)
    seeds = {of: cell.seed_values for of, cell in cells.items()}
    few = [f"{len(of_seeds)} of {of}" for of, of_seeds in seeds.items() if len(of_seeds) < MIN_UNITS]
    if few:
        return {"seeds": (), "folds": by_fold}, [f"not tested over seeds below {MIN_UNITS} ({', '.join(few)})"]
    return {"seeds": seed_tests(seeds), "folds": by_fold}, []


def _spread_notes(name: str, summary: Mapping[str, Any]) -> list[str]:
    """What the figures are of, and what those behind ± and in brackets are over."""
    folds, first = summary["folds"], next(iter(summary["methods"].values()))
    count, seeds = summary["utterances"], len(first["seeds"])
    if name.startswith("recognition_"):
        tested, (_, _, number) = "the heads of every fold are asked about all of it", name.partition("_")
        count = first["zero_shot"][int(number) - 1]["n"]
    else:
        tested = "each is tested once"
    recognised = first["recognition"] if name == "recognition" else None
    if recognised:
        lost = {"without an emotion": recognised["left_out"]}
        lost["not done"] = count - recognised["n"] - recognised["left_out"]
        left_out = ", ".join(f"{number} {why}" for why, number in lost.items() if number)
        count = recognised["n"]
        tested += f"; left out: {left_out}" if left_out else ""
    std = f"mean ± std over {len(folds)} folds of each fold's mean over seeds"
    std += f" (std over {seeds} seeds of each seed's mean over folds)" if seeds > 1 else "; one seed"
    notes = [f"n = {count} utterances, {tested}", std]
    if recognised:
        majority, chance = recognised["majority"], recognised["chance"]
        notes.append(f"always the most frequent class: WAR {majority:.3f} of all folds, UAR {chance:.3f}")
    else:
        notes.append(f"numbers of utterances in a convention are those of {next(iter(folds))}")
    return notes
