"""Results as tables: the figures of `evaluate` by name, in rows of methods and columns of measures.

print(evaluation_table({"emotionrankclap": evaluate("runs/erc")}))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.cells import Cell, SpeakerSpread, Table
from pipeline.evaluation.measures import BOUNDS, FIELD_TESTS, MEANINGS, ORDER_BOUNDS, TABLES, Column, field_rows
from pipeline.evaluation.pooling import over_seeds, over_speakers
from pipeline.evaluation.recognition import blind_guess
from pipeline.evaluation.table_formats import Bold, TextTable, table_text

Results = Mapping[str, Mapping[str, Any]]  # by name of a method or seed: what `evaluate` returns
CHANCE_STDS = 1.96  # of the normal distribution: 95 %
_SCALE_FREE = ("mmd_median", "wasserstein_relative", "gap_centroid", "gap_covariance", "gap_rest")


class MethodEntries(NamedTuple):
    """One test of all methods, as they ran it: `entries[method][column.key]` is a measure."""

    name: str
    title: str
    columns: tuple[Column, ...]
    entries: Results

    def present(self) -> tuple[Column, ...]:
        """The columns that a method has."""
        return tuple(column for column in self.columns if any(column.key in entry for entry in self.entries.values()))

    def rows(self, cell_of: Callable[[Mapping[str, Any], str], Cell]) -> dict[str, dict[str, Cell]]:
        """The cells by method and measure, made by `cell_of`; those of chance with its range."""
        rows = {
            method: {column.key: cell_of(entry, column.key) for column in self.columns if column.key in entry}
            for method, entry in self.entries.items()
        }
        for key, cell in rows.get("chance", {}).items():
            rows["chance"][key] = replace(cell, chance_range=chance_range(self.entries["chance"][key]))
        return rows


def measured_cell(result: Mapping[str, Any], key: str) -> Cell:
    """A measure of one test as a cell: pooled over seeds, one seed's own (its std is over lists), or a number."""
    entry, convention = result[key], result.get("convention", "")
    if not isinstance(entry, Mapping):
        return Cell(float(entry), convention=convention)
    convention = entry.get("convention", convention)
    if "taus" in entry or "values" in entry:
        return Cell(entry["mean"], list_std=entry["std"], convention=convention)
    values = tuple(entry.get("seed_values", ()))
    speakers = SpeakerSpread(**entry["speakers"]) if entry.get("speakers") else None
    std = None if len(values) == 1 else entry.get("std")
    return Cell(entry["mean"], std, values, entry.get("list_std"), speakers, convention)


