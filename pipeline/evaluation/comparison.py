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
from pipeline.evaluation.tables import MARK, Cell, Column, Comparison, Table

Results = Mapping[str, Mapping[str, Any]]
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "alignment": (
        "Alignment (Table 1 of the paper): distance of speech and text, lower is better",
        (
            Column("mmd", "MMD", "lower", 4),
            Column("wasserstein", "Wasserstein", "lower", 4),
            Column("sliced_wasserstein", "sliced Wasserstein", "lower", 4),
        ),
    ),
    "ordinality": (
        "Ordinality (Table 2 of the paper): Kendall's tau, higher is better",
        (Column("aoc", "AOC", "higher", 3), Column("voc", "VOC", "higher", 3)),
    ),
    "recognition": (
        "Zero-shot recognition, higher is better",
        (Column("war", "WAR", "higher", 3), Column("uar", "UAR", "higher", 3)),
    ),
}
_VALUES = ("taus", "values")  # what an entry holds one of per list or trial, seed after seed
_TEST_NAMES: dict[Test, str] = {"wilcoxon": "Wilcoxon signed-rank test", "t": "Student's t test"}


def comparison_tables(results: Results, *, test: Test = "wilcoxon", alpha: float = 0.05) -> Comparison:
    """The tables of `results[method]`, each what `evaluate` returns; a test that no method ran has no table.

    Cells are mean ± std over the lists or trials of all seeds. The best of a column is bold; † marks a method that the
    best is better than at `alpha` by paired `test`s, Holm-corrected over the column. A column whose conventions, seeds
    or numbers of values differ between methods is not tested, and a note says why.

    Raises UsageError without a method or a test, or when methods were evaluated on different splits.
    """
    _refuse_other_splits(results)
    tables = tuple(_table(name, results, test, alpha) for name in TABLES if any(name in r for r in results.values()))
    if not tables:
        raise UsageError(
            "comparison", f"{len(results)} methods without a result", ", ".join(TABLES), "Run evaluate-heads."
        )
    return Comparison(tables)


def _table(name: str, results: Results, test: Test, alpha: float) -> Table:
    title, columns = TABLES[name]
    ran = {method: result[name] for method, result in results.items() if name in result}
    present = tuple(column for column in columns if any(column.key in entry for entry in ran.values()))
    rows: dict[str, dict[str, Cell]] = {method: {} for method in ran}
    notes = []
    for column in present:
        entries = {method: _entry(entry, column.key) for method, entry in ran.items() if column.key in entry}
        tests, reason = _tests(column, entries, results, test)
        for method, cell in _cells(entries, column, tests, alpha).items():
            rows[method][column.key] = cell
        notes += _conventions(column.header, entries)
        if reason:
            notes.append(f"{column.header}: not tested, {reason}")
    notes.append("bold: best mean")
    if any(cell.test for row in rows.values() for cell in row.values()):
        notes.append(
            f"{MARK}: the best is better, p < {alpha:g}, two-tailed {_TEST_NAMES[test]} over pairs of the same list or "
            f"trial and seed, Holm-corrected over the column; {CAUTION}"
        )
    if name == "ordinality":
        notes.append(f"chance: 0, a list's std {NULL_STD:.4f}")
    return Table(name, title, present, rows, tuple(notes))


def _entry(result: Mapping[str, Any], key: str) -> dict[str, Any]:
    """`{"mean", "std", ...}` of one measure; a single figure (recognition's) is a mean without a std."""
    found = result[key]
    entry = dict(found) if isinstance(found, Mapping) else {"mean": float(found)}
    return {"convention": result.get("convention", ""), **entry}


def _cells(
    entries: Mapping[str, Mapping[str, Any]], column: Column, tests: Mapping[str, PairedTest], alpha: float
) -> dict[str, Cell]:
    first = max if column.better == "higher" else min
    best = first(entry["mean"] for entry in entries.values())
    cells = {
        method: Cell(entry["mean"], entry.get("std"), entry.get("seed_std"), best=entry["mean"] == best)
        for method, entry in entries.items()
    }
    return {
        method: replace(cell, test=tests[method], worse=not cell.best and tests[method].corrected < alpha)
        if method in tests
        else cell
        for method, cell in cells.items()
    }


