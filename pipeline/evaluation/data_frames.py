"""Results as dicts that know their tables: pandas DataFrames, a row a method and measure (extra `pandas`).

    evaluate("runs/erc").table()
    summary, _ = compare("stores/mine", out="runs/comparison")
    summary.table().pivot(index="method", columns="measure", values="mean")
    summary.pairs().query("p_corrected < .05")

Figures are those of the JSON, in full precision; NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import required_library
from pipeline.evaluation.measures import FIELD_TESTS, measure_names
from pipeline.evaluation.significance import mean_interval
from pipeline.evaluation.tables import evaluation_tables

if TYPE_CHECKING:
    from pandas import DataFrame

_OF_A_CELL = ("mean", "std", "low", "high", "seeds")
_OF_SPEAKERS = ("speakers_low", "speakers_high")
_OF_FOLDS = ("mean", "fold_std", "seed_std", "low", "high", "seeds_low", "seeds_high")
_HEAD = ("test", "method", "measure", "name")
_LOWER = ("median_rank",)  # how the retrieval measures end of which less is better
_PAIR = ("method", "other", "difference", "low", "high", "p", "p_corrected")


class EvaluationResult(dict[str, Any]):
    """What `evaluate` returned."""

    def table(self) -> DataFrame:
        """A row a measure: its mean and std over seeds, Student's 95 % interval of the mean, and chance.

        `speakers_low` and `speakers_high` hold 95 % of the resamples of speakers. Raises UsageError without pandas.
        """
        tables = {table.name: table.as_json() for table in evaluation_tables({self["method"]: self})}
        rows = [row for row in _rows(tables) if row["method"] != "chance"]
        rows += [row for test in FIELD_TESTS for row in _field_rows(self["method"], test, self[test])]
        return data_frame(rows, [*_HEAD, *_OF_A_CELL, *_OF_SPEAKERS, "chance", "better"])


class ComparisonResult(dict[str, Any]):
    """What `compare` or `cross_validate` returned; or their JSON: `ComparisonResult(json.loads(text))`."""

    def table(self) -> DataFrame:
        """A row a method and measure, the reference rows included, with the columns of `EvaluationResult.table`.

        In folds `low` and `high` are of the mean on other speech, `seeds_low` and `seeds_high` of other trainings.
        Raises UsageError without pandas.
        """
        spreads = _OF_FOLDS if "folds" in self else (*_OF_A_CELL, *_OF_SPEAKERS)
        return data_frame(list(_rows(self["tables"])), [*_HEAD, *spreads, "chance", "better"])

    def pairs(self) -> DataFrame:
        """A row a test of two methods: `method` less `other`, its 95 % interval, p, and p by Holm over all pairs.

        `over` is what was drawn anew: seeds, speakers or folds. Raises UsageError without pandas.
        """
        rows = [
            {"test": name, "measure": measure, "over": over, **pair, "p_corrected": pair["corrected"]}
            for name, table in self["tables"].items()
            for measure, units in table["tests"].items()
            for over, pairs in units.items()
            for pair in pairs
        ]
        return data_frame(rows, ["test", "measure", "over", *_PAIR])


class SweepResult(dict[str, Any]):
    """What `sweep` returned."""

    def table(self) -> DataFrame:
        """A row a trial, the best first: its state, scores and settings. Raises UsageError without pandas."""
        trials = [{**trial, **trial["params"]} for trial in self["trials"]]
        columns = dict.fromkeys(name for trial in trials for name in trial if name not in ("rungs", "params"))
        return data_frame(trials, list(columns))


def data_frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> DataFrame:
    """A DataFrame of `columns`. Raises UsageError where pandas is not installed."""
    return required_library("pandas", "pandas", "a table in Python").DataFrame(rows, columns=list(columns))


def _rows(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of `Table.as_json` by name."""
    for test, table in tables.items():
        chance = table["rows"].get("chance", {})
        for method, row in table["rows"].items():
            for measure, cell in row.items():
                about = {"test": test, "method": method, "measure": measure, **table["measures"][measure]}
                yield {**cell, **about, "chance": chance.get(measure, {}).get("mean")}


def _field_rows(method: str, test: str, measures: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of one of `FIELD_TESTS` of an evaluation."""
    names = measure_names()
    for measure, entry in measures.items():
        values = entry["seed_values"]
        low, high = mean_interval(values) if len(values) > 1 else (None, None)
        yield {
            "test": test,
            "method": method,
            "measure": measure,
            "name": names.get(measure, measure.replace("_", " ")),
            "mean": entry["mean"],
            "std": entry["std"] if len(values) > 1 else None,
            "low": low,
            "high": high,
            "seeds": len(values),
            "chance": entry.get("chance"),
            "better": "lower" if measure.endswith(_LOWER) else "higher",
        }
