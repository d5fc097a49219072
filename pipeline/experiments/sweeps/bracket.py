"""A bracket of successive halving: its rungs, and its state on disk, from which a killed sweep resumes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, cat

from cache.disk import remove, write_text, writer_lock
from pipeline.core.config import TrainConfig
from pipeline.core.errors import StoreCorrupt, StoreLocked
from pipeline.core.files import check_digest, json_with_digest
from pipeline.experiments.sweeps.config import Halving
from pipeline.training.enough_data import FEW_STEPS
from pipeline.training.heads import load_tensors, save_tensors
from pipeline.training.run_folder import first_wrong, text_of

log = logging.getLogger(__name__)

FOLDER, PLAN, CHECKPOINT = "brackets", "bracket.json", "checkpoint.safetensors"
_KEYS = {"trials", "threads", "slots", "done", "history", "failed"}  # of bracket.json
SAVE_EVERY = 20  # times as long as the last save took: saving takes at most a twentieth of the time
Tensors = dict[str, Tensor]


def last_rung(halving: Halving | None) -> int:
    """Rungs are counted from 1; the last is the end of the training."""
    return 1 if halving is None else int(halving.rungs) + 1


def steps_to(rung: int, halving: Halving | None, total: int, epoch: int) -> int:
    """Steps of a training of `total` at `rung`: total / factor^rungs at the first, factor times more at each next.

    But none before every batch of an epoch of `epoch` steps was seen once, or 100 steps where an epoch has more: after
    a few steps scores are chance, and equal.
    """
    if halving is None:
        return total
    parts: int = halving.factor ** (last_rung(halving) - rung)
    return min(total, max(min(epoch, FEW_STEPS), total // parts))


def bracket_size(halving: Halving | None, slots: int) -> int:
    """Trials that start together; without halving, those that fit side by side."""
    return slots if halving is None else halving.factor ** int(halving.rungs)


def ranked(scores: Mapping[int, float], *, maximise: bool) -> list[int]:
    """The trials, the best first; of equals the earlier one."""
    return sorted(scores, key=lambda number: (-scores[number] if maximise else scores[number], number))


def promoted(scores: Mapping[int, float], halving: Halving, *, maximise: bool) -> list[int]:
    """The best 1 / factor of the trials, at least one where there is any, in order of their numbers."""
    return sorted(ranked(scores, maximise=maximise)[: max(1, len(scores) // halving.factor)])


def tied(scores: Mapping[int, float], promoted: Sequence[int]) -> list[int]:
    """The trials that were not promoted with a score equal to a promoted one's."""
    equal = {scores[number] for number in promoted}
    return sorted(number for number in scores.keys() - set(promoted) if scores[number] in equal)


