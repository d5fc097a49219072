"""The report of a sweep: OUT/report.html, and its figures with their data in OUT/report.

sweep(stores, "methods", out="sweeps/first")         # writes it; report=False does not
"""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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
    settings_html,
    table_html,
    unless_damaged,
    write_page,
)
from pipeline.experiments.sweeps import figures
from pipeline.experiments.sweeps.bracket import PLAN, bracket_folders, read_bracket, read_history
from pipeline.experiments.sweeps.study import Study
from pipeline.experiments.sweeps.tables import Row, format_cell, leaderboard, tally

log = logging.getLogger(__name__)

NAMES = (figures.PARALLEL, figures.DIMENSIONS, figures.IMPORTANCE, figures.HALVING, curves.CURVES)
MIN_TRIALS = 4  # with a score, for a figure of importance
CURVES = 7  # trials: as many as there are colours
BEST_OF_MANY = (
    "It is the best of many, by one score on the development split: part of its lead is luck. Train it with other "
    "seeds and evaluate that on the test split before a number goes anywhere."
)


def sweep_report(out: Path, study: Study, rows: Sequence[Row], stores: Stores, best: TrainConfig | None) -> Path:
    """Write the page of `rows` (`rows_of(study.trials())`), of which the first was trained as `best`; returns its path.

    The caller holds `out` for writing. Brackets of other folders on one database are not looked for.
    """
    path, space = out / "report.html", study.space
    subtitle = f"{tally(rows)}; {', '.join(space.dimensions)}, drawn by {space.config.sampler}; {stores.folder}"
    sections = []
    if best is not None:
        sections.append(Section("The best settings", _best_settings(rows[0], study, train_best_command(stores, out))))
    sections.append(Section("Leaderboard", table_html(leaderboard(space, rows))))
    if figures.scored(rows):
        sections += _figures(out, study, rows)
    sections.append(Section("Settings and fingerprints", _settings(study, rows, stores, best)))
    write_page(f"Sweep {space.config.name}", subtitle, sections, path, NAMES)
    log.info(f"report: {path}")
    return path


def train_best_command(stores: Stores, out: Path) -> str:
    """The command that trains the best trial's settings again."""
    return shlex.join(["train-heads", str(stores.folder), str(out / "best.yaml")])


def _best_settings(row: Row, study: Study, command: str) -> str:
    named = {"AOC": "aoc", "VOC": "voc", "development loss": "dev_loss", "epoch kept, of each seed": "epoch"}
    facts = [
        ("trial", row["number"]),
        (f"{study.space.config.score} on dev", format_cell(row["score"])),
        *((name, format_cell(row[key])) for name, key in named.items() if row[key] is not None),
        *((name, format_cell(value)) for name, value in row["params"].items()),
    ]
    return f"{facts_html(facts)}\n{command_html('train-best', command)}\n{notes_list([BEST_OF_MANY])}"


def _figures(out: Path, study: Study, rows: Sequence[Row]) -> Iterator[Section]:
    space = study.space
    if space.config.halving:
        brackets = [list(read_bracket(folder).trials) for folder in bracket_folders(out)]
        first = {number: min(numbers) for numbers in brackets for number in numbers}
        yield Section("How halving went", "", [figures.halving_figure(space, rows, first)])
    drawn, note = [figures.parallel_coordinates_figure(space, rows), figures.dimensions_figure(space, rows)], ""
    if shares := importances(study, rows):
        drawn.append(figures.importance_figure(space, shares, len(figures.scored(rows))))
    else:
        few = f"fewer than {MIN_TRIALS} trials with a score; no figure"
        log.info(f"importance: {few}")
        note = notes_list([f"Importance: {few}."])
    yield Section(f"Settings and {figures.score_name(space)}", note, drawn)
    yield unless_damaged("Training of the best trials", lambda: _curves(out, rows))


