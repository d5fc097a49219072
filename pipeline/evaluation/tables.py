"""Results as tables: the figures of `evaluate` by name, in rows of methods and columns of measures.

print(evaluation_table({"emotionrankclap": evaluate("runs/erc")}))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.cells import BOUNDS, Cell, Column, SpeakerSpread, Table
from pipeline.evaluation.field_table import FIELD_TESTS, field_table
from pipeline.evaluation.recognition import blind_guess
from pipeline.evaluation.significance import mean_and_std
from pipeline.evaluation.table_formats import table_text

Results = Mapping[str, Mapping[str, Any]]  # by name of a method or seed: what `evaluate` returns

_TAU = "Kendall's tau from -1 to 1"
_ORDER = (
    Column("aoc", "AOC", "higher", 3, "arousal ordinal consistency", _TAU),
    Column("voc", "VOC", "higher", 3, "valence ordinal consistency", _TAU),
)
_LOST = "by the caption grammar's prompts less that by rated words"
_LOSSES = (
    Column("aoc_loss", "AOC lost", None, 3, f"AOC {_LOST}", "Kendall's tau"),
    Column("voc_loss", "VOC lost", None, 3, f"VOC {_LOST}", "Kendall's tau"),
)
_SQUARED = "in squared median distances"
_OF_THE_SPACE = "in units of the space"
_SHARE = "from 0 to 1"
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "ordinality": ("Ordinality (Table 2 of the paper): Kendall's tau, higher is better", _ORDER),
    "word_norms": (
        "Ordinality by prompts of other hands (words that people rated): Kendall's tau, higher is better",
        (*_ORDER, *_LOSSES),
    ),
    "dominance": (
        "Order of dominance by rated words of one valence and arousal: Kendall's tau, higher is better",
        (Column("doc", "DOC", "higher", 3, "dominance ordinal consistency", _TAU),),
    ),
    "alignment": (
        "Alignment (Table 1 of the paper): distance of speech and text, lower is better",
        (
            Column(
                "mmd_median",
                "MMD median",
                "lower",
                3,
                "maximum mean discrepancy, kernel as wide as the median distance",
                "from 0 to √2",
            ),
            Column(
                "wasserstein_relative", "W / median", "lower", 3, "exact Wasserstein distance", "in median distances"
            ),
            Column("gap_centroid", "gap centroid", "lower", 3, "squared distance of the centroids", _SQUARED),
            Column(
                "gap_covariance", "gap covariance", "lower", 3, "squared Bures distance of the covariances", _SQUARED
            ),
            Column("gap_rest", "gap rest", "lower", 3, "what both leave of the squared 2-Wasserstein", _SQUARED),
            Column("mmd", "MMD", "lower", 4, "maximum mean discrepancy, kernel of fixed width", "from 0 to √2"),
            Column("wasserstein", "Wasserstein", "lower", 4, "exact Wasserstein distance", _OF_THE_SPACE),
            Column(
                "sliced_wasserstein",
                "sliced Wasserstein",
                "lower",
                4,
                "mean Wasserstein distance of random projections",
                _OF_THE_SPACE,
            ),
        ),
    ),
    "recognition": (
        "Zero-shot recognition, higher is better",
        (
            Column("war", "WAR", "higher", 3, "weighted average recall", "a share of the utterances, from 0 to 1"),
            Column(
                "uar",
                "UAR",
                "higher",
                3,
                "unweighted average recall",
                "the mean of the categories' recalls, from 0 to 1",
            ),
        ),
    ),
    "retrieval": (
        "Retrieval between speech and text, higher is better",
        (
            Column("speech_to_text_r10", "R@10 of texts", "higher", 3, "recall at 10, asked by speech", _SHARE),
            Column("text_to_speech_r10", "R@10 of speech", "higher", 3, "recall at 10, asked by texts", _SHARE),
            Column(
                "speech_to_text_map", "mAP of texts", "higher", 3, "mean average precision, asked by speech", _SHARE
            ),
            Column(
                "text_to_speech_map", "mAP of speech", "higher", 3, "mean average precision, asked by texts", _SHARE
            ),
        ),
    ),
    "readout": (
        "Linear read-outs of speech, higher is better",
        (
            Column("valence_ccc", "CCC valence", "higher", 3, "concordance correlation of valence", "from -1 to 1"),
            Column("arousal_ccc", "CCC arousal", "higher", 3, "concordance correlation of arousal", "from -1 to 1"),
            Column(
                "dominance_ccc", "CCC dominance", "higher", 3, "concordance correlation of dominance", "from -1 to 1"
            ),
            Column("category_uar", "UAR, probe", "higher", 3, "unweighted average recall of a linear probe", _SHARE),
        ),
    ),
    "speech_ordinality": (
        "Order of speech alone: Kendall's tau, higher is better",
        (
            Column("valence_tau", "valence", "higher", 3, "order by valence", _TAU),
            Column("arousal_tau", "arousal", "higher", 3, "order by arousal", _TAU),
            Column("dominance_tau", "dominance", "higher", 3, "order by dominance", _TAU),
            Column("plane_tau", "plane", "higher", 3, "order by distance in the valence-arousal plane", _TAU),
        ),
    ),
}


_ORDER_BOUNDS = {
    "ceiling": "what the speech vectors hold, ridge regressions from speech asked with each prompt's true point",
    "words": "what was said, ridge regressions from transcripts' vectors asked likewise",
    "voice": "how it was said, the ceiling of speech vectors less what a ridge regression from the words gives; "
    "of an utterance without a transcript both know the mean point",
    "labels": "what the utterances hold, their own labels asked likewise",
    "chance": "no order",
}
MEANINGS: dict[str, dict[str, str]] = {  # what each of `BOUNDS` is, by test
    "ordinality": _ORDER_BOUNDS,
    "word_norms": _ORDER_BOUNDS,
    "dominance": _ORDER_BOUNDS,
    "recognition": {"ceiling": "ridge regressions from speech to a category each", "chance": "a blind guess"},
    "retrieval": {"chance": "candidates in random order"},
    "readout": {"ceiling": "the same of the frozen vectors", "chance": "no concordance; a blind guess of a category"},
    "speech_ordinality": {"ceiling": "the same of the frozen vectors, standardised", "chance": "no order"},
}


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
        ours, theirs = (test[key].get("seed_values", [test[key]["mean"]]) for test in (grammar, others))
        values = np.subtract(ours, theirs)  # (seeds,)
        loss: dict[str, Any] = {**mean_and_std(values), "seed_values": values.tolist()}
        ours, theirs = grammar[key].get("speakers"), others[key].get("speakers")
        if ours and theirs:
            draws = np.subtract(ours["draws"], theirs["draws"])
            low, high = np.percentile(draws, (2.5, 97.5)).tolist()
            resampled = {"n": ours["n"], "std": float(draws.std(ddof=1)), "low": low, "high": high}
            loss["speakers"] = {**resampled, "draws": draws.tolist()}
        convention = (
            f"{key.upper()} by the grammar's prompts less by these; the grammar words the training captions too"
        )
        losses[f"{key}_loss"] = {**loss, "convention": convention}
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
        how = "the labels shuffled among the utterances" if meanings is _ORDER_BOUNDS else "every label guessed"
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


def evaluation_table(result: Mapping[str, Any], *, conventions: bool = False) -> str:
    """Plain text of one evaluation (`{"ordinality": ..., "alignment": ...}`) or of several by name (seeds, methods).

    `conventions` stand as numbered footnotes below each table where they are asked for.
    """
    results = {"evaluation": result} if TABLES.keys() & result.keys() else result
    tables = [table.texts() for table in evaluation_tables(results)]
    if field := field_table(results):
        tables.append(field)
    return "\n\n".join(table_text(table, conventions=conventions) for table in tables)