def _tests(
    column: Column, entries: Mapping[str, Mapping[str, Any]], results: Results, test: Test
) -> tuple[dict[str, PairedTest], str]:
    """Each other method against the best, by name; or none, and the reason why."""
    values = {method: _values(entry) for method, entry in entries.items()}
    if len(values) < 2:
        return {}, ""
    reason = _unpaired(values, entries, {method: tuple(results[method].get("seeds", ())) for method in values})
    if reason:
        return {}, reason
    return {outcome.method: outcome for outcome in paired_tests(values, test=test, better=column.better)}, ""


def _values(entry: Mapping[str, Any]) -> Sequence[float]:
    return next((entry[key] for key in _VALUES if key in entry), ())


def _unpaired(
    values: Mapping[str, Sequence[float]],
    entries: Mapping[str, Mapping[str, Any]],
    seeds: Mapping[str, tuple[str, ...]],
) -> str:
    if len({entry["convention"] for entry in entries.values()}) > 1:
        return "the conventions differ"
    if len(set(seeds.values())) > 1:
        return "the seeds differ"
    counts = {len(of) for of in values.values()}
    if len(counts) > 1:
        return "the numbers of values differ"
    if not min(counts):
        return "it has no lists or trials to pair; the spread is over seeds"
    return "fewer than two values a method" if min(counts) < 2 else ""


def _conventions(header: str, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`header: convention`; by name where methods differ."""
    names: dict[str, list[str]] = {}
    for method, entry in entries.items():
        names.setdefault(entry["convention"] or "convention not given", []).append(method)
    if len(names) == 1:
        return [f"{header}: {convention}" for convention in names]
    return [f"{header} ({', '.join(of)}): {convention}" for convention, of in names.items()]


def _refuse_other_splits(results: Results) -> None:
    for setting in ("split", "utterances"):
        found = {method: result[setting] for method, result in results.items() if setting in result}
        if len(set(found.values())) > 1:
            raise UsageError(
                "comparison",
                f"{setting} {', '.join(f'{value} of {method}' for method, value in found.items())}",
                "the same for every method",
                "Evaluate all methods on one split of one corpus.",
            )


NOTE = (
    "the paper's own figures, for reference: MSP-Podcast 1.12, WavLM-large and DistilRoBERTa encoders, captions by "
    "OpenAI o1; kernel width, estimator and solver not stated. Other data, encoders or conventions give other numbers: "
    "not to be compared with the tables above"
)
Figures = dict[str, dict[str, tuple[float, float]]]  # method: measure: (mean, std)
TABLE_1: Figures = {
    "CLAP-SCE (A-V)": {"mmd": (0.096, 0.002), "wasserstein": (0.180, 0.003)},
    "SupConCLAP (A-V)": {"mmd": (0.4436, 0.003), "wasserstein": (0.4172, 0.003)},
    "EmotionRankCLAP": {"mmd": (0.087, 0.001), "wasserstein": (0.065, 0.007)},
}
TABLE_2: Figures = {
    "CLAP-template": {"aoc": (0.171, 0.26), "voc": (0.466, 0.14)},
    "CLAP4Emo": {"aoc": (0.284, 0.20), "voc": (0.533, 0.14)},
    "ParaCLAP": {"aoc": (0.283, 0.20), "voc": (0.217, 0.20)},
    "CLAP-SCE (A-V)": {"aoc": (0.492, 0.15), "voc": (0.505, 0.13)},
    "SupConCLAP (A-V)": {"aoc": (0.346, 0.19), "voc": (0.530, 0.15)},
    "EmotionRankCLAP": {"aoc": (0.552, 0.12), "voc": (0.616, 0.13)},
}


def paper_tables() -> Comparison:
    """Tables 1 and 2 as the paper prints them (mean ± std over 30 trials, over 100 lists), labelled as the paper's."""
    return Comparison((_table_paper("alignment", TABLE_1), _table_paper("ordinality", TABLE_2)))


def _table_paper(name: str, figures: Figures) -> Table:
    title, columns = TABLES[name]
    present = tuple(column for column in columns if all(column.key in row for row in figures.values()))
    edge = {c.key: (max if c.better == "higher" else min)(row[c.key][0] for row in figures.values()) for c in present}
    rows = {
        method: {key: Cell(mean, std, best=mean == edge[key]) for key, (mean, std) in row.items()}
        for method, row in figures.items()
    }
    return Table(f"paper_{name}", f"The paper's figures, not ours. {title}", present, rows, (NOTE,))
