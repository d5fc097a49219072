"""The Optuna study of a sweep, which several processes and machines may share.

A result that is reported twice (by a bracket that was killed and resumed, or by two workers) counts once. In a database
each worker gives a sign of life for its trials; one without a living worker is anybody's.
"""

from __future__ import annotations

import hashlib
import logging
import math
import platform
import time
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from cache.fingerprint import describe_differences, differences
from pipeline.core.errors import StoreCorrupt, StoreMismatch, UsageError, required_library
from pipeline.experiments.sweeps.bracket import TrialRequest
from pipeline.experiments.sweeps.config import Halving
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.tables import RESULT, result_of
from pipeline.training.heads import one_line_reason

try:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.exceptions import OptunaError, StorageInternalError
    from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
    from optuna.storages import JournalStorage
    from optuna.storages._heartbeat import is_heartbeat_enabled
    from optuna.trial import FrozenTrial, Trial, TrialState
    from sqlalchemy.exc import SQLAlchemyError

    from pipeline.experiments.sweeps.storage import GRACE_SECONDS, HEARTBEAT_SECONDS, open_storage
except ImportError:
    required_library("optuna", "sweep", "sweep-heads")
    raise

log = logging.getLogger(__name__)

JOURNAL = "journal.log"
_Result = TypeVar("_Result")
STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)
_READING_ERRORS = (
    OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError, RuntimeError, OverflowError
)  # fmt: skip
_SWEEP, _HOME, _SURPLUS = "sweep", "home", "surplus"  # attributes of the study and its trials
RETRY_SECONDS = (0.5, 1, 2, 4, 8, 15, 30)  # before a storage that failed is asked again: a server that restarts
_MAY_CHANGE = {"trials", "slots"}  # settings, between two starts


