"""A stack's checkpoint taken apart into its members and put together from them: what halving does to it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, cat

from cache.disk import remove, write_text, writer_lock
from pipeline.core.config import TrainConfig
from pipeline.core.errors import StoreCorrupt, StoreLocked
from pipeline.experiments.sweeps.config import Halving
from pipeline.experiments.sweeps.study import Asked
from pipeline.training.heads import load_tensors, save_tensors
from pipeline.training.run_folder import first_wrong, text_of

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


def taken_out(checkpoint: Mapping[str, Tensor], c: int, width: int) -> Tensors:
    """A copy of all that is member c's in `BatchedHeads.checkpoint()`: parameters, Adam's moments, counts of steps.

    Wide tensors are (C * width, ...), so rows c * width to (c + 1) * width are its own; of `log_scale` (C,) and
    `steps` (C, 5) it is row c.
    """
    sizes = {name: 1 if name == "steps" or name.endswith("log_scale") else width for name in checkpoint}
    return {name: tensor[c * sizes[name] : (c + 1) * sizes[name]].clone() for name, tensor in checkpoint.items()}


def joined(members: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """The checkpoint of a stack of `members`, in their order; for `BatchedHeads.restore`."""
    return {name: cat([member[name] for member in members]) for name in members[0]}


def last_rung(halving: Halving | None) -> int:
    """Rungs are counted from 1; the last is the end of the training."""
    return 1 if halving is None else halving.rungs + 1


def steps_to(rung: int, halving: Halving | None, total: int) -> int:
    """Steps of a training of `total` at `rung`: total / factor^rungs at the first, factor times more at each next."""
    if halving is None:
        return total
    parts: int = halving.factor ** (last_rung(halving) - rung)
    return max(1, total // parts)


def bracket_size(halving: Halving | None, slots: int) -> int:
    """Trials that start together; without halving, those that fit side by side."""
    return slots if halving is None else halving.factor**halving.rungs


def survivors(scores: Mapping[int, float], halving: Halving, *, highest: bool) -> list[int]:
    """The best 1 / factor of the trials, at least one, in order of their numbers; of equals the earlier one."""
    ranked = sorted(scores, key=lambda number: (-scores[number] if highest else scores[number], number))
    return sorted(ranked[: max(1, len(ranked) // halving.factor)])


FOLDER, PLAN, CHECKPOINT = "brackets", "bracket.json", "checkpoint.safetensors"
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_TrialAndSeed = Annotated[str, Field(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}$")]
SPARING = 20  # a checkpoint is written once the time since the last is this often what that one took


@dataclass
class MemberProgress:
    """One seed of a trial: as `Progress` of a single training, with what the stack keeps for it."""

    steps: int = 0
    loss_sum: float = 0.0  # of the epoch that is under way
    best_epoch: int = 0
    best_loss: float = float("inf")
    metrics: list[dict[str, float]] = field(default_factory=list)
    now: Tensors = field(default_factory=dict)  # members.taken_out
    best: Tensors = field(default_factory=dict)  # BatchedHeads.state


@dataclass(frozen=True)
class Entry:
    """A trial of a bracket."""

    asked: Asked
    config: TrainConfig


@dataclass
class Standing:
    """How far a bracket is."""

    rung: int = 1  # the one that is run to
    entered: list[int] = field(default_factory=list)  # trials that started towards it; decides who shares a stack
    failed: list[int] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)
    members: dict[tuple[int, int], MemberProgress] = field(default_factory=dict)  # by trial and seed

    @property
    def running(self) -> list[int]:
        return [number for number in self.entered if number not in self.failed]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)


class _Trial(_Model):
    """A trial of bracket.json."""

    number: _Count
    id: int
    params: dict[str, bool | int | float | str | None]
    config: Annotated[TrainConfig, Field(strict=False)]


class _Plan(_Model):
    """What bracket.json must hold."""

    trials: Annotated[list[_Trial], Field(min_length=1)]
    threads: Annotated[int, Field(ge=0, lt=2**16)]
    slots: Annotated[int, Field(ge=1)]
    done: bool


class _Ended(_Model):
    """What bracket.json holds beside that at its end: a line an epoch of every trial and seed."""

    history: dict[_TrialAndSeed, list[dict[str, int | float]]] = {}


class _SavedStanding(_Model):
    rung: Annotated[int, Field(ge=1)]
    entered: list[_Count]
    failed: list[_Count]
    seconds: dict[Annotated[int, Field(ge=0, strict=False)], float]


class _SavedMember(_Model):
    steps: _Count
    loss_sum: float
    best_epoch: _Count
    best_loss: float
    metrics: list[dict[str, int | float]]


class _Saved(_Model):
    """What a checkpoint says beside its tensors: whose it is, and `Standing`."""

    bracket: str
    standing: _SavedStanding
    members: dict[_TrialAndSeed, _SavedMember]


class Bracket:
    """Trials that start together, in a folder named after the first."""

    def __init__(self, folder: Path, entries: list[Entry], threads: int, slots: int) -> None:
        self.folder, self.threads, self.slots = folder, threads, slots
        self.entries = {entry.asked.number: entry for entry in entries}
        self._saved, self._took = 0.0, 0.0

    def plan(self, **more: Any) -> None:
        """Write bracket.json."""
        tree = {"trials": self._trials(), "threads": self.threads, "slots": self.slots, "done": False, **more}
        write_text(self.folder / PLAN, json.dumps(tree, indent=1) + "\n")

    def _trials(self) -> list[dict[str, Any]]:
        return [asdict(e.asked) | {"config": e.config.model_dump(mode="json")} for e in self.entries.values()]

    @cached_property
    def _identity(self) -> str:
        """In its checkpoint, so that no other bracket's is taken for it."""
        return hashlib.blake2b(json.dumps(self._trials()).encode(), digest_size=16).hexdigest()

    def finish(self, standing: Standing) -> None:
        """Nothing is left to do: what trials came to is in the study, their history goes into bracket.json."""
        history = {f"{n}.{seed}": member.metrics for (n, seed), member in standing.members.items()}
        self.plan(done=True, history=history, failed=standing.failed)
        remove(self.folder / CHECKPOINT)

    def save(self, standing: Standing, *, sparing: bool = True) -> None:
        """Write the checkpoint, if it is time: writing takes at most a twentieth of the time."""
        start = time.monotonic()
        if sparing and self._saved and start - self._saved < SPARING * self._took:
            return
        tensors: dict[str, Tensor] = {}
        members: dict[str, dict[str, Any]] = {}
        for (number, seed), member in standing.members.items():
            said = dict(vars(member))
            for kind in ("now", "best"):
                tensors |= {f"{number}.{seed}.{kind}.{name}": t for name, t in said.pop(kind).items()}
            members[f"{number}.{seed}"] = said
        said = {name: value for name, value in vars(standing).items() if name != "members"}
        save_tensors(
            tensors, self.folder / CHECKPOINT, {"bracket": self._identity, "standing": said, "members": members}
        )
        self._saved = time.monotonic()
        self._took = self._saved - start

    def standing(self) -> Standing:
        """Where the checkpoint says it is; the start where there is none of this bracket, said aloud."""
        path = self.folder / CHECKPOINT
        if path.exists():
            try:
                return self._restored(path)
            except StoreCorrupt as error:
                log.warning(f"the bracket of trial {min(self.entries)} begins again: {error.subject}: {error.found}")
        return Standing(entered=list(self.entries))

    def _restored(self, path: Path) -> Standing:
        tensors, metadata = load_tensors(path)
        try:
            said = _Saved.model_validate(metadata)
            if (
                said.bracket != self._identity
                or not {*said.standing.entered, *said.standing.failed} <= self.entries.keys()
            ):
                raise ValueError("of another bracket")
            standing = Standing(**said.standing.model_dump())
            for name, member in said.members.items():
                standing.members[_trial_and_seed(name)] = MemberProgress(**member.model_dump())
            for name, tensor in tensors.items():
                number, seed, kind, own = name.split(".", 3)
                of = standing.members[int(number), int(seed)]
                {"now": of.now, "best": of.best}[kind][own] = tensor
        except (KeyError, ValueError) as error:
            raise StoreCorrupt(path, f"no checkpoint of it ({first_wrong(error)})", "one", "Remove the file.") from None
        return standing


