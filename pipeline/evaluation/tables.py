"""Results as tables: the figures of `evaluate` by name, in rows of methods and columns of measures.

print(evaluation_table({"emotionrankclap": evaluate("runs/erc")}))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.cells import BOUNDS, Cell, Column, SpeakerSpread, Table
from pipeline.evaluation.field_table import FieldTable
from pipeline.evaluation.ordinality import NULL_STD
from pipeline.evaluation.significance import mean_and_std
from pipeline.evaluation.table_formats import Listing, table_text

Results = Mapping[str, Mapping[str, Any]]  # by name of a method or seed: what `evaluate` returns

_ORDER = (
    Column("aoc", "AOC", "higher", 3, "arousal ordinal consistency"),
    Column("voc", "VOC", "higher", 3, "valence ordinal consistency"),
)
_LOSSES = (Column("aoc_loss", "AOC lost", None, 3), Column("voc_loss", "VOC lost", None, 3))
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "ordinality": ("Ordinality (Table 2 of the paper): Kendall's tau, higher is better", _ORDER),
    "word_norms": (
        "Ordinality by prompts of other hands (words that people rated): Kendall's tau, higher is better",
        (*_ORDER, *_LOSSES),
    ),
    "alignment": (
        "Alignment (Table 1 of the paper): distance of speech and text, lower is better",
        (
            Column("mmd_median", "MMD median", "lower", 3, "maximum mean discrepancy at the median width"),
            Column("wasserstein_relative", "W / median", "lower", 3, "Wasserstein over the median distance"),
            Column("gap_centroid", "gap centroid", "lower", 3),
            Column("gap_covariance", "gap covariance", "lower", 3),
            Column("gap_rest", "gap rest", "lower", 3),
            Column("mmd", "MMD", "lower", 4, "maximum mean discrepancy"),
            Column("wasserstein", "Wasserstein", "lower", 4),
            Column("sliced_wasserstein", "sliced Wasserstein", "lower", 4),
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


_ORDER_BOUNDS = {
    "ceiling": "what the speech vectors hold, ridge regressions from speech asked with each prompt's true point",
    "words": "what was said, ridge regressions from transcripts' vectors asked likewise",
    "voice": "how it was said, the ceiling of speech vectors less what a ridge regression from the words gives; "
    "of an utterance without a transcript both know the mean point",
    "labels": "what the utterances hold, their own labels asked likewise",
    "chance": f"lists in random order, one of which has a std of {NULL_STD:.4f}",
}
MEANINGS: dict[str, dict[str, str]] = {  # what each of `BOUNDS` is, by test
    "ordinality": _ORDER_BOUNDS,
    "word_norms": _ORDER_BOUNDS,
    "recognition": {"ceiling": "ridge regressions from speech to a category each", "chance": "a blind guess"},
}


_SCALE_FREE = ("mmd_median", "wasserstein_relative", "gap_centroid", "gap_covariance", "gap_rest")


class _Test(NamedTuple):
    """One test of all methods, as they ran it: `entries[method][column.key]` is a measure."""

    name: str
    title: str
    columns: tuple[Column, ...]
    entries: Results


def measured_cell(entry: Mapping[str, Any] | float, convention: str = "") -> Cell:
    """A measure of a result as a cell: pooled over seeds, one seed's own (its std is over lists), or a number."""
    if not isinstance(entry, Mapping):
        return Cell(float(entry), convention=convention)
    convention = entry.get("convention", convention)
    if "taus" in entry or "values" in entry:
        return Cell(entry["mean"], list_std=entry["std"], convention=convention)
    values = tuple(entry.get("seed_values", ()))
    speakers = SpeakerSpread(**entry["speakers"]) if entry.get("speakers") else None
    std = entry.get("std")
    std = None if len(values) == 1 and not std else std  # one seed has none; that of chance is over shuffled labels
    return Cell(entry["mean"], std, values, entry.get("list_std"), speakers, convention)


def measured_tables(results: Results) -> list[Table]:
    """A table for each test in `results` and each other corpus in `zero_shot`: no cell marked, `BOUNDS` last.

    Notes give every convention.
    """
    names = [name for name in results if name not in BOUNDS] + [name for name in BOUNDS if name in results]
    tables = []
    for test in _tests({name: results[name] for name in names}):
        rows = {
            method: {
                column.key: measured_cell(entry[column.key], entry.get("convention", ""))
                for column in test.columns
                if column.key in entry
            }
            for method, entry in test.entries.items()
        }
        present = tuple(column for column in test.columns if any(column.key in row for row in rows.values()))
        notes = [*convention_notes(present, rows), *_spread_notes(rows), *_bound_notes(test, rows)]
        tables.append(Table(test.name, test.title, present, rows, tuple(notes)))
    return tables


