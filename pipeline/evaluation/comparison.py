"""Methods side by side: who is best, who is worse by more than chance, and over which units.

print(comparison_tables({"emotionrankclap": evaluate(a), "clap_sce": evaluate(b)}).markdown())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations

from pipeline.core.errors import UsageError
from pipeline.evaluation.cells import MARK, SPEECH_MARK, Cell, ColumnTests, Comparison, Table
from pipeline.evaluation.measures import BOUNDS, TABLES, Column
from pipeline.evaluation.significance import ALPHA, MIN_UNITS, SpeakerDraws, between, seed_tests, speaker_tests
from pipeline.evaluation.tables import Results, measured_tables

Cells = Mapping[str, Cell]  # of one column, by method


def comparison_tables(results: Results, *, alpha: float = ALPHA) -> Comparison:
    """The tables of `results[method]`, each what `evaluate` returns; a test that no method ran has no table.

    Cells are mean ± std over seeds. The best method of a column is bold. Every pair of methods is tested over seeds
    and, where speakers were resampled, over seeds and speakers, two-tailed and Holm-corrected over the column. † marks
    what the best is better than at `alpha` over seeds: another training would be, on this test set. ‡ marks what it is
    better than on other speech too. Rows of `BOUNDS` come last and take no part in this. What is not tested, and why,
    stands in the notes; every test in `Table.tests`.

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
    tables = tuple(_compared(table, alpha) for table in measured_tables(results))
    if not tables:
        found_none = f"{len(results)} methods without a result"
        raise UsageError("comparison", found_none, ", ".join(TABLES), "Run evaluate-heads.")
    return Comparison(tables)


def best_of(cells: Cells, column: Column) -> str:
    """The method of the best mean, the first of equals."""
    return (max if column.better == "higher" else min)(cells, key=lambda method: cells[method].mean)


def _compared(table: Table, alpha: float) -> Table:
    """`table` with its best cells marked, those that are significantly worse, and notes that say by which test."""
    marked, untested = mark_table(table, partial(_tests_of, alpha=alpha), alpha=alpha)
    reasons = [
        reason if len(headers) == len(marked.tests) else f"{', '.join(headers)}: {reason}"
        for reason, headers in untested.items()
    ]
    resampled = next((cell.speakers for row in table.rows.values() for cell in row.values() if cell.speakers), None)
    by_speakers = ""
    if resampled:
        unknown = f" (without {resampled.left_out} utterances of unknown ones)" if resampled.left_out else ""
        by_speakers = (
            f"t by {len(resampled.draws)} resamples of {resampled.n} speakers{unknown}, paired, with each method's "
            "variance over seeds added"
        )
    notes = [*table.notes, *reasons, *mark_notes(marked, "on this test set", by_speakers, alpha=alpha)]
    if bounds := [name for name in BOUNDS if name in table.rows]:
        notes.append(f"not methods, and not tested: {', '.join(bounds)}")
    return replace(marked, notes=tuple(notes))


def mark_table(
    table: Table, test_methods: Callable[[Cells], tuple[ColumnTests, list[str]]], *, alpha: float
) -> tuple[Table, dict[str, list[str]]]:
    """`table` with every pair of its methods tested, its best cells marked, and those that the best is better than.

    `test_methods` has the tests of two or more cells of one convention, and reasons why others are not tested. Returns
    the headers of the columns that are not tested by the reason, too.
    """
    rows = {method: dict(row) for method, row in table.rows.items()}
    tests: dict[str, ColumnTests] = {}
    untested: dict[str, list[str]] = {}
    for column in table.columns:
        cells = {of: row[column.key] for of, row in rows.items() if column.key in row and of not in BOUNDS}
        if column.better is None or not cells:
            continue
        best = best_of(cells, column)
        unit = cells[best].speech_unit
        tests[column.key], reasons = {"seeds": (), unit: ()}, []
        if len({cell.convention for cell in cells.values()}) > 1:
            reasons = ["not tested, the conventions differ"]
        elif len(cells) > 1:
            tests[column.key], reasons = test_methods(cells)
        for reason in reasons:
            untested.setdefault(reason, []).append(column.header)
        for method, cell in cells.items():
            seeds, speech = (between(tests[column.key][of], method, best) for of in ("seeds", unit))
            is_best = cell.mean == cells[best].mean
            worse = not is_best and seeds is not None and seeds.corrected < alpha
            # on other speech *too*; where there is no test over seeds, that part has nothing to say
            elsewhere = not is_best and speech is not None and speech.corrected < alpha and (worse or seeds is None)
            rows[method][column.key] = replace(
                cell, best=is_best, seed_test=seeds, speech_test=speech, worse=worse, worse_on_other_speech=elsewhere
            )
    return replace(table, rows=rows, tests=tests), untested


