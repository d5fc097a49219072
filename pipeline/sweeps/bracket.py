"""A bracket's folder: which trials race, and how far they are.

bracket.json             its trials with their whole configs, threads and slots; at the end every trial's history
checkpoint.safetensors   the heads and Adam's moments of those still in the race, and all that was decided so far
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cache.lock import writing
from pipeline.config import TrainConfig, validate
from pipeline.errors import StoreCorrupt, StoreLocked
from pipeline.heads import load_tensors, save_tensors
from pipeline.run import write_text
from pipeline.sweeps.members import Tensors
from pipeline.sweeps.study import Asked

FOLDER, PLAN, CHECKPOINT = "brackets", "bracket.json", "checkpoint.safetensors"
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
    best: Tensors = field(default_factory=dict)  # Stack.state


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


class Bracket:
    """Trials that start together, in a folder named after the first."""

    def __init__(self, folder: Path, entries: list[Entry], threads: int, slots: int) -> None:
        self.folder, self.threads, self.slots = folder, threads, slots
        self.entries = {entry.asked.number: entry for entry in entries}
        self._saved, self._took = 0.0, 0.0

    def plan(self, **more: Any) -> None:
        """Write bracket.json."""
        trials = [asdict(e.asked) | {"config": e.config.model_dump(mode="json")} for e in self.entries.values()]
        tree = {"trials": trials, "threads": self.threads, "slots": self.slots, "done": False, **more}
        write_text(self.folder / PLAN, json.dumps(tree, indent=1) + "\n")

    def finish(self, standing: Standing) -> None:
        """Nothing is left to do: what trials came to is in the study, their history goes into bracket.json."""
        history = {f"{n}.{seed}": member.metrics for (n, seed), member in standing.members.items()}
        self.plan(done=True, history=history, failed=standing.failed)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

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
        save_tensors(tensors, self.folder / CHECKPOINT, {"standing": said, "members": members})
        self._saved = time.monotonic()
        self._took = self._saved - start

    def standing(self) -> Standing:
        """Where the checkpoint says it is, or the start. Raises StoreCorrupt."""
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return Standing(entered=list(self.entries))
        tensors, metadata = load_tensors(path)
        try:
            standing = Standing(**metadata["standing"])
            standing.seconds = {int(number): spent for number, spent in standing.seconds.items()}
            for name, said in metadata["members"].items():
                number, seed = name.split(".")
                standing.members[int(number), int(seed)] = MemberProgress(**said)
            for name, tensor in tensors.items():
                number, seed, kind, own = name.split(".", 3)
                getattr(standing.members[int(number), int(seed)], kind)[own] = tensor
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = f"no checkpoint of a bracket ({' '.join(str(error).split())[:120]})"
            raise StoreCorrupt(path, found, "one", "Remove the file: the bracket begins again.") from None
        return standing


def read_bracket(folder: Path) -> tuple[Bracket, bool]:
    """A bracket and whether it is done. Raises StoreCorrupt."""
    path = folder / PLAN
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        entries = [
            Entry(
                Asked(trial["number"], trial["id"], trial["params"]),
                validate(TrainConfig, trial["config"], subject=str(path)),
            )
            for trial in tree["trials"]
        ]
        return Bracket(folder, entries, tree["threads"], tree["slots"]), bool(tree["done"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(path, f"cannot be read ({error})", "a bracket of sweep-heads", "Use --fresh.") from None


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
            trying.enter_context(writing(folder))
            bracket, done = read_bracket(folder)  # its worker may have ended it in between
            if done:
                return None
            held.enter_context(trying.pop_all())
            return bracket
    except StoreLocked:
        return None
