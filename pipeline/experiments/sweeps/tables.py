"""The trials of a sweep as tables: trials.csv, sweep.json, Markdown for a terminal, the leaderboard of the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cache.errors import one_line
from pipeline.core.files import csv_text
from pipeline.evaluation.table_formats import Bold, TextTable
from pipeline.experiments.sweeps.bracket import TrialRequest, last_rung, ranked
from pipeline.experiments.sweeps.space import Space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RESULT = "result"  # the attribute of a trial that holds what was reported of it
Row = Mapping[str, Any]  # a trial: number, state, rung, MEASURES, rungs (scores on the way), params
MEASURES = ("score", "aoc", "voc", "dev_loss", "epoch", "steps", "seconds")
LOGGED, PRINTED, SHOWN = 5, 10, 20  # trials of a rung in the log, in the Markdown table, in the report
_HEADERS = {"aoc": "AOC", "voc": "VOC", "dev_loss": "dev loss", "epoch": "epoch", "steps": "steps"}
STATES = {
    "complete": "trained to the end",
    "pruned": "stopped at a rung",
    "running": "still training",
    "fail": "failed",
    "waiting": "waiting",
}  # in the order of the ranking


def result_of(trial: FrozenTrial) -> dict[str, Any]:
    """What was reported of a trial beside its score."""
    return dict(trial.user_attrs.get(RESULT, {}))


def rows_of(trials: Iterable[FrozenTrial], *, maximise: bool) -> list[Row]:
    """`trials` as rows, the best first.

    Those that reached the end by their score, then those that were stopped, the later the better: scores of different
    rungs are not compared.
    """
    order = list(STATES)

    def rank(row: Row) -> tuple[float, ...]:
        score = row["score"] if row["score"] is not None else 0.0
        return order.index(row["state"]), -(row["rung"] or 0), -score if maximise else score, row["number"]

    return sorted(map(_row, trials), key=rank)


def _row(trial: FrozenTrial) -> Row:
    result, state = result_of(trial), trial.state.name.lower()
    rungs = dict(sorted(trial.intermediate_values.items()))
    last, score = list(rungs.items())[-1] if rungs else (None, None)
    return {
        "number": trial.number,
        "state": state,
        "rung": result.get("rung", last),
        "score": trial.value if state == "complete" else score,
        **{name: result.get(name) for name in MEASURES[1:]},
        "rungs": {str(rung): at_rung for rung, at_rung in rungs.items()},
        "params": dict(trial.params),
    }


def tied_with(best: Row, rows: Sequence[Row]) -> list[int]:
    """The trials that reached the end, too, with the score of `best`."""
    return [row["number"] for row in rows if row["state"] == "complete" and row["score"] == best["score"]][1:]


def as_csv(rows: Iterable[Row], names: Sequence[str]) -> str:
    """A line a trial: its measures, then its point; empty where there is none."""
    keys = ("number", "state", "rung", *MEASURES)
    lines = ([*(row[key] for key in keys), *(row["params"].get(name) for name in names)] for row in rows)
    return csv_text([*keys, *names], lines)


def as_json(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """sweep.json: `about` and every trial."""
    return json.dumps({**about, "trials": rows}, indent=1, allow_nan=False) + "\n"


def markdown(rows: Sequence[Row], names: Sequence[str], score: str) -> str:
    """The best trials, and how many there are of each state."""
    lines = [["trial", "state", score, *_HEADERS.values(), *names]]
    for row in rows[:PRINTED]:
        measures = [row[key] for key in ("number", "state", "score", *_HEADERS)]
        lines.append([_cell(value) for value in (*measures, *(row["params"].get(name) for name in names))])
    table = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([table[0], "|" + "---|" * len(lines[0]), *table[1:], "", f"{tally(rows)}."])


def tally(rows: Sequence[Row]) -> str:
    """How many trials, and how many of each state."""
    counts = Counter(row["state"] for row in rows)
    return f"{len(rows)} trials: " + ", ".join(f"{count} {STATES[state]}" for state, count in counts.items())


def best_lines(scores: Mapping[int, float], trials: Mapping[int, TrialRequest], *, maximise: bool) -> list[str]:
    """The best trials of a rung, a line each."""
    return [
        f"  trial {number:>4}  {scores[number]:.4f}  "
        + " ".join(f"{name}={_cell(value)}" for name, value in trials[number].params.items())
        for number in ranked(scores, maximise=maximise)[:LOGGED]
    ]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()  # as -o takes it
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def format_cell(value: object, decimals: int | None = None) -> str:
    """A cell of the leaderboard: one line, "-" for None; with fixed decimals where they are given."""
    if value is None:
        return "-"
    return one_line(_cell(value)) if decimals is None else f"{value:.{decimals}f}"


def leaderboard(space: Space, rows: Sequence[Row]) -> TextTable:
    """The best of `rows` (`rows_of`); the best trial's score in bold."""
    config, count = space.config, len(rows)
    shown = rows[:SHOWN]
    measures = [key for key in _HEADERS if any(row[key] is not None for row in shown)]

    def cells(row: Row) -> list[str]:
        stopped = f"rung {row['rung']} of {last_rung(config.halving) - 1}"
        reached = {"complete": "the end", "pruned": stopped, "waiting": "-"}.get(row["state"], STATES[row["state"]])
        score = format_cell(row["score"], 4 if config.maximise else None)
        measured = [format_cell(row[key], 4 if key in ("aoc", "voc") else None) for key in measures]
        point = [format_cell(row["params"].get(name, "-")) for name in space.dimensions]
        return [str(row["number"]), reached, score, *measured, *point]

    lines = [cells(row) for row in shown]
    if lines and rows[0]["state"] == "complete":
        lines[0][2] = Bold(lines[0][2])
    order = "those that reached the end by their score, then those that were stopped, the later the better"
    halved = [f"order: {order}; scores of different rungs are not comparable"] if config.halving else []
    return TextTable(
        "leaderboard",
        f"The best {SHOWN} of {count} trials" if count > SHOWN else f"All {count} trials",
        [
            *("trial", "reached", f"{config.score} {'↑' if config.maximise else '↓'}"),
            *(_HEADERS[key] for key in measures),
            *space.dimensions,
        ],
        lines,
        (*halved, "all of them: trials.csv", "epoch: the one kept, of each seed; dev loss: its loss"),
    )
