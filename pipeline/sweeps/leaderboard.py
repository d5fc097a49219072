"""The best trials of a sweep as a table, to look at and to copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cache.errors import on_one_line
from pipeline.sweeps.axes import Row, highest
from pipeline.sweeps.rungs import last_rung
from pipeline.sweeps.space import Space

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
        figures = [text_of(row[key], exact=key in _TAUS) for key in self._figures]
        score = text_of(row["score"], exact=highest(self.space))
        return [str(row["number"]), self._reached(row), marked(score), *figures, *map(text_of, values)]

    def _reached(self, row: Row) -> str:
        if row["state"] == "pruned":
            return f"rung {row['rung']} of {last_rung(self.space.config.halving) - 1}"
        return _REACHED.get(row["state"], "-")


def text_of(value: Any, *, exact: bool = False) -> str:
    """A figure or a setting in a cell; `exact` ones have four decimals, as taus do."""
    if value is None:
        return "-"
    if exact:
        return f"{value:.4f}"
    return f"{value:.4g}" if isinstance(value, float) else on_one_line(str(value))
