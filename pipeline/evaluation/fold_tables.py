"""What `cross_validate` found as tables: std over folds and over seeds apart, and marks by either.

summary, _ = cross_validate("stores/mine", folds=5, out="runs/folds")
print("\\n\\n".join(map(table_markdown, fold_tables(summary))))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.evaluation.cells import (
    BOUNDS,
    MARK,
    SPEECH_MARK,
    Cell,
    Column,
    MethodTable,
    difference_fields,
    range_text,
)
from pipeline.evaluation.fold_statistics import CONVENTION, fold_tests
from pipeline.evaluation.significance import ALPHA, MIN_UNITS, MethodDifference, between, mean_interval, seed_tests
from pipeline.evaluation.tables import TABLES, Results, bound_meanings, chance_range, measure_notes, measured_cell

Entries = Mapping[str, Mapping[str, Any]]  # by method: one measure as `over_folds` gives it


@dataclass(frozen=True)
class FoldCell:
    """One measure of one method over folds and seeds, and how it stands to the best.

    Without `fold_std` it is of all folds together (summed confusions); `seed_std` is None where there is one seed.
    `chance_range`, of chance alone, holds 95 % of what this figure would be. The tests are of this method less the best
    one.
    """

    mean: float
    fold_std: float | None = None
    seed_std: float | None = None
    elsewhere: tuple[float, float] | None = None  # the 95 % interval of the mean on other speech
    interval: tuple[float, float] | None = None  # and of other trainings on these folds, Student's over seeds
    chance_range: tuple[float, float] | None = None
    best: bool = False
    seed_test: MethodDifference | None = None
    fold_test: MethodDifference | None = None
    worse: bool = False  # other trainings of the best are better on these folds
    worse_on_other_speech: bool = False

    def text(self, digits: int) -> str:
        """`0.552 ± 0.031 (0.007)` or what is there of it, and the marks; of chance `-0.090 to 0.090`."""
        if self.chance_range:
            return range_text(self.chance_range, digits)
        folds = "" if self.fold_std is None else f" ± {self.fold_std:.{digits}f}"
        seeds = "" if self.seed_std is None else f" ({self.seed_std:.{digits}f})"
        return f"{self.mean:.{digits}f}{folds}{seeds} {self.marks}".rstrip()

    @property
    def marks(self) -> str:
        """† and ‡, or "" where nothing is known to be better."""
        return MARK * self.worse + SPEECH_MARK * self.worse_on_other_speech

    def as_json(self) -> dict[str, Any]:
        """The cell in full precision, the tests against the best with it (None where there is none).

        `low` and `high` are `elsewhere`, of chance `chance_range`; `seeds_low` and `seeds_high` are `interval`; the
        intervals of the difference from the best are of its tests over seeds and over folds.
        """
        low, high = self.elsewhere or self.chance_range or (None, None)
        seeds_low, seeds_high = self.interval or (None, None)
        test = self.seed_test or self.fold_test
        return {
            "mean": self.mean,
            "fold_std": self.fold_std,
            "seed_std": self.seed_std,
            "low": low,
            "high": high,
            "seeds_low": seeds_low,
            "seeds_high": seeds_high,
            "best": self.best,
            "worse": self.worse,
            "worse_on_other_speech": self.worse_on_other_speech,
            "against": test.other if test else None,
            "difference": test.difference if test else None,
            **difference_fields("seeds", self.seed_test),
            **difference_fields("folds", self.fold_test),
        }


@dataclass(frozen=True)
class FoldTests:
    """Every pair of methods of a column, by seeds and by folds."""

    seeds: Sequence[MethodDifference] = ()
    folds: Sequence[MethodDifference] = ()


class FoldTable(MethodTable[FoldCell, FoldTests]):
    """Of all folds: mean ± std over folds (std over seeds)."""


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
        entries = {
            method: result["zero_shot"][number]
            for method, result in results.items()
            if len(result.get("zero_shot", ())) > number
        }
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
    if not present:
        return FoldTable(name, title, (), {}, ())
    rows: dict[str, dict[str, FoldCell]] = {}
    tests: dict[str, FoldTests] = {}
    cells: dict[str, dict[str, Cell]] = {}
    untested: dict[str, list[str]] = {}  # the reason: headers of columns
    for column in present:
        measured = {method: entry[column.key] for method, entry in entries.items() if column.key in entry}
        tests[column.key], reasons = _tests(column, measured, summary["resampling_ratio"])
        for reason in reasons:
            untested.setdefault(reason, []).append(column.header)
        found = _cells(column, measured, tests[column.key], alpha)
        if "chance" in found:
            found["chance"] = replace(found["chance"], chance_range=chance_range(measured["chance"]))
        for method, cell in found.items():
            rows.setdefault(method, {})[column.key] = cell
            cells.setdefault(method, {})[column.key] = measured_cell(measured[method])
    reasons = [f"{', '.join(headers)}: {reason}" for reason, headers in untested.items()]
    in_order = {method: rows[method] for method in entries if method in rows}
    legends, conventions = measure_notes(present, cells)
    notes = legends + _spread_notes(name, summary) + reasons + _legend(tests, alpha)
    notes += bound_meanings(name, in_order, "one seed's mean over folds")
    return FoldTable(name, title, present, in_order, tuple(notes), tests, conventions)


def _tests(column: Column, entries: Entries, ratio: float) -> tuple[FoldTests, list[str]]:
    """Every pair of methods of a column that can be tested, and the reasons why others cannot."""
    methods = {method: entry for method, entry in entries.items() if method not in BOUNDS}
    if column.better is None or len(methods) < 2:
        return FoldTests(), []
    if len({entry["convention"] for entry in methods.values()}) > 1:
        return FoldTests(), ["not tested, the conventions differ"]
    folds = fold_tests({of: entry["fold_values"] for of, entry in methods.items() if "low" in entry}, ratio=ratio)
    seeds = {of: entry["seed_values"] for of, entry in methods.items()}
    few = [f"{len(values)} of {of}" for of, values in seeds.items() if len(values) < MIN_UNITS]
    if few:
        return FoldTests((), folds), [f"not tested over seeds below {MIN_UNITS} ({', '.join(few)})"]
    return FoldTests(seed_tests(seeds), folds), []


def _cells(column: Column, entries: Entries, tests: FoldTests, alpha: float) -> dict[str, FoldCell]:
    """The cells of one column by method, the best marked, and those that it is better than at `alpha`."""
    cells = {method: _cell(entry) for method, entry in entries.items()}
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


def _cell(entry: Mapping[str, Any]) -> FoldCell:
    several = len(entry["seed_values"]) > 1
    return FoldCell(
        entry["mean"],
        entry.get("fold_std"),
        entry["seed_std"] if several else None,
        (entry["low"], entry["high"]) if "low" in entry else None,
        mean_interval(entry["seed_values"]) if several else None,
    )


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


def _legend(tests: Mapping[str, FoldTests], alpha: float) -> list[str]:
    """What bold, † and ‡ mean."""
    corrected = f"p < {alpha:g} two-tailed, Holm-corrected over all pairs of methods of the column"
    notes = ["bold: best mean of the methods"]
    if any(column.seeds for column in tests.values()):
        better = "other trainings of the best are better too, on these folds"
        notes.append(f"{MARK}: {better}; {corrected}, Welch's t over seeds")
    if any(column.folds for column in tests.values()):
        notes.append(
            f"{SPEECH_MARK}: the best is better on other speech too; {corrected}, paired by fold, {CONVENTION}"
        )
    return notes
