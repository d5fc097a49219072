"""A sweep's trials in an Optuna study, which several processes and machines may share.

Whatever is told twice (by a bracket that was killed and taken up again) is told once.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from cache.fingerprint import describe_differences, differences
from pipeline.core.errors import StoreCorrupt, StoreMismatch, UsageError
from pipeline.experiments.sweeps.space import Space
from pipeline.training.heads import one_line_reason

try:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.exceptions import OptunaError, StorageInternalError
    from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
    from optuna.storages import BaseStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    from optuna.trial import FrozenTrial, Trial, TrialState
    from sqlalchemy.exc import SQLAlchemyError
except ImportError:
    raise UsageError("optuna", "not installed", "the sweep extra", "pip install 'emotionrankclap[sweep]'") from None
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError, RuntimeError, OverflowError
)  # fmt: skip
_BLOCK = 2**16
StorageFailed = (SQLAlchemyError, StorageInternalError)
JOURNAL = "journal.log"
_SWEEP, _RESULT, _HOME, _SURPLUS = "sweep", "result", "home", "surplus"  # attributes of the study and its trials
_GROWS = {"trials", "slots"}  # what may change between two starts


@dataclass(frozen=True)
class Asked:
    """A trial that the study drew: its number in the study, its id in the storage, and its point."""

    number: int
    id: int
    params: dict[str, Any]


class Study:
    """The study of one sweep, as one worker sees it."""

    def __init__(self, study: optuna.Study, space: Space, home: Path) -> None:
        self._study, self.space = study, space
        self._journal = isinstance(study._storage, JournalStorage)
        self._home = f"{os.uname().nodename}:{home.resolve()}"

    def ask(self, count: int, known: Container[int]) -> list[Asked]:
        """Up to `count` new trials, as long as the study has fewer than the sweep wants.

        A running trial of this folder that is not `known` to any bracket was lost between asking and writing it down:
        it is asked for again. One writer a folder; between folders on one database the lower numbers win.
        """
        trials = self._trials()
        lost = [trial for trial in trials if self._lost(trial, known)][:count]
        asked = [self._drawn(Trial(self._study, trial._trial_id)) for trial in lost]
        while len(asked) < count and len(self._counted()) < self.space.trials:
            trial = self._study.ask()
            trial.set_user_attr(_HOME, self._home)
            if sum(other.number < trial.number for other in self._counted()) >= self.space.trials:
                trial.set_user_attr(_SURPLUS, True)
                self._study.tell(trial, state=TrialState.FAIL)
                break
            asked.append(self._drawn(trial))
        return asked

    @property
    def full(self) -> bool:
        """Whether there is nothing to ask for: enough trials, and none is running that might have been lost."""
        trials = self._counted()
        return len(trials) >= self.space.trials and all(trial.state.is_finished() for trial in trials)

    def report(self, asked: Asked, rung: int, score: float) -> None:
        """The score of a trial at a rung."""
        found = self._trial(asked)
        if not found.state.is_finished() and rung not in found.intermediate_values:
            Trial(self._study, asked.id).report(score, rung)

    def tell(self, asked: Asked, state: str, result: Mapping[str, Any], score: float | None = None) -> None:
        """The end of a trial: "complete" with its score, "pruned" or "fail"."""
        if self._trial(asked).state.is_finished():
            return
        Trial(self._study, asked.id).set_user_attr(_RESULT, dict(result))
        self._study.tell(asked.number, score, state=TrialState[state.upper()])

    @property
    def origin(self) -> dict[str, Any]:
        """What it was begun with: `config`, and the fingerprints (`stores`) and digest (`data`) of its data."""
        return dict(self._study.user_attrs[_SWEEP])

    def trials(self) -> list[FrozenTrial]:
        """Every trial of every worker, by number."""
        return self._counted()

    def knows(self, asked: Asked) -> bool:
        """Whether `asked` is a trial of it, at that point."""
        return any(
            (trial.number, trial._trial_id, trial.params) == (asked.number, asked.id, asked.params)
            for trial in self._trials()
        )

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _counted(self) -> list[FrozenTrial]:
        return [trial for trial in self._trials() if _SURPLUS not in trial.user_attrs]

    def _trial(self, asked: Asked) -> FrozenTrial:
        return self._study._storage.get_trial(asked.id)

    def _lost(self, trial: FrozenTrial, known: Container[int]) -> bool:
        ours = self._journal or trial.user_attrs.get(_HOME) == self._home
        return trial.state == TrialState.RUNNING and ours and trial.number not in known

    def _drawn(self, trial: Trial) -> Asked:
        return Asked(trial.number, trial._trial_id, self.space.suggest(trial))


def open_study(space: Space, out: Path, storage: str | None, origin: Mapping[str, Any], *, fresh: bool) -> Study:
    """The study of `space` in `storage` (a URL, or a journal in `out`), made where there is none.

    `origin` identifies the data. Raises StoreMismatch, field by field, for a study of another sweep or other data,
    UsageError for a storage that cannot be opened, and StoreCorrupt for a journal that cannot.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = space.config
    now = {"config": config.model_dump(mode="json", exclude=_GROWS), **origin}
    try:
        opened = optuna.storages.get_storage(storage or _journal(out))
        if fresh and config.name in optuna.get_all_study_names(opened):
            optuna.delete_study(study_name=config.name, storage=opened)
        study = optuna.create_study(
            study_name=config.name,
            storage=opened,
            direction=_direction(space),
            load_if_exists=True,
            sampler=_Seeded(space),
        )
        then = study.user_attrs.get(_SWEEP)
        fields = differences(then, now) if then is not None else []
        if not fields:
            _refuse_strange(study.get_trials(deepcopy=False), space)
    except (ImportError, SQLAlchemyError, OptunaError, *_UNREADABLE) as error:
        if not storage:
            found = f"cannot be read ({one_line_reason(error) or type(error).__name__})"
            raise StoreCorrupt(out / JOURNAL, found, "what sweep-heads wrote", "Restore it, or use --fresh.") from None
        raise UsageError(
            "--storage", one_line_reason(error), "a storage of Optuna", "Check the URL and its driver."
        ) from None
    if then is None:
        study.set_user_attr(_SWEEP, now)
    elif fields:
        found = describe_differences(fields, "the study has")
        raise StoreMismatch(out, found, "the same sweep", "Choose another --out (or name), or start over with --fresh.")
    return Study(study, space, out)