def _trial_and_seed(name: str) -> tuple[int, int]:
    number, seed = name.split(".")
    return int(number), int(seed)


def read_bracket(folder: Path) -> tuple[Bracket, bool]:
    """A bracket and whether it is done. Raises StoreCorrupt."""
    path = folder / PLAN
    try:
        plan = _Plan.model_validate(json.loads(text_of(path)))
        entries = [Entry(Asked(each.number, each.id, each.params), each.config) for each in plan.trials]
    except (OSError, ValueError, RecursionError) as error:
        found = f"cannot be read ({first_wrong(error)})"
        raise StoreCorrupt(path, found, "a bracket of sweep-heads", "Restore it, or use --fresh.") from None
    return Bracket(folder, entries, plan.threads, plan.slots), plan.done


def read_history(folder: Path) -> dict[tuple[int, int], list[dict[str, int | float]]]:
    """The epochs of each (trial, seed) of a bracket; none before it is done. Raises StoreCorrupt."""
    path = folder / PLAN
    try:
        ended = _Ended.model_validate(json.loads(text_of(path)))
    except (OSError, ValueError, RecursionError) as error:
        found = f"a history that cannot be read ({first_wrong(error)})"
        raise StoreCorrupt(path, found, "a line an epoch", "The best settings do not need it.") from None
    return {_trial_and_seed(name): lines for name, lines in ended.history.items()}


def bracket_folders(out: Path) -> list[Path]:
    """The brackets of all workers, by their first trial."""
    return sorted(path.parent for path in (out / FOLDER).glob(f"*/{PLAN}"))


@contextmanager
def unfinished(out: Path) -> Iterator[Bracket | None]:
    """The first bracket that is not done and that no process works on, held; None where there is none."""
    with ExitStack() as held:
        yield next((bracket for folder in bracket_folders(out) if (bracket := _taken(folder, held))), None)


def _taken(folder: Path, held: ExitStack) -> Bracket | None:
    if read_bracket(folder)[1]:
        return None
    try:
        with ExitStack() as trying:
            trying.enter_context(writer_lock(folder))
            bracket, done = read_bracket(folder)  # its worker may have ended it in between
            if done:
                return None
            held.enter_context(trying.pop_all())
            return bracket
    except StoreLocked:
        return None
