"""The best trials of a sweep as a table, to look at and to copy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from cache.errors import one_line
from pipeline.core.files import csv_text
from pipeline.experiments.sweeps.bracket import last_rung
from pipeline.experiments.sweeps.figures import Row, highest
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.study import Study, results_of

SHOWN = 20
_TAUS = ("aoc", "voc")
_REACHED = {"complete": "the end", "fail": "failed", "running": "still training"}
_FIGURES = {"aoc": "AOC", "voc": "VOC", "dev_loss": "dev loss", "epoch": "epoch", "steps": "steps"}


@dataclass(frozen=True)
class Leaderboard:
    """The first `SHOWN` of `rows`, which are ranked (`sweeps.trials.rows_of`); an `evaluation.rendering.Listing`."""

    space: Space
    rows: Sequence[Row]
    name: str = "leaderboard"

    @property
    def title(self) -> str:
        least = min(SHOWN, len(self.rows))
        return f"The best {least} of {len(self.rows)} trials" if least < len(self.rows) else f"All {least} trials"

    @property
    def notes(self) -> Sequence[str]:
        ranked = "those that reached the end by their score, then those that were stopped, the later the better"
        halved = [f"order: {ranked}; scores of different rungs are not comparable"] * bool(self.space.config.halving)
        return (*halved, "all of them: trials.csv", "epoch: the one kept, of each seed; dev loss: its loss")

    @property
    def _figures(self) -> list[str]:
        return [key for key in _FIGURES if any(row[key] is not None for row in self.rows[:SHOWN])]

    def headers(self) -> list[str]:
        score = f"{self.space.config.score} {'↑' if highest(self.space) else '↓'}"
        return ["trial", "reached", score, *(_FIGURES[key] for key in self._figures), *self.space.dimensions]

    def cells(self, bold: Callable[[str], str]) -> list[list[str]]:
        """A row's texts; the best trial's score in `bold`."""
        return [self._row(row, bold if row["state"] == "complete" and not place else str)
                for place, row in enumerate(self.rows[:SHOWN])]  # fmt: skip

    def _row(self, row: Row, marked: Callable[[str], str]) -> list[str]:
        values = [row["params"].get(name, "-") for name in self.space.dimensions]
        figures = [row_values(row[key], exact=key in _TAUS) for key in self._figures]
        score = row_values(row["score"], exact=highest(self.space))
        return [str(row["number"]), self._reached(row), marked(score), *figures, *map(row_values, values)]

    def _reached(self, row: Row) -> str:
        if row["state"] == "pruned":
            return f"rung {row['rung']} of {last_rung(self.space.config.halving) - 1}"
        return _REACHED.get(row["state"], "-")


def row_values(value: Any, *, exact: bool = False) -> str:
    """A figure or a setting in a cell; `exact` ones have four decimals, as taus do."""
    if value is None:
        return "-"
    if exact:
        return f"{value:.4f}"
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value))


FIGURES = ("score", "aoc", "voc", "dev_loss", "epoch", "steps", "seconds")
TRIALS_SHOWN, LEADING = 10, 5  # rows of the table at the end, and of a leaderboard on the way


def rows_of(study: Study) -> list[Row]:
    """Every trial of every worker, the best first.

    Those that reached the end by their score, then those that were stopped, the later the better: scores of different
    rungs are not compared. `rungs` are the scores on the way.
    """
    highest = study.space.config.score == "ordinality"
    rows = [_row(trial) for trial in study.trials()]
    order = {"complete": 0, "pruned": 1, "running": 2, "fail": 3, "waiting": 4}

    def rank(row: Row) -> tuple[float, ...]:
        score = row["score"] if row["score"] is not None else 0.0
        return order[row["state"]], -(row["rung"] or 0), -score if highest else score, row["number"]

    return sorted(rows, key=rank)


def markdown(rows: Sequence[Row], names: Sequence[str], score: str) -> str:
    """The top of the table."""
    heads = ["trial", "state", score, "AOC", "VOC", "dev loss", "epoch", "steps", *names]
    keys = ("number", "state", "score", "aoc", "voc", "dev_loss", "epoch", "steps")
    lines = [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *(
            "| " + " | ".join([*(_cell(row[key]) for key in keys), *_varied(row, names)]) + " |"
            for row in rows[:TRIALS_SHOWN]
        ),
    ]
    return "\n".join([*lines, "", f"{tally(rows)}."])


def tally(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many trials, and how many of each state."""
    counts = Counter(row["state"] for row in rows)
    return f"{len(rows)} trials: " + ", ".join(f"{count} {_STATES[state]}" for state, count in counts.items())


def leaderboard(scores: Mapping[int, float], params: Mapping[int, Mapping[str, Any]], *, highest: bool) -> list[str]:
    """The best few of a rung, a line each."""
    ranked = sorted(scores, key=lambda number: (-scores[number] if highest else scores[number], number))
    return [
        f"  trial {number:>4}  {scores[number]:.4f}  " + " ".join(f"{k}={_cell(v)}" for k, v in params[number].items())
        for number in ranked[:LEADING]
    ]


def as_csv(rows: Iterable[Row], names: Sequence[str]) -> str:
    """A line a trial: its figures, then its point; empty where there is none."""
    keys = ("number", "state", "rung", *FIGURES)
    return csv_text(
        [*keys, *names],
        ([*(row[key] for key in keys), *(row["params"].get(name) for name in names)] for row in rows),
    )


def as_json(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    return json.dumps({**about, "trials": rows}, indent=1, allow_nan=False) + "\n"


_STATES = {
    "complete": "trained to the end", "pruned": "stopped at a rung", "fail": "failed", "running": "still training",
    "waiting": "waiting",
}  # fmt: skip


def _row(trial: FrozenTrial) -> Row:
    results = results_of(trial)
    reports = dict(sorted(trial.intermediate_values.items()))
    last = max(reports, default=None)
    score = trial.value if trial.state == TrialState.COMPLETE else None if last is None else reports[last]
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "rung": results.get("rung", last),
        "score": score,
        **{name: results.get(name) for name in FIGURES[1:]},
        "rungs": {str(rung): score for rung, score in reports.items()},
        "params": dict(trial.params),
    }


def _varied(row: Row, names: Sequence[str]) -> list[str]:
    return [_cell(row["params"].get(name, "")) for name in names]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
