"""The trials of a sweep as a table: ranked, for people and for files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline.csv_text import csv_text
from pipeline.sweeps.study import Study, results_of

Row = dict[str, Any]
FIGURES = ("score", "aoc", "voc", "dev_loss", "epoch", "steps", "seconds")
SHOWN, LEADING = 10, 5  # rows of the table at the end, and of a leaderboard on the way


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
        *("| " + " | ".join([*(_cell(row[key]) for key in keys), *_varied(row, names)]) + " |" for row in rows[:SHOWN]),
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
    told = results_of(trial)
    reports = dict(sorted(trial.intermediate_values.items()))
    last = max(reports, default=None)
    score = trial.value if trial.state == TrialState.COMPLETE else None if last is None else reports[last]
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "rung": told.get("rung", last),
        "score": score,
        **{name: told.get(name) for name in FIGURES[1:]},
        "rungs": {str(rung): score for rung, score in reports.items()},
        "params": dict(trial.params),
    }


def _varied(row: Row, names: Sequence[str]) -> list[str]:
    return [_cell(row["params"].get(name, "")) for name in names]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