class Study:
    """The study of one sweep, as one worker sees it; `home` is its folder, `check` raises when it must stop."""

    def __init__(self, study: optuna.Study, space: Space, home: Path) -> None:
        self.check: Callable[[], None] = lambda: None
        self._study, self.space = study, space
        self._journal = isinstance(study._storage, JournalStorage)
        self._home = f"{platform.node()}:{home.resolve()}"
        self._beat_at = -math.inf

    def ask(self, count: int, known: Container[int]) -> list[TrialRequest]:
        """Up to `count` new trials, as long as the study has fewer than the sweep makes.

        A running trial of this folder that is not `known` to any bracket was lost between asking and writing the
        bracket: it is asked for again, and so is one whose worker is dead. One writer a folder; between folders on one
        database the lower numbers count.
        """
        stale = self._stale_trials()
        lost = [trial for trial in self._all_trials() if self._is_lost(trial, known, stale)][:count]
        requests = [self._adopt(trial) for trial in lost if not self._ended_as_surplus(trial)]
        while len(requests) < count and len(self.trials()) < self.space.trials:
            trial = self._retry(self._ask)
            if self._ended_as_surplus(trial):
                break
            requests.append(self._claim(trial))
        return requests

    @property
    def full(self) -> bool:
        """Whether there is nothing to ask for: enough trials, and none is running that can be lost."""
        trials = self.trials()
        return len(trials) >= self.space.trials and all(trial.state.is_finished() for trial in trials)

    def report(self, request: TrialRequest, rung: int, score: float) -> None:
        """The score of a trial at a rung."""
        self._retry(self._report, request, rung, score)

    def _report(self, request: TrialRequest, rung: int, score: float) -> None:
        trial = self._study._storage.get_trial(request.id)
        if not trial.state.is_finished() and rung not in trial.intermediate_values:
            Trial(self._study, request.id).report(score, rung)

    def tell(self, request: TrialRequest, state: str, result: Mapping[str, Any], score: float | None = None) -> None:
        """The end of a trial: "complete" with its score, "pruned" or "fail"."""
        self._retry(self._tell, request, state, result, score)

    def _tell(self, request: TrialRequest, state: str, result: Mapping[str, Any], score: float | None) -> None:
        if not self._study._storage.get_trial(request.id).state.is_finished():
            Trial(self._study, request.id).set_user_attr(RESULT, dict(result))
            self._study.tell(request.number, score, state=TrialState[state.upper()])

    @property
    def origin(self) -> dict[str, Any]:
        """What it was begun with: `config`, and the fingerprints (`stores`) and digest (`data`) of its data."""
        return dict(self._study.user_attrs[_SWEEP])

    def trials(self) -> list[FrozenTrial]:
        """Every trial of every worker, by number."""
        return [trial for trial in self._all_trials() if _SURPLUS not in trial.user_attrs]

    def knows(self, request: TrialRequest) -> bool:
        """Whether it asked for this trial, at this point."""
        return any(
            (trial.number, trial._trial_id, trial.params) == (request.number, request.id, request.params)
            for trial in self._all_trials()
        )

    def give_signs_of_life(self, requests: Iterable[TrialRequest]) -> None:
        """Say in the database that these trials have a worker, if the last time is long enough ago."""
        if time.monotonic() - self._beat_at >= HEARTBEAT_SECONDS:
            for request in requests:
                self._retry(self._beat, request.id)
            self._beat_at = time.monotonic()

    def elsewhere(self) -> dict[int, str]:
        """The trials that run in other folders on the same database, and in which."""
        homes = {trial.number: trial.user_attrs.get(_HOME, "") for trial in self.trials() if not _is_over(trial)}
        return {} if self._journal else {number: home for number, home in homes.items() if home != self._home}

    def _retry(self, call: Callable[..., _Result], *arguments: Any) -> _Result:
        """What `call` returns, which may be called again where the storage fails; its last error after a minute."""
        for seconds in RETRY_SECONDS:
            try:
                return call(*arguments)
            except STORAGE_ERRORS as error:
                log.warning(f"the storage failed ({true_cause(error)}); retrying in {seconds:g} s")
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    self.check()
                    time.sleep(min(0.5, seconds))
        return call(*arguments)

    def _all_trials(self) -> list[FrozenTrial]:
        return self._retry(self._study.get_trials, False)

    def _ask(self) -> Trial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that signs of life are meant for Optuna's own loop
            return self._study.ask()

    def _ended_as_surplus(self, trial: Trial | FrozenTrial) -> bool:
        """Whether the study has enough trials without `trial`: another folder asked at once. It is then ended."""
        if sum(other.number < trial.number for other in self.trials()) < self.space.trials:
            return False
        self._retry(Trial(self._study, trial._trial_id).set_user_attr, _SURPLUS, True)
        self._retry(lambda: self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True))
        return True

    def _beat(self, trial: int) -> None:
        storage = self._study._storage
        if is_heartbeat_enabled(storage):
            storage.record_heartbeat(trial)  # type: ignore[attr-defined]

    def _stale_trials(self) -> set[int]:
        """The ids of trials whose last sign of life is long ago, by the database's clock."""
        storage = self._study._storage
        if not is_heartbeat_enabled(storage):
            return set()
        return set(self._retry(storage._get_stale_trial_ids, self._study._study_id))  # type: ignore[attr-defined]

    def _is_lost(self, trial: FrozenTrial, known: Container[int], stale: Container[int]) -> bool:
        if _is_over(trial) or trial.number in known:
            return False
        home, begun = trial.user_attrs.get(_HOME), trial.datetime_start
        if self._journal or home == self._home or trial._trial_id in stale:
            return True  # the workers of a journal have one folder
        return not home and begun is not None and (datetime.now() - begun).total_seconds() > GRACE_SECONDS

    def _adopt(self, lost: FrozenTrial) -> TrialRequest:
        """A trial that was lost, as one of this folder's."""
        trial, home = Trial(self._study, lost._trial_id), lost.user_attrs.get(_HOME)
        if self._journal:
            return self._request(trial)
        if home != self._home:
            log.warning(f"trial {lost.number} is trained here: its worker in {home or 'an unknown folder'} is gone")
        return self._claim(trial)

    def _claim(self, trial: Trial) -> TrialRequest:
        """A trial, which is said to have a worker, and where."""
        self._retry(self._beat, trial._trial_id)
        self._retry(trial.set_user_attr, _HOME, self._home)
        return self._request(trial)

    def _request(self, trial: Trial) -> TrialRequest:
        return TrialRequest(number=trial.number, id=trial._trial_id, params=self.space.suggest(trial))


def true_cause(error: BaseException) -> str:
    """What the driver said, below what SQLAlchemy and Optuna make of it; one line."""
    while (below := getattr(error, "orig", None) or error.__cause__) is not None:
        error = below
    return " ".join(str(error).split())[:160]


