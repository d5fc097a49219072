"""The report of a sweep: OUT/report.html, and its figures with their data in OUT/report.

sweep(stores, "methods", out="sweeps/first")         # writes it; report=False does not
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cache.fingerprint import leaves
from cache.stores import Stores
from pipeline.core.config import TrainConfig
from pipeline.core.errors import StoreCorrupt
from pipeline.evaluation.report import curves
from pipeline.evaluation.report.drawing import Figure
from pipeline.evaluation.report.page import (
    Section,
    command_html,
    facts_html,
    notes_list,
    table_html,
    unless_damaged,
    write_page,
)
from pipeline.experiments.sweeps.bracket import bracket_folders, read_bracket, read_history
from pipeline.experiments.sweeps.figures import (
    FEWEST,
    Row,
    dimensions,
    halving,
    importance,
    parallel_coordinates,
    score_name,
    scored,
)
from pipeline.experiments.sweeps.figures import HALVING_NAME as HALVING
from pipeline.experiments.sweeps.figures import IMPORTANCE_NAME as IMPORTANCE
from pipeline.experiments.sweeps.figures import NAME as DIMENSIONS
from pipeline.experiments.sweeps.figures import PARALLEL_NAME as PARALLEL
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.study import Study, importances
from pipeline.experiments.sweeps.tables import Leaderboard, row_values, tally

log = logging.getLogger(__name__)

NAMES = (PARALLEL, DIMENSIONS, IMPORTANCE, HALVING, curves.NAME)
CURVES = 7  # trials whose curves are told apart
_LUCK = (
    "It is the best of many, by one score on the development split: part of its lead is luck. Train it with other "
    "seeds and evaluate that on the test split before a number goes anywhere."
)


@dataclass(frozen=True)
class _Swept:
    """What the sections are made from."""

    out: Path
    study: Study
    rows: Sequence[Row]
    stores: Stores
    best: TrainConfig | None

    @property
    def space(self) -> Space:
        return self.study.space

    @cached_property
    def brackets(self) -> dict[int, int]:
        """The first trial of each trial's bracket, of those in this folder."""
        found = [list(read_bracket(folder)[0].entries) for folder in bracket_folders(self.out)]
        return {number: min(numbers) for numbers in found for number in numbers}


def sweep_report(out: Path, study: Study, rows: Sequence[Row], stores: Stores, best: TrainConfig | None) -> Path:
    """Write the page of `rows` (`rows_of(study)`), of which the first was trained as `best`; returns its path.

    The caller holds `out` for writing. Brackets of other folders on one database are not looked for.
    """
    of = _Swept(out, study, rows, stores, best)
    path, config = out / "report.html", study.space.config
    lede = f"{tally(rows)}; {', '.join(of.space.dimensions)}, drawn by {config.sampler}; {stores.folder}"
    write_page(f"Sweep {config.name}", lede, list(_sections(of)), path, NAMES)
    log.info(f"report: {path}")
    return path


def winners_command(stores: Stores, out: Path) -> str:
    """What trains the best trial's settings again."""
    return shlex.join(["train-heads", str(stores.folder), str(out / "best.yaml")])


def _sections(of: _Swept) -> Iterator[Section]:
    if of.best is not None:
        yield Section("The best settings", _winner(of, of.rows[0]))
    yield Section("Leaderboard", table_html(Leaderboard(of.space, of.rows)))
    if scored(of.rows):
        yield from _figures(of)
    yield Section("Settings and fingerprints", _foot(of))


def _figures(of: _Swept) -> Iterator[Section]:
    if of.space.config.halving:
        yield Section("How halving went", figures=[halving(of.space, of.rows, of.brackets)])
    settings = [parallel_coordinates(of.space, of.rows), dimensions(of.space, of.rows)]
    scores = {row["number"]: score for row, score in scored(of.rows)}
    weights = importances(of.study, scores) if len(scores) >= FEWEST else {}
    note = "" if weights else notes_list([f"Importance: fewer than {FEWEST} trials with a score; no figure."])
    if not weights:
        log.info(f"importance: fewer than {FEWEST} trials with a score; no figure")
    bars = [importance(of.space, weights, len(scores))] if weights else []
    yield Section(f"Settings and {score_name(of.space)}", note, [*settings, *bars])
    yield unless_damaged("Training of the best trials", lambda: _curves(of))


