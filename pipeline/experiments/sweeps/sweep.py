"""Many configurations in one go: drawn by Optuna, trained side by side, halved rung by rung.

    sweep-heads stores/msp --out sweeps/first
    sweep-heads stores/msp mine.yaml --trials 81 --out sweeps/mine

Trials are ranked on the development split; no row of the test split is read. Doing it again goes on where it stopped,
and several processes may work on one sweep.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from cache.disk import remove, remove_tree, translate_os_errors, write_text
from cache.lock import writer_lock
from cache.stores import Stores, open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import dump
from pipeline.core.errors import EmotionRankError, StoreLocked, StoreMismatch, UsageError
from pipeline.core.progress import interruptible
from pipeline.core.resources import choose_threads, pick_device, threads_restored, use_threads
from pipeline.experiments.sweeps.bracket import (
    FOLDER,
    Bracket,
    Entry,
    bracket_folders,
    bracket_size,
    last_rung,
    read_bracket,
    unfinished,
)
from pipeline.experiments.sweeps.config import SweepConfig, load_sweep
from pipeline.experiments.sweeps.figures import Row
from pipeline.experiments.sweeps.report import sweep_report, winners_command
from pipeline.experiments.sweeps.score import DevOrdinality
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.study import JOURNAL, Asked, StorageFailed, Study, open_study
from pipeline.experiments.sweeps.successive_halving import Found, Race, TrainingDataPool
from pipeline.experiments.sweeps.tables import as_csv, as_json, leaderboard, markdown, rows_of
from pipeline.training.train import data_digest, missing_inputs
from pipeline.training.training_data import epoch_batches, epoch_rng

log = logging.getLogger(__name__)

SLOTS = {"cpu": 32, "cuda": 128}  # members of a stack at most
_FILES = ("report.html", "trials.csv", "sweep.json", "best.yaml", "sweep.yaml")


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
) -> tuple[dict[str, Any], str]:
    """Train the trials of a sweep that are left and write `out`; returns them as data, and the best as Markdown.

        result, text = sweep("stores/mine", "methods", trials=27, out="sweeps/methods")

    `config` is a preset of configs/sweeps or a YAML path, changed by `overrides` and `trials`, or a `SweepConfig` as it
    is; `storage` an URL that Optuna knows, in place of a journal in `out`. Raises UsageError, StoreMismatch (another
    sweep of this name), StoreLocked, Interrupted. `report` writes the page OUT/report.html as well.
    """
    stores, out = stores if isinstance(stores, Stores) else open_stores(stores), Path(out)
    config = config if isinstance(config, SweepConfig) else load_sweep(config, overrides, trials)
    space = Space(config)
    log.info(f"sweep {config.name}: {space.trials} trials of {', '.join(space.dimensions)} by {config.sampler}")
    for each in space.resolved():
        if lack := missing_inputs(stores, each):
            raise UsageError(
                stores.folder, f"stores without {lack}", "what every method trains on", "Extract them, or leave it out."
            )
    with translate_os_errors(out), interruptible(out) as check, threads_restored():
        try:
            worker = _Worker(space, stores, out, pick_device(device), check)
            return worker.work(storage, fresh=fresh, report=report)
        except StorageFailed as error:
            found = " ".join(str(error).split())[:160]
            raise EmotionRankError(
                out, f"the storage failed ({found})", "one that answers", "Start again when it does: it goes on."
            ) from None


class _Worker:
    """One process's part in a sweep."""

    def __init__(
        self, space: Space, stores: Stores, out: Path, device: torch.device, check: Callable[[], None]
    ) -> None:
        self.space, self.config, self.stores, self.out, self.check = space, space.config, stores, out, check
        self.materials, self.cpu = TrainingDataPool(stores, device), device.type == "cpu"
        self.slots = SLOTS.get(device.type, 1) if self.config.slots == "auto" else self.config.slots
        self.ordinality = DevOrdinality(stores, device) if self.config.score == "ordinality" else None

    def work(self, storage: str | None, *, fresh: bool, report: bool) -> tuple[dict[str, Any], str]:
        """Unfinished brackets that nobody holds, then new ones, until the study has its trials."""
        reference = next(self.space.resolved())
        study = self._begin(storage, reference, fresh=fresh)
        race = Race(self.config, study, self.materials, self.ordinality)
        threads = 0
        while True:
            with unfinished(self.out) as bracket:
                if bracket:
                    self._refuse_foreign(bracket, study)
                    log.info(f"going on with the bracket of trial {min(bracket.entries)}")
                    self._run(race, bracket)
                    continue
            if study.full:
                break
            threads = threads or self._threads(reference)
            with ExitStack() as held:
                bracket = self._new_bracket(study, threads, held)
                if bracket is None:
                    break
                self._run(race, bracket)
        return self._write(study, report=report)

    def _begin(self, storage: str | None, reference: TrainConfig, *, fresh: bool) -> Study:
        material = self.materials.of(reference)
        origin = {"stores": self.stores.fingerprint(), "data": data_digest(self.stores, material.pairs, material.dev)}
        with _alone(self.out, self.check):
            if fresh:
                _clear(self.out)
            study = open_study(self.space, self.out, storage, origin, fresh=fresh)
            write_text(self.out / "sweep.yaml", dump(self.config))
        return study

    def _new_bracket(self, study: Study, threads: int, held: ExitStack) -> Bracket | None:
        """Ask for the trials of a bracket and write them down, held; None where the study has enough."""
        with _alone(self.out, self.check):
            known = {number for folder in bracket_folders(self.out) for number in read_bracket(folder)[0].entries}
            size = bracket_size(self.config.halving, max(1, self.slots // self.config.repeats))
            entries: list[Entry] = []
            while not entries:
                drawn = study.ask(size, known)
                if not drawn:
                    return None
                entries = self._entries(study, drawn, threads)
            folder = self.out / FOLDER / f"{entries[0].asked.number:06d}"
            held.enter_context(writer_lock(folder))
            bracket = Bracket(folder, entries, threads, self.slots)
            bracket.plan()
        return bracket

    def _entries(self, study: Study, drawn: Sequence[Asked], threads: int) -> list[Entry]:
        """The trainings of `drawn`; points that no training has (settings that exclude each other) fail at once."""
        entries = []
        for asked in drawn:
            try:
                config = self.space.resolve_training(asked.params)
            except UsageError as error:
                log.warning(f"trial {asked.number} cannot be trained: {error}")
                study.tell(asked, "fail", {})
                continue
            entries.append(Entry(asked, config.model_copy(update={"threads": threads}) if threads else config))
        return entries

    def _run(self, race: Race, bracket: Bracket) -> None:
        if self.cpu and bracket.threads:
            use_threads(bracket.threads)
        start = time.perf_counter()

        def said(rung: int, found: dict[int, Found]) -> None:
            last = last_rung(self.config.halving)
            named = "the end" if rung == last else f"rung {rung} of {last - 1}"
            after = f"{named}, {time.perf_counter() - start:.1f} s"
            log.info(f"bracket of trial {min(bracket.entries)}, {after}: {len(found)} trials, {self.config.score}")
            scores = {number: each["score"] for number, each in found.items()}
            params = {number: bracket.entries[number].asked.params for number in found}
            for line in leaderboard(scores, params, highest=self.config.score == "ordinality"):
                log.info(line)

        race.run(bracket, self.check, said)

    def _refuse_foreign(self, bracket: Bracket, study: Study) -> None:
        if not all(study.knows(entry.asked) for entry in bracket.entries.values()):
            found = "trials that the study does not have"
            raise StoreMismatch(bracket.folder, found, "those of this --storage", "Name their storage, or use --fresh.")
        for entry in bracket.entries.values():
            config = self.space.resolve_training(entry.asked.params)
            if entry.config != (config.model_copy(update={"threads": bracket.threads}) if bracket.threads else config):
                found = f"other settings for trial {entry.asked.number} than its point means"
                raise StoreMismatch(bracket.folder, found, "this sweep's", "Restore bracket.json, or use --fresh.")

    def _threads(self, reference: TrainConfig) -> int:
        """The config's thread count, else the fastest for a whole stack; 0 where there is no CPU to share."""
        if not self.cpu:
            return 0
        if reference.threads != "auto":
            return reference.threads
        material = self.materials.of(reference)
        count = min(self.slots, bracket_size(self.config.halving, self.slots), self.space.trials)
        stack = self.materials.stack(material, [(reference, seed) for seed in range(count)], [])
        batches = next(epoch_batches(material.pairs, material.batch_size, epoch_rng(-1, 0), stack.objectives))
        return choose_threads(lambda: material.step(stack, batches, 0))

    def _write(self, study: Study, *, report: bool) -> tuple[dict[str, Any], str]:
        """The tables of all workers' trials as they are now; the last worker to end writes the last."""
        names = list(self.space.dimensions)
        with _alone(self.out, self.check):
            rows = rows_of(study)
            about = {"sweep": self.config.name, "stores": str(self.stores.folder), "score": self.config.score}
            write_text(self.out / "trials.csv", as_csv(rows, names))
            write_text(self.out / "sweep.json", as_json(rows, about))
            if not any(row["state"] in ("complete", "running") for row in rows):
                raise EmotionRankError(
                    self.out, "every trial failed", "one that ends", "Look at learning_rate and temperature."
                )
            best = next((row for row in rows if row["state"] == "complete"), None)
            if best:
                write_text(self.out / "best.yaml", dump(self._config_of(best)))
            if report:
                sweep_report(self.out, study, rows, self.stores, self._config_of(best) if best else None)
        return {**about, "out": str(self.out), "best": best, "trials": rows}, self._text(rows, names, best)

    def _text(self, rows: Sequence[Row], names: Sequence[str], best: Row | None) -> str:
        table = markdown(rows, names, self.config.score)
        if not best:
            return table
        return f"{table}\n\nbest: trial {best['number']}; {winners_command(self.stores, self.out)}"

    def _config_of(self, row: Row) -> TrainConfig:
        """The config that a trial was trained with: on this disk as it was, else from its point."""
        for folder in bracket_folders(self.out):
            entries = read_bracket(folder)[0].entries
            if row["number"] in entries:
                return entries[row["number"]].config
        return self.space.resolve_training(row["params"])


def _clear(out: Path) -> None:
    """Remove a sweep. Raises StoreLocked where another process trains one of its brackets."""
    for folder in bracket_folders(out):
        with writer_lock(folder):
            pass
    remove_tree(out / FOLDER)
    remove_tree(out / "report")
    for name in (JOURNAL, *_FILES):
        remove(out / name)


@contextmanager
def _alone(out: Path, check: Callable[[], None]) -> Iterator[None]:
    """Wait for the folder: workers ask for trials and write tables one after the other."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(writer_lock(out))
                break
            except StoreLocked:
                check()
                time.sleep(0.02)
        yield