def importances(study: Study, rows: Sequence[Row]) -> dict[str, float]:
    """Each dimension's share in what sets the best quarter of the trials apart, the largest first; {} of few trials.

    PED-ANOVA (2304.10255), by the score that all of them have.
    """
    import optuna  # where it is missing, `study` says so in a line

    scores = {row["number"]: score for row, score in figures.scored(rows)}
    if len(scores) < MIN_TRIALS:
        return {}
    compared = optuna.create_study(direction=study.space.config.direction)
    for trial in study.trials():
        if trial.number in scores:
            value = scores[trial.number]
            compared.add_trial(optuna.create_trial(params=trial.params, distributions=trial.distributions, value=value))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where few trials have a setting, a share of it is a guess: docs/sweeps.md
        shares = optuna.importance.get_param_importances(compared, evaluator=evaluator)
    return dict(sorted(shares.items(), key=lambda each: (-each[1], each[0])))


def _curves(out: Path, rows: Sequence[Row]) -> Figure | None:
    """Of the best trials that ended an epoch, all seeds; None where their brackets are elsewhere or under way.

    Raises StoreCorrupt where they cannot be read.
    """
    histories = _histories(out)
    best = [row["number"] for row in rows if row["number"] in histories][:CURVES]
    if not best:
        return None
    table = [
        (number, seed, line["epoch"], *(line[name] for name in curves.MEASURES), line["epoch"] == _kept(lines))
        for number in best
        for seed, lines in sorted(histories[number].items())
        for line in lines
    ]
    of_trials = {f"trial {n}": [(lines, _kept(lines)) for lines in histories[n].values()] for n in best}
    return Figure(
        curves.CURVES,
        f"The best {len(best)} trials that ended an epoch",
        "Left: the training loss (dashed) and the development loss (solid) of every seed; a ring marks the epoch of "
        "lowest development loss, whose heads count. Losses of other objectives or batch sizes are not comparable. "
        "Right: the temperature.",
        ("trial", "seed", "epoch", *curves.MEASURES, "kept"),
        table,
        lambda figure: curves.draw_curves(figure, of_trials),
        (10.0, 3.8),
    )


def _kept(lines: Sequence[curves.Line]) -> int:
    """The epoch of lowest development loss, the first of equals."""
    return int(min(lines, key=lambda line: line["dev_loss"])["epoch"])


def _histories(out: Path) -> dict[int, dict[int, list[curves.Line]]]:
    """The epochs of every trial and seed that ended one, of the brackets in this folder that are done."""
    histories: dict[int, dict[int, list[curves.Line]]] = {}
    for folder in bracket_folders(out):
        try:
            for (number, seed), lines in read_history(folder).items():
                if lines:
                    histories.setdefault(number, {})[seed] = curves.checked(lines)
        except (KeyError, TypeError, ValueError, OverflowError):
            found = f"an epoch without {', '.join(curves.MEASURES)}"
            action = "Ignore it: best.yaml is complete without it."
            raise StoreCorrupt(folder / PLAN, found, "all of them in each", action) from None
    return histories


def _settings(study: Study, rows: Sequence[Row], stores: Stores, best: TrainConfig | None) -> str:
    """The foot of the page: conventions, settings, fingerprints."""
    seconds = sum(row["seconds"] or 0 for row in rows)
    conventions = [
        "trials are ranked on the development split; nothing of the test split is read",
        "at a rung the present heads are measured on 14 lists a test, at the end the heads of the epoch of lowest "
        "development loss on all 100: scores of different rungs are not comparable",
        f"{seconds:.0f} s of training in all; those side by side share them evenly",
    ]
    origin: Mapping[str, dict[str, object]] = study.origin
    facts = [
        ("stores", stores.folder),
        ("data", origin["data"]),
        *leaves(study.space.config.model_dump(mode="json"), "sweep."),
        *(leaves(best.model_dump(mode="json"), "best trial: training.") if best else ()),
        *leaves(origin["stores"], "fingerprint."),
    ]
    return notes_list(conventions) + settings_html(facts)