def _tests(results: Results) -> Iterator[_Test]:
    for name, (title, columns) in TABLES.items():
        entries = {method: result[name] for method, result in results.items() if result.get(name)}
        if name == "word_norms":
            entries = {
                of: {**entry, **_losses(results[of].get("ordinality", {}), entry)} for of, entry in entries.items()
            }
        if entries.keys() - set(BOUNDS):
            yield _Test(name, title, columns, entries)
    title, columns = TABLES["recognition"]
    for number in range(max((len(result.get("zero_shot", ())) for result in results.values()), default=0)):
        entries = {
            method: result["zero_shot"][number]
            for method, result in results.items()
            if len(result.get("zero_shot", ())) > number
        }
        first = next(iter(entries.values()))
        corpus = f"{number + 1}. {first['stores']}, {first['split']} utterances"
        yield _Test(f"recognition_{number + 1}", f"{title}, on another corpus: {corpus}", columns, entries)


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


def convention_notes(columns: Sequence[Column], rows: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """The conventions that measures were taken with, of which methods where these differ; which are scale-free."""
    methods = {name: row for name, row in rows.items() if name not in BOUNDS}
    notes = [note for column in columns for note in column.conventions(methods)]
    if scale_free := [column.header for column in columns if column.key in _SCALE_FREE]:
        others = "one constant appended to all vectors shrinks the other distances and leaves every order as it is"
        notes.append(f"scale-free: {', '.join(scale_free)}; {others}")
    return notes


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


def _bound_notes(test: _Test, rows: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """What the bounds are, and what always naming the most frequent class would give."""
    meanings = MEANINGS.get(test.name, MEANINGS["recognition"])
    notes = [f"{name}: {meanings[name]}" for name in BOUNDS if name in test.entries]
    if any(cell.std is not None for cell in rows.get("chance", {}).values()):
        notes[-1] += ", a seed's mean that behind ±, over shuffled labels"
    for entry in test.entries.values():
        if "majority" in entry:
            return [*notes, f"always the most frequent class: WAR {entry['majority']:.3f}, UAR {entry['chance']:.3f}"]
    return notes


def with_chance(results: Results) -> Results:
    """`results` with a row for chance in every test: lists in random order, and a blind guess of a class."""
    order = {"mean": 0.0, "convention": "lists in random order"}
    chance: dict[str, Any] = {}
    for name in ("ordinality", "word_norms"):
        keys = [column.key for column in _ORDER if any(column.key in of.get(name, {}) for of in results.values())]
        chance |= {name: dict.fromkeys(keys, order)} if keys else {}
    for recognised in [result["recognition"] for result in results.values() if "recognition" in result][:1]:
        chance["recognition"] = _blind_guess(recognised)
    for others in [result["zero_shot"] for result in results.values() if result.get("zero_shot")][:1]:
        chance["zero_shot"] = [_blind_guess(recognised) for recognised in others]
    known = {**chance, **results.get("chance", {})}
    return {**results, "chance": known} if known else results


def _blind_guess(recognised: Mapping[str, Any]) -> dict[str, Any]:
    guess = {"mean": recognised["chance"], "convention": f"a blind guess of {len(recognised['classes'])} classes"}
    where = {name: recognised[name] for name in ("stores", "split") if name in recognised}
    return {"war": guess, "uar": guess, **where}


def evaluation_tables(results: Results) -> list[Table]:
    """`measured_tables` with a row for chance; nothing is compared."""
    return [
        replace(table, notes=(*table.notes, *_list_notes(table))) for table in measured_tables(with_chance(results))
    ]


def _list_notes(table: Table) -> list[str]:
    """The std over lists or trials of the first row, which is no error of its mean."""
    name, row = next(iter(table.rows.items()))
    stds = [
        f"{column.header} {cell.list_std:.{column.digits}f}"
        for column in table.columns
        if (cell := row.get(column.key)) and cell.list_std is not None
    ]
    over = "trials" if table.name == "alignment" else "lists"
    return [f"std over the {over} of one seed of {name} (no error of the mean): {', '.join(stds)}"] if stds else []


def evaluation_table(result: Mapping[str, Any]) -> str:
    """Plain text of one evaluation (`{"ordinality": ..., "alignment": ...}`) or of several by name (seeds, methods)."""
    results = {"evaluation": result} if TABLES.keys() & result.keys() else result
    tables: list[Listing] = [*evaluation_tables(results)]
    field = FieldTable(results)
    if field.methods:
        tables.append(field)
    return "\n\n".join(map(table_text, tables))