def _winner(of: _Swept, row: Row) -> str:
    score = of.space.config.score
    parts = [("AOC", "aoc"), ("VOC", "voc"), ("development loss", "dev_loss"), ("epoch kept, of each seed", "epoch")]
    figures = [(name, row_values(row[key])) for name, key in parts if row[key] is not None]
    point = [(name, row_values(value)) for name, value in row["params"].items()]
    facts = facts_html([("trial", row["number"]), (f"{score} on dev", row_values(row["score"])), *figures, *point])
    return f"{facts}\n{command_html('train-best', winners_command(of.stores, of.out))}\n{notes_list([_LUCK])}"


def _curves(of: _Swept) -> Figure | None:
    """Of the best trials that have ended an epoch, all seeds; raises StoreCorrupt where they cannot be read."""
    found = _histories(of)
    best = [row for row in of.rows if any(number == row["number"] for number, _ in found)][:CURVES]
    chosen = {row["number"]: {seed: lines for (n, seed), lines in found.items() if n == row["number"]} for row in best}
    if not best:
        return None  # their brackets are in another folder, or under way
    return Figure(
        curves.NAME,
        f"The best {len(best)} trials that ended an epoch",
        "Left: the training loss (dashed) and the development loss (solid) of every seed; a ring marks the epoch of "
        "lowest development loss, whose heads count. Losses of other objectives or batch sizes are not comparable. "
        "Right: the temperature.",
        ("trial", "seed", "epoch", *curves.MEASURES, "kept"),
        [
            (number, seed, line["epoch"], *(line[name] for name in curves.MEASURES), line["epoch"] == _lowest(lines))
            for number, seeds in chosen.items()
            for seed, lines in sorted(seeds.items())
            for line in lines
        ],
        lambda figure: curves.draw_curves(
            figure,
            {
                f"trial {number}": [(lines, _lowest(lines)) for lines in seeds.values()]
                for number, seeds in chosen.items()
            },
        ),
        (10.0, 3.8),
    )


def _lowest(lines: Sequence[curves.Line]) -> int:
    """The epoch of lowest development loss, the first of equals."""
    return int(min(lines, key=lambda line: line["dev_loss"])["epoch"])


def _histories(of: _Swept) -> dict[tuple[int, int], list[curves.Line]]:
    """The epochs of every trial and seed that ended one, of the brackets in this folder that are done."""
    found: dict[tuple[int, int], list[curves.Line]] = {}
    for folder in bracket_folders(of.out):
        try:
            found |= {key: curves.checked(lines) for key, lines in read_history(folder).items() if lines}
        except (KeyError, TypeError, ValueError, OverflowError):
            what = f"an epoch without {', '.join(curves.MEASURES)}"
            raise StoreCorrupt(folder / "bracket.json", what, "all of them", "Nothing else needs it.") from None
    return found


def _foot(of: _Swept) -> str:
    conventions = [
        "trials are ranked on the development split; nothing of the test split is read",
        "at a rung the present heads are asked 14 lists a test, at the end the heads of the epoch of lowest "
        "development loss all 100: scores of different rungs are not comparable",
        f"{sum(row['seconds'] or 0 for row in of.rows):.0f} s of training in all; those side by side share them evenly",
    ]
    return notes_list(conventions) + facts_html(_facts(of))


def _facts(of: _Swept) -> Iterator[tuple[str, object]]:
    origin: Mapping[str, Any] = of.study.origin
    yield "stores", of.stores.folder
    yield "data", origin["data"]
    yield from leaves(of.space.config.model_dump(mode="json"), "sweep.")
    if of.best is not None:
        yield from leaves(of.best.model_dump(mode="json"), "best trial: training.")
    yield from leaves(origin["stores"], "fingerprint.")
