"""Many configurations in one go: drawn by Optuna, trained side by side, the worst stopped rung by rung.

    sweep-heads stores/msp --out sweeps/first
    sweep-heads stores/msp mine.yaml --trials 81 --out sweeps/mine

Trials are ranked on the development split; no row of the test split is read. The same command again resumes the
sweep, and several processes may work on one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cache.disk import remove, remove_tree, translate_os_errors, write_text, writer_lock
from cache.stores import Stores, open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import dump
from pipeline.core.errors import EmotionRankError, StoreLocked, StoreMismatch, UsageError
from pipeline.core.progress import interruptible
from pipeline.core.resources import choose_threads, cores, pick_device, threads_restored, use_threads
from pipeline.evaluation.data_frames import SweepResult
from pipeline.experiments.compare import without_inputs
from pipeline.experiments.sweeps.bracket import (
    FOLDER,
    Bracket,
    BracketTrial,
    bracket_folders,
    bracket_size,
    read_bracket,
    take_unfinished,
)
from pipeline.experiments.sweeps.config import SweepConfig, list_layers, load_sweep
from pipeline.experiments.sweeps.data_pool import TrainingDataPool
from pipeline.experiments.sweeps.report import sweep_report, train_best_command
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.study import JOURNAL, STORAGE_ERRORS, Study, open_study, true_cause
from pipeline.experiments.sweeps.successive_halving import DevOrdinality, SuccessiveHalving
from pipeline.experiments.sweeps.tables import Row, as_csv, as_json, markdown, rows_of, tied_with
from pipeline.training.fused_step import FusedStack
from pipeline.training.train import missing_inputs
from pipeline.training.training_data import data_digest, epoch_batches, epoch_rng

log = logging.getLogger(__name__)

SLOTS = {"cpu": 32, "cuda": 128}  # heads side by side at most
_LOCK_POLL_SECONDS = 0.02
_FILES = ("report.html", "trials.csv", "sweep.json", "best.yaml", "sweep.yaml", JOURNAL)


def sweep(
    stores: Stores | str | Path,
    config: SweepConfig | str | Path | None = None,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    storage: str | None = None,
    device: str = "auto",
    fresh: bool = False,
    report: bool = True,
) -> tuple[SweepResult, str]:
    """Train the trials of a sweep that are left and write `out`; returns them as data, and the best as Markdown.

        result, text = sweep("stores/mine", "methods", trials=27, out="sweeps/methods")

    `config` is a preset of configs/sweeps or a YAML path, changed by `overrides` and `trials`, or a `SweepConfig` as it
    is; `storage` a URL that Optuna knows, in place of a journal in `out`. Raises UsageError, StoreMismatch (another
    sweep of this name), StoreLocked, Interrupted. `report` writes the page OUT/report.html as well.
    """
    stores, out = stores if isinstance(stores, Stores) else open_stores(stores), Path(out)
    source = "" if isinstance(config, SweepConfig) else str(config or "")
    config = config if isinstance(config, SweepConfig) else load_sweep(config, overrides, trials)
    space = Space(list_layers(config, stores), source)
    if config.halving and not space.config.halving:
        log.info("small grid, no halving: every trial trains to its end")
    log.info(f"sweep {config.name}: {space.trials} trials of {', '.join(space.dimensions)} by {config.sampler}")
    for training in space.checked_trainings():
        if missing := missing_inputs(stores, training):
            raise without_inputs(stores, training.method, training, missing)
    with translate_os_errors(out), interruptible(out) as check, threads_restored():
        try:
            worker = _Worker(space, stores, out, pick_device(device), check)
            study = worker.open_study(storage, fresh=fresh)
            while True:
                with ExitStack() as held:
                    bracket = worker.next_bracket(study, held)
                    if bracket is None:
                        break
                    worker.train(bracket, study)
            for number, home in study.elsewhere().items():
                log.info(f"trial {number} is still being trained by a worker in {home or 'an unknown folder'}")
            with _locked(out, check):
                return write_results(study, stores, out, report=report)
        except STORAGE_ERRORS as error:
            found = f"the storage failed ({true_cause(error)})"
            raise EmotionRankError(
                out, found, "a storage that answers", "Run it again when it does: the sweep resumes."
            ) from None


class _Worker:
    """One process's part in a sweep."""

    def __init__(
        self, space: Space, stores: Stores, out: Path, device: torch.device, check: Callable[[], None]
    ) -> None:
        self.space, self.stores, self.out, self.check = space, stores, out, check
        self.pool, self.cpu = TrainingDataPool(stores, device), device.type == "cpu"
        self.slots = SLOTS.get(device.type, 1) if self.config.slots == "auto" else self.config.slots
        self.ordinality = DevOrdinality(stores, device) if self.config.score == "ordinality" else None
        self.reference = next(space.checked_trainings())

    @property
    def config(self) -> SweepConfig:
        return self.space.config

    def open_study(self, storage: str | None, *, fresh: bool) -> Study:
        """The study of the sweep, and sweep.yaml. Raises StoreMismatch, StoreCorrupt, UsageError, StoreLocked."""
        data = self.pool.get(self.reference)
        origin = {
            "stores": self.stores.fingerprint(),
            "data": data_digest(self.stores, data, self.space.checked_trainings()),
        }
        with _locked(self.out, self.check):
            if fresh:
                _remove_sweep(self.out)
            study = open_study(self.space, self.out, storage, origin, fresh=fresh)
            write_text(self.out / "sweep.yaml", dump(self.config))
        study.check = self.check
        return study

    def next_bracket(self, study: Study, held: ExitStack) -> Bracket | None:
        """An unfinished bracket that no process works on, else a new one, locked in `held`; None when all is done."""
        bracket = take_unfinished(self.out, held)
        if bracket:
            self._check_bracket(bracket, study)
            log.info(f"resuming {bracket}")
            return bracket
        if study.full:
            return None
        threads = self._threads
        with _locked(self.out, self.check):
            trials = self._new_trials(study, threads)
            if not trials:
                return None
            folder = self.out / FOLDER / f"{trials[0].number:06d}"
            held.enter_context(writer_lock(folder))
            bracket = Bracket(folder, trials, threads, self.slots)
            bracket.write()
        return bracket

    def _new_trials(self, study: Study, threads: int) -> list[BracketTrial]:
        """The trials of a new bracket; none where the study has enough. Points that make no training fail at once."""
        known = {number for folder in bracket_folders(self.out) for number in read_bracket(folder).trials}
        size = bracket_size(self.config.halving, max(1, self.slots // self.config.repeats))
        trials: list[BracketTrial] = []
        while not trials:
            requests = study.ask(size, known)
            if not requests:
                break
            for request in requests:
                try:
                    config = self._training(request.params, threads)
                except UsageError as error:  # settings that exclude each other
                    log.warning(f"trial {request.number} cannot be trained: {error}")
                    study.tell(request, "fail", {})
                    continue
                trials.append(BracketTrial(**dict(request), config=config))
        return trials

    def _training(self, params: Mapping[str, Any], threads: int) -> TrainConfig:
        config = self.space.resolve_training(params)
        if config.min_steps:
            config = config.with_min_steps(len(self.pool.get(config).pairs))
        return config.model_copy(update={"threads": threads}) if threads else config

    def _check_bracket(self, bracket: Bracket, study: Study) -> None:
        """Raises StoreMismatch where it is not of this study, or its configs are not those of its points."""
        if not all(study.knows(trial) for trial in bracket.trials.values()):
            found, action = "trials that the study does not have", "Pass the --storage that has them, or use --fresh."
            raise StoreMismatch(bracket.folder, found, "those of this --storage", action)
        for trial in bracket.trials.values():
            if trial.config != self._training(trial.params, bracket.threads):
                found = f"other settings for trial {trial.number} than its point means"
                raise StoreMismatch(bracket.folder, found, "this sweep's", "Restore bracket.json, or use --fresh.")

    @cached_property
    def _threads(self) -> int:
        """The config's thread count, else every core for fused steps, else the fastest, measured once; 0 on a GPU."""
        if not self.cpu:
            return 0
        if self.reference.threads != "auto":
            return self.reference.threads
        data = self.pool.get(self.reference)
        count = min(self.slots, bracket_size(self.config.halving, self.slots), self.space.trials)
        batched = self.pool.batched_heads(data, [(self.reference, seed) for seed in range(count)])
        if isinstance(batched, FusedStack):
            return cores()  # configurations that each have one wait for no other: a busy neighbour slows but one
        batches = next(epoch_batches(data.pairs, data.batch_size, epoch_rng(-1, 0), batched.objectives))
        return choose_threads(lambda: data.step(batched, batches, 0))

    def train(self, bracket: Bracket, study: Study) -> None:
        """Train `bracket` to its end."""
        if self.cpu and bracket.threads:
            use_threads(bracket.threads)
        SuccessiveHalving(self.config, study, self.pool, self.ordinality, bracket).run()


def write_results(study: Study, stores: Stores, out: Path, *, report: bool) -> tuple[SweepResult, str]:
    """Write the tables of all workers' trials as they are now, best.yaml, and the report; returns data and Markdown.

    The caller holds `out` for writing. Raises EmotionRankError where every trial failed.
    """
    space, names = study.space, list(study.space.dimensions)
    rows = rows_of(study.trials(), maximise=space.config.maximise)
    about = {"sweep": space.config.name, "stores": str(stores.folder), "score": space.config.score}
    write_text(out / "trials.csv", as_csv(rows, names))
    write_text(out / "sweep.json", as_json(rows, about))
    if not any(row["state"] in ("complete", "running") for row in rows):
        action = "Check the values of learning_rate and temperature."
        raise EmotionRankError(out, "every trial failed", "at least one that completes", action)
    best = next((row for row in rows if row["state"] == "complete"), None)
    config = _config_of(best, out, space) if best else None
    if config:
        write_text(out / "best.yaml", dump(config))
    if report:
        sweep_report(out, study, rows, stores, config)
    text = markdown(rows, names, space.config.score)
    if best:
        if tied := tied_with(best, rows):
            text += (
                f"\n\nTie: trials {', '.join(map(str, tied))} have the score of trial {best['number']}, the earliest."
            )
        text += f"\n\nbest: trial {best['number']}; {train_best_command(stores, out)}"
    return SweepResult(about, out=str(out), best=best, trials=rows), text


def _config_of(row: Row, out: Path, space: Space) -> TrainConfig:
    """The config that a trial was trained with: as its bracket has it, else, trained on another disk, its point's."""
    for folder in bracket_folders(out):
        trials = read_bracket(folder).trials
        if row["number"] in trials:
            return trials[row["number"]].config
    return space.resolve_training(row["params"])


def _remove_sweep(out: Path) -> None:
    """Raises StoreLocked where another process trains one of its brackets."""
    for folder in bracket_folders(out):
        with writer_lock(folder):
            pass
    remove_tree(out / FOLDER)
    remove_tree(out / "report")
    for name in _FILES:
        remove(out / name)


def _locked(out: Path, check: Callable[[], None]) -> ExitStack:
    """Wait for the folder, held until the stack is left: workers ask for trials and write tables one at a time."""
    held = ExitStack()
    while True:
        try:
            held.enter_context(writer_lock(out))
            return held
        except StoreLocked:
            check()
            time.sleep(_LOCK_POLL_SECONDS)