def slice_checkpoint(checkpoint: Mapping[str, Tensor], c: int) -> Tensors:
    """A copy of head c's part of `BatchedHeads.checkpoint()`: parameters, Adam's moments, counts of steps.

    Stacked tensors are (C * n, ...), of which head c has rows c * n to (c + 1) * n: of the weights n is dim, of
    `log_scale` and `steps` 1, of the weights of layers their number.
    """
    kept = f"state.{c}."  # what a plugin's loss keeps from step to step
    states = {name.replace(kept, "state.0.", 1): each for name, each in checkpoint.items() if name.startswith(kept)}
    heads = {name: tensor for name, tensor in checkpoint.items() if not name.startswith("state.")}
    count = len(checkpoint["steps"])
    rows = {name: len(tensor) // count for name, tensor in heads.items()}
    return {name: tensor[c * rows[name] : (c + 1) * rows[name]].clone() for name, tensor in heads.items()} | states


def join_checkpoints(slices: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """The checkpoint of all heads in `slices`, in their order; for `BatchedHeads.restore`."""
    heads = {name: cat([part[name] for part in slices]) for name in slices[0] if not name.startswith("state.")}
    for c, part in enumerate(slices):
        heads |= {name.replace("state.0.", f"state.{c}.", 1): part[name] for name in part.keys() - heads.keys()}
    return heads


_Count = Annotated[int, Field(ge=0, lt=2**31)]
_TrialAndSeed = Annotated[str, Field(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}$")]  # 12.0: seed 0 of trial 12


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class TrialRequest(_Strict):
    """A trial that the study asks for: its number in the study, its id in the storage, and its point."""

    number: _Count
    id: int
    params: dict[str, bool | int | float | str | None]


class BracketTrial(TrialRequest):
    """A trial of a bracket, and its training."""

    config: Annotated[TrainConfig, Field(strict=False)]


class HeadsProgress(_Strict):
    """One seed of a trial: as `Progress` of a single training, with its heads as they are now."""

    steps: _Count
    loss_sum: float  # of the epoch that is under way
    best_epoch: _Count
    best_loss: float
    metrics: list[dict[str, int | float]]
    now: Tensors = Field(default_factory=dict, exclude=True)  # slice_checkpoint
    best: Tensors = Field(default_factory=dict, exclude=True)  # BatchedHeads.state

    @classmethod
    def untrained(cls) -> HeadsProgress:
        return cls(steps=0, loss_sum=0.0, best_epoch=0, best_loss=float("inf"), metrics=[])

    @property
    def is_finite(self) -> bool:
        """Whether its losses are."""
        return math.isfinite(self.loss_sum + (self.metrics[-1]["dev_loss"] if self.metrics else 0.0))

    def parameters(self) -> Tensors:
        """The heads as they are now: part of a state dict."""
        now = {name.removeprefix("heads."): t for name, t in self.now.items() if name.startswith("heads.")}
        return now | {"log_scale": now["log_scale"].view(())}

    def drop_tensors(self) -> None:
        """Free the heads of a trial that was stopped or that failed."""
        self.now, self.best = {}, {}


class BracketState(_Strict):
    """How far a bracket is."""

    rung: Annotated[int, Field(ge=1)]  # the one that is trained to
    entered: list[_Count]  # trials that started towards it; they decide on the rung groups
    failed: list[_Count]
    seconds: dict[Annotated[int, Field(ge=0, strict=False)], float]  # by trial
    heads: dict[tuple[int, int], HeadsProgress] = Field(default_factory=dict, exclude=True)  # by trial and seed

    @property
    def running(self) -> list[int]:
        return [number for number in self.entered if number not in self.failed]


class _Checkpoint(_Strict):
    """The metadata of a checkpoint: the bracket that it is of, and its state."""

    bracket: str
    standing: BracketState
    members: dict[_TrialAndSeed, HeadsProgress]


class _Plan(_Strict):
    """What bracket.json must hold."""

    trials: Annotated[list[BracketTrial], Field(min_length=1)]
    threads: Annotated[int, Field(ge=0, lt=2**16)]
    slots: Annotated[int, Field(ge=1)]
    done: bool


class _Ended(_Strict):
    """What bracket.json holds beside that at its end: a line an epoch of every trial and seed."""

    history: dict[_TrialAndSeed, list[dict[str, int | float]]] = {}


_Model = TypeVar("_Model", _Plan, _Ended)


class Bracket:
    """Trials that start together, in a folder named after the first."""

    def __init__(self, folder: Path, trials: Sequence[BracketTrial], threads: int, slots: int) -> None:
        self.folder, self.threads, self.slots, self.done = folder, threads, slots, False
        self.trials = {trial.number: trial for trial in trials}
        self._saved_at, self._save_seconds = 0.0, 0.0

    def __str__(self) -> str:
        return f"bracket {min(self.trials)}"

    def write(self, **more: Any) -> None:
        """Write bracket.json."""
        plan = {"trials": self._described, "threads": self.threads, "slots": self.slots, "done": self.done}
        write_text(self.folder / PLAN, json_with_digest(plan | more, allow_nan=True))  # of a trial that failed

    def finish(self, state: BracketState) -> None:
        """Nothing is left to do: results are in the study, and the epochs of all heads go into bracket.json."""
        self.done = True
        history = {f"{number}.{seed}": heads.metrics for (number, seed), heads in state.heads.items()}
        self.write(history=history, failed=state.failed)
        remove(self.folder / CHECKPOINT)

    def save_if_due(self, state: BracketState) -> None:
        """Write the checkpoint, unless the last one was written a short time ago."""
        if not self._saved_at or time.monotonic() - self._saved_at >= SAVE_EVERY * self._save_seconds:
            self.save(state)

    def save(self, state: BracketState) -> None:
        """Write the checkpoint."""
        start = time.monotonic()
        tensors: Tensors = {}
        members: dict[str, Any] = {}
        for (number, seed), heads in state.heads.items():
            tensors |= {f"{number}.{seed}.now.{name}": tensor for name, tensor in heads.now.items()}
            tensors |= {f"{number}.{seed}.best.{name}": tensor for name, tensor in heads.best.items()}
            members[f"{number}.{seed}"] = heads.model_dump()
        metadata = {"bracket": self._identity, "standing": state.model_dump(), "members": members}
        save_tensors(tensors, self.folder / CHECKPOINT, metadata)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - start

    def load_state(self) -> BracketState:
        """The state of the checkpoint; the start, and a warning, where it is not one of this bracket."""
        path = self.folder / CHECKPOINT
        if path.exists():
            try:
                return self._load(path)
            except StoreCorrupt as error:
                log.warning(f"{self} restarts: {error.subject}: {error.found}")
        return BracketState(rung=1, entered=list(self.trials), failed=[], seconds={})

    def _load(self, path: Path) -> BracketState:
        tensors, metadata = load_tensors(path)
        try:
            saved = _Checkpoint.model_validate(metadata)
            state = saved.standing
            if saved.bracket != self._identity or not {*state.entered, *state.failed} <= self.trials.keys():
                raise ValueError("of another bracket")
            state.heads = {_trial_and_seed(name): heads for name, heads in saved.members.items()}
            for name, tensor in tensors.items():
                number, seed, kind, parameter = name.split(".", 3)
                heads = state.heads[int(number), int(seed)]
                {"now": heads.now, "best": heads.best}[kind][parameter] = tensor
        except (KeyError, ValueError) as error:
            found = f"not a checkpoint of this bracket ({first_wrong(error)})"
            raise StoreCorrupt(path, found, "one", "Delete the file: the bracket restarts.") from None
        return state

    @cached_property
    def _described(self) -> list[dict[str, Any]]:
        return [trial.model_dump(mode="json") for trial in self.trials.values()]

    @cached_property
    def _identity(self) -> str:
        """In its checkpoint, so that no other bracket's is taken for it."""
        return hashlib.blake2b(json.dumps(self._described).encode(), digest_size=16).hexdigest()


def _trial_and_seed(name: str) -> tuple[int, int]:
    number, seed = name.split(".")
    return int(number), int(seed)


def _read(folder: Path, model: type[_Model], found: str, expected: str, action: str) -> _Model:
    """The part of bracket.json that `model` describes. Raises StoreCorrupt where it is not as it was written."""
    path = folder / PLAN
    try:
        text = text_of(path)
        plan = json.loads(text)
        if isinstance(plan, dict) and plan.keys() - _KEYS:  # a release of before wrote no digest
            plan = check_digest(text)
        return model.model_validate(plan)
    except (OSError, ValueError, RecursionError) as error:
        raise StoreCorrupt(path, f"{found} ({first_wrong(error)})", expected, action) from None


def read_bracket(folder: Path) -> Bracket:
    """A bracket as bracket.json describes it. Raises StoreCorrupt."""
    plan = _read(folder, _Plan, "cannot be read", "a bracket of sweep-heads", "Restore it, or use --fresh.")
    bracket = Bracket(folder, plan.trials, plan.threads, plan.slots)
    bracket.done = plan.done
    return bracket


def read_history(folder: Path) -> dict[tuple[int, int], list[dict[str, int | float]]]:
    """The epochs of each (trial, seed) of a bracket; none before it is done. Raises StoreCorrupt."""
    found, action = "a history that cannot be read", "Ignore it: best.yaml is complete without it."
    ended = _read(folder, _Ended, found, "one line per epoch", action)
    return {_trial_and_seed(name): lines for name, lines in ended.history.items()}


def bracket_folders(out: Path) -> list[Path]:
    """The brackets of all workers, by their first trial."""
    return sorted(path.parent for path in (out / FOLDER).glob(f"*/{PLAN}"))


def take_unfinished(out: Path, held: ExitStack) -> Bracket | None:
    """The first bracket that is not done and that no process works on, locked in `held`; None where there is none."""
    for folder in bracket_folders(out):
        if read_bracket(folder).done:
            continue
        with ExitStack() as lock:
            try:
                lock.enter_context(writer_lock(folder))
            except StoreLocked:
                continue
            bracket = read_bracket(folder)
            if not bracket.done:  # its worker may have ended it in between
                held.enter_context(lock.pop_all())
                return bracket
    return None