def _is_over(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.RUNNING


def open_study(space: Space, out: Path, storage: str | None, origin: Mapping[str, Any], *, fresh: bool) -> Study:
    """The study of `space` in `storage` (a URL, or a journal in `out`), made where there is none.

    `origin` identifies the data. Raises StoreMismatch, field by field, for a study of another sweep or other data,
    UsageError for a storage that cannot be opened, and StoreCorrupt for a journal that cannot.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = space.config
    try:
        opened = open_storage(storage, out / JOURNAL)
        if fresh and config.name in optuna.get_all_study_names(opened):
            optuna.delete_study(study_name=config.name, storage=opened)
        study = optuna.create_study(
            study_name=config.name,
            storage=opened,
            direction=config.direction,
            load_if_exists=True,
            sampler=_SeededSampler(space),
        )
        then = study.user_attrs.get(_SWEEP)
        if space.auto_rungs and then is not None:  # decided by the trials that there were at the beginning
            with suppress(KeyError, TypeError, ValueError):
                space.set_rungs(int(Halving.model_validate(then["config"]["halving"]).rungs))
        now = {"config": space.config.model_dump(mode="json", exclude=_MAY_CHANGE), **origin}
        fields = differences(then, now) if then is not None else []
        if not fields:
            for trial in study.get_trials(deepcopy=False):
                _check_trial(trial, space)
    except (ImportError, SQLAlchemyError, OptunaError, *_READING_ERRORS) as error:
        reason = one_line_reason(error)
        if storage:
            expected, action = "a database that Optuna can open", "Check the URL, and that its driver is installed."
            raise UsageError("--storage", reason, expected, action) from None
        found = f"cannot be read ({reason or type(error).__name__})"
        raise StoreCorrupt(out / JOURNAL, found, "what sweep-heads wrote", "Restore it, or use --fresh.") from None
    if fields:
        found = describe_differences(fields, "the study has")
        raise StoreMismatch(out, found, "the same sweep", "Choose another --out (or name), or start over with --fresh.")
    if then is None:
        study.set_user_attr(_SWEEP, now)
    return Study(study, space, out)


def load_study(space: Space, out: Path, storage: str | None) -> Study:
    """The study of a sweep as it is, to be read. Raises UsageError where there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not storage and not (out / JOURNAL).is_file():
        raise UsageError(out, f"no {JOURNAL}", "the sweep's storage", "Pass it: storage=URL.")
    try:
        study = optuna.load_study(study_name=space.config.name, storage=open_storage(storage, out / JOURNAL))
        return Study(study, space, out)
    except (KeyError, ImportError, SQLAlchemyError, OptunaError) as error:
        found = f"no study of this name ({one_line_reason(error)})"
        raise UsageError(storage or out, found, "the sweep's storage", "Pass it: storage=URL.") from None


def _check_trial(trial: FrozenTrial, space: Space) -> None:
    """Raises ValueError for a point outside the space and for scores that are not finite numbers.

    A study may come from a stranger.
    """
    if not all(space.contains(name, value) for name, value in trial.params.items()):
        raise ValueError(f"trial {trial.number} at {trial.params}")
    result = result_of(trial)
    scores = [*(trial.values or ()), *trial.intermediate_values.values()]
    numbers = [value for name, value in result.items() if name != "epoch" and value is not None]
    if not all(type(value) in (int, float) and math.isfinite(value) for value in (*scores, *numbers)):
        raise ValueError(f"trial {trial.number} with scores {scores} and {result}")


class _SeededSampler(BaseSampler):
    """Optuna's sampler, seeded by the sweep's seed and the trial's number: the same draws in whichever process.

    It passes no `after_trial` on: a grid's would stop `Study.optimize`, which is not running.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._sampler = self._seeded(0)

    def _seeded(self, seed: int) -> BaseSampler:
        config = self._space.config
        if config.sampler == "grid":
            return GridSampler(self._space.grid, seed=config.seed)
        return RandomSampler(seed=seed) if config.sampler == "random" else TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        mixed = hashlib.blake2b(f"{self._space.config.seed}:{trial.number}".encode(), digest_size=4).digest()
        self._sampler = self._seeded(int.from_bytes(mixed, "little"))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)