def _refuse_strange(trials: Sequence[FrozenTrial], space: Space) -> None:
    """Raises ValueError for points outside the space and figures that are none: a study may come from a stranger."""
    for trial in trials:
        if not all(space.holds(name, value) for name, value in trial.params.items()):
            raise ValueError(f"trial {trial.number} at {trial.params}")
        results = results_of(trial)
        scores = [*(trial.values or ()), *trial.intermediate_values.values()]
        figures = [value for name, value in results.items() if name != "epoch" and value is not None]
        if not all(type(value) in (int, float) and math.isfinite(value) for value in (*scores, *figures)):
            raise ValueError(f"trial {trial.number} with figures {scores} and {results}")


def _direction(space: Space) -> Literal["maximize", "minimize"]:
    return "maximize" if space.config.score == "ordinality" else "minimize"


def _journal(out: Path) -> BaseStorage:
    """A file that processes on machines with a shared disk may all append to."""
    path = out / JOURNAL
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError("no file")
    return JournalStorage(_Journal(str(path), lock_obj=JournalFileSymlinkLock(str(path))))


class _Journal(JournalFileBackend):
    """Optuna's, which reads past a line that was cut short by a crash, but would append the next one to it."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._lock.acquire()
        try:
            with open(self._file_path, "rb+") as file:
                file.truncate(_whole_lines(file))
        finally:
            self._lock.release()
        super().append_logs(logs)


def _whole_lines(file: BinaryIO) -> int:
    """How many bytes of `file` are lines that end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        block = file.read(end - start)
        if b"\n" in block:
            return start + block.rindex(b"\n") + 1
        end = start
    return 0


class _Grid(GridSampler):
    def after_trial(self, *_: Any) -> None:
        """Nothing: the other would stop `Study.optimize`, which is not running."""


class _Seeded(BaseSampler):
    """A sampler whose draws for a trial come from the sweep's seed and the trial's number, whichever process asks."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._drawing = self._sampler(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        mixed = hashlib.blake2b(f"{self._space.config.seed}:{trial.number}".encode(), digest_size=4).digest()
        self._drawing = self._sampler(int.from_bytes(mixed, "little"))
        self._drawing.before_trial(study, trial)

    def _sampler(self, seed: int) -> BaseSampler:
        if self._space.config.sampler == "grid":
            return _Grid(self._space.grid, seed=self._space.config.seed)
        return RandomSampler(seed=seed) if self._space.config.sampler == "random" else TPESampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._drawing.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._drawing.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._drawing.sample_independent(study, trial, param_name, param_distribution)


def results_of(trial: FrozenTrial) -> dict[str, Any]:
    """What was told of a trial beside its score."""
    return dict(trial.user_attrs.get(_RESULT, {}))


def importances(study: Study, scores: Mapping[int, float]) -> dict[str, float]:
    """Each dimension's share in what sets the best quarter of the trials apart (PED-ANOVA, 2304.10255).

    `scores` are by trial number.
    """
    compared = optuna.create_study(direction=_direction(study.space))
    for trial in study.trials():
        if trial.number in scores:
            drawn = optuna.create_trial(
                params=trial.params, distributions=trial.distributions, value=scores[trial.number]
            )
            compared.add_trial(drawn)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where few trials have a setting, a share of it is a guess: docs/sweeps.md
        return dict(optuna.importance.get_param_importances(compared, evaluator=evaluator))