def chance_range(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """What 95 % of seeds would measure by chance, by the `std` of one; None where that is not known."""
    mean, margin = entry["mean"], CHANCE_STDS * entry.get("std", 0.0)
    return (mean - margin, mean + margin) if margin else None


def measured_tables(results: Results) -> list[Table]:
    """A table for each test in `results` and each other corpus in `zero_shot`: no cell marked, `BOUNDS` last.

    The names in full, and what rows and spreads are, stand in the notes.
    """
    names = [name for name in results if name not in BOUNDS] + [name for name in BOUNDS if name in results]
    tables = []
    for test in _tests({name: results[name] for name in names}):
        rows, present = test.rows(measured_cell), test.present()
        legends, conventions = measure_notes(present, rows)
        notes = [*legends, *_spread_notes(rows), *_bound_notes(test, rows)]
        tables.append(Table(test.name, test.title, present, rows, tuple(notes), conventions=conventions))
    return tables


def _tests(results: Results) -> Iterator[MethodEntries]:
    for name, (title, columns) in TABLES.items():
        entries: Results = {method: result[name] for method, result in results.items() if result.get(name)}
        if name == "word_norms":
            entries = {
                of: {**entry, **_losses(results[of].get("ordinality", {}), entry)} for of, entry in entries.items()
            }
        if entries.keys() - set(BOUNDS):
            yield MethodEntries(name, title, columns, entries)
    title, columns = TABLES["recognition"]
    for number, entries in enumerate(entries_of_corpora(results), 1):
        first = next(iter(entries.values()))
        corpus = f"{number}. {first['stores']}, {first['split']} utterances"
        yield MethodEntries(f"recognition_{number}", f"{title}, on another corpus: {corpus}", columns, entries)


def entries_of_corpora(results: Results) -> list[Results]:
    """Of each other corpus in `zero_shot`, the recognition by the methods that were asked about it."""
    count = max((len(result.get("zero_shot", ())) for result in results.values()), default=0)
    return [
        {method: of["zero_shot"][number] for method, of in results.items() if len(of.get("zero_shot", ())) > number}
        for number in range(count)
    ]


def _losses(grammar: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """`aoc_loss` and `voc_loss`, seed by seed and draw by draw: what is lost from the grammar's prompts to these."""
    losses = {}
    for key in ("aoc", "voc"):
        if key not in grammar or key not in others:
            continue
        ours, theirs = grammar[key], others[key]
        lost = np.subtract(*(of.get("seed_values", [of["mean"]]) for of in (ours, theirs)))  # (seeds,)
        speakers, same_speakers = ours.get("speakers"), theirs.get("speakers")
        resampled = None
        if speakers and same_speakers:
            draws = np.subtract(speakers["draws"], same_speakers["draws"])
            resampled = over_speakers(draws, count=speakers["n"], left_out=speakers.get("left_out", 0))
        convention = (
            f"{key.upper()} by the grammar's prompts less by these; the grammar words the training captions too"
        )
        losses[f"{key}_loss"] = over_seeds(lost.tolist(), convention, speakers=resampled)
    return losses


def measure_notes(
    columns: Sequence[Column], rows: Mapping[str, Mapping[str, Cell]]
) -> tuple[list[str], tuple[str, ...]]:
    """What each measure is, with the numbers of its conventions; which are scale-free; and the conventions.

    A measure that methods took in different ways has the number of each, and their names.
    """
    conventions: dict[str, int] = {}
    notes = []
    for column in columns:
        methods: dict[str, list[str]] = {}
        for name, row in rows.items():
            if column.key in row and name not in BOUNDS:
                methods.setdefault(row[column.key].convention or "convention not given", []).append(name)
        numbers = {conventions.setdefault(text, len(conventions) + 1): names for text, names in methods.items()}
        marks = [f"{number} of {', '.join(of)}" if len(numbers) > 1 else str(number) for number, of in numbers.items()]
        notes.append(f"{column.legend} [{'; '.join(marks)}]" if marks else column.legend)
    if scale_free := [column.header for column in columns if column.key in _SCALE_FREE]:
        others = "one constant appended to all vectors shrinks the other distances and leaves every order as it is"
        notes.append(f"scale-free: {', '.join(scale_free)}; {others}")
    return notes, tuple(conventions)


def _spread_notes(rows: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """What the figure behind ± is over."""
    counts = {
        method: len(cell.seed_values)
        for method, row in rows.items()
        for cell in row.values()
        if cell.seed_values and method not in BOUNDS
    }
    if not counts:
        return []
    if len(set(counts.values())) > 1:
        return [f"mean ± std over seeds ({', '.join(f'{count} of {method}' for method, count in counts.items())})"]
    count = next(iter(counts.values()))
    return [f"mean ± std over {count} seeds" if count > 1 else "one seed, so there is no std over seeds"]


def _bound_notes(test: MethodEntries, rows: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """What the bounds are, and what always naming the most frequent class would give."""
    notes = bound_meanings(test.name, rows, "one seed's figure")
    for entry in test.entries.values():
        if "majority" in entry:
            return [*notes, f"always the most frequent class: WAR {entry['majority']:.3f}, UAR {entry['chance']:.3f}"]
    return notes


def bound_meanings(test: str, rows: Mapping[str, Mapping[str, Cell]], figure: str) -> list[str]:
    """A note on each of `BOUNDS` in `rows`; the range of chance is of `figure`."""
    meanings = MEANINGS.get(test, MEANINGS["recognition"])
    notes = [f"{name}: {meanings[name]}" for name in BOUNDS if name in rows]
    if any(cell.chance_range for cell in rows.get("chance", {}).values()):
        how = "the labels shuffled among the utterances" if meanings is ORDER_BOUNDS else "every label guessed"
        notes[-1] += f"; 95 % of what {figure} would be with {how}"
    return notes


def with_chance(results: Results) -> Results:
    """`results` with a row for chance in every test: lists in random order, and a blind guess of a class."""

    def first(test: str) -> Any:
        """What the first that ran `test` has of it."""
        return next((result[test] for result in results.values() if result.get(test)), None)

    order = {"mean": 0.0, "convention": "lists in random order"}
    chance: dict[str, Any] = {}
    for name in ("ordinality", "word_norms", "dominance"):
        keys = [key for key in ("aoc", "voc", "doc") if any(key in of.get(name, {}) for of in results.values())]
        if keys:
            chance[name] = dict.fromkeys(keys, order)
    if recognised := first("recognition"):
        chance["recognition"] = blind_guess(recognised)
    for name in FIELD_TESTS:
        known = {
            key: {"mean": entry["chance"], "convention": MEANINGS[name]["chance"]}
            for key, entry in (first(name) or {}).items()
            if isinstance(entry, Mapping) and "chance" in entry
        }
        if known:
            chance[name] = known
    if corpora := first("zero_shot"):
        chance["zero_shot"] = [
            {**blind_guess(corpus), "stores": corpus["stores"], "split": corpus["split"]} for corpus in corpora
        ]
    chance |= results.get("chance", {})
    return {**results, "chance": chance} if chance else results


def evaluation_tables(results: Results) -> list[Table]:
    """`measured_tables` with a row for chance, but those of `field_table`; nothing is compared."""
    return [table for table in measured_tables(with_chance(results)) if table.name not in FIELD_TESTS]


def field_table(results: Results) -> TextTable | None:
    """Of evaluations by name, as `evaluate` returns them, and the reference rows; None where none has such figures.

    A cell is the mean over seeds, with the std of several; the conventions are those of the first evaluation.
    """
    methods = {name: of for name, of in results.items() if name not in BOUNDS and of.get("retrieval")}
    if not methods:
        return None
    ceiling = results.get("ceiling", {})
    frozen = {**ceiling.get("readout", {}), **ceiling.get("speech_ordinality", {})}
    rows: list[list[str]] = []
    conventions: dict[str, int] = {}  # each once, with its number
    for row in field_rows():
        entries = [of.get(row.test, {}).get(row.key, {}) for of in methods.values()]
        first = next(filter(None, entries), None)
        if first is None:
            continue
        number = conventions.setdefault(first["convention"], len(conventions) + 1)
        own = [Bold(row.measured(entry)) for entry in entries]
        of_frozen = [row.measured(frozen.get(row.key, {}))] if frozen else []
        chance = next((entry["chance"] for entry in entries if "chance" in entry), None)
        rows.append([f"{row.text} {row.arrow} [{number}]", *own, *of_frozen, row.number(chance)])
    notes = [
        "a hit: a caption of this utterance; of a text, any utterance that it describes; of equally similar ones hits "
        "come last",
        "↑: higher is better; ↓: lower is better",
        "figures are means over seeds, ± their std where there are several",
        "chance: the mean of candidates in random order, or of a blind guess of the category",
    ]
    if any(of.get("readout") for of in methods.values()):
        notes.append(
            "read-out: ridge regression fitted on the training split, its penalty chosen on the development split; "
            "frozen vectors: the same from the speech encoder's vectors"
        )
    if any(of.get("speech_ordinality") for of in methods.values()):
        notes.append(
            "speech by itself: Kendall's tau-b of the distances of labels and of speech from an utterance, mean over "
            "utterances, 1 where the nearer label is the nearer vector throughout; frozen vectors standardised"
        )
    title = "Retrieval, linear read-out and order of speech alone, as other work reports them"
    headers = ["measure", *methods, *(["frozen vectors"] if frozen else []), "chance"]
    return TextTable("field", title, headers, rows, notes, tuple(conventions))


def evaluation_table(result: Mapping[str, Any], *, conventions: bool = False) -> str:
    """Plain text of one evaluation (`{"ordinality": ..., "alignment": ...}`) or of several by name (seeds, methods).

    `conventions` stand as numbered footnotes below each table where they are asked for.
    """
    results = {"evaluation": result} if TABLES.keys() & result.keys() else result
    tables = [table.texts() for table in evaluation_tables(results)]
    if field := field_table(results):
        tables.append(field)
    return "\n\n".join(table_text(table, conventions=conventions) for table in tables)