def mark_notes(table: Table, here: str, by_speech: str, *, alpha: float) -> list[str]:
    """What bold, † and ‡ mean, of tests over seeds `here` and by what they are on other speech."""
    corrected = f"p < {alpha:g} two-tailed, Holm-corrected over all pairs of methods of the column"
    notes = ["bold: best mean of the methods"]
    if any(of_column["seeds"] for of_column in table.tests.values()):
        better = f"other trainings of the best are better too, {here}"
        notes.append(f"{MARK}: {better}; {corrected}, Welch's t over seeds")
    if any(tests for of_column in table.tests.values() for unit, tests in of_column.items() if unit != "seeds"):
        notes.append(f"{SPEECH_MARK}: the best is better on other speech too; {corrected}, {by_speech}")
    return notes


def _tests_of(cells: Cells, *, alpha: float) -> tuple[ColumnTests, list[str]]:
    """Every pair of methods of a column that can be tested, and the reasons why others cannot."""
    few = {of: len(cell.seed_values) for of, cell in cells.items() if len(cell.seed_values) < MIN_UNITS}
    counts = ", ".join(f"{count} of {of}" for of, count in few.items())
    if len(few) == len(cells) and len(set(few.values())) == 1:
        counts = f"{next(iter(few.values()))} of each"
    reasons = [f"not tested below {MIN_UNITS} seeds ({counts})"] if few else []
    able = {of: cell for of, cell in cells.items() if len(cell.seed_values) >= MIN_UNITS}
    if len(able) < 2:
        return {"seeds": (), "speakers": ()}, reasons
    by_seed = seed_tests({of: cell.seed_values for of, cell in able.items()}, alpha=alpha)
    reasons += [
        f"{one} and {two} not tested over seeds, every seed of either gives the same figure"
        for one, two in combinations(able, 2)
        if between(by_seed, one, two) is None
    ]
    draws = {
        of: SpeakerDraws(cell.seed_values, cell.speakers.draws, cell.speakers.n)
        for of, cell in able.items()
        if cell.speakers is not None
    }
    if len({(cell.speakers.n, len(cell.speakers.draws)) for cell in able.values() if cell.speakers}) > 1:
        reasons.append("not tested on other speech, the resamples of speakers differ")
        return {"seeds": by_seed, "speakers": ()}, reasons
    if len(draws) < len(able):
        without = [of for of in able if of not in draws]
        which = f" of {', '.join(without)}" if draws else ""
        reasons.append(f"not tested on other speech, no resamples of speakers{which}")
    return {"seeds": by_seed, "speakers": speaker_tests(draws, alpha=alpha)}, reasons


PAPER_NOTE = (
    "the paper's own figures, for reference, ± over lists or trials: MSP-Podcast 1.12, WavLM-large and DistilRoBERTa "
    "encoders, captions by OpenAI o1; kernel width, estimator and solver not stated. Other data, encoders or "
    "conventions give other numbers: not to be compared with the tables above"
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
            best = best_of(cells, column)
            for method, cell in cells.items():
                rows[method][column.key] = replace(cell, best=cell.mean == cells[best].mean)
        tables.append(Table(f"paper_{name}", f"The paper's figures, not ours. {title}", present, rows, (PAPER_NOTE,)))
    return Comparison(tuple(tables))
