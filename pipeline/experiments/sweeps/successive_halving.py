"""What the trials of a sweep see: pairs read once, standardised once, shared by all who agree on them."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.core.config import TrainConfig
from pipeline.core.errors import EmotionRankError, StoreCorrupt, UsageError
from pipeline.experiments.sweeps.bracket import (
    CHECKPOINT,
    Bracket,
    MemberProgress,
    Standing,
    Tensors,
    joined,
    last_rung,
    steps_to,
    survivors,
    taken_out,
)
from pipeline.experiments.sweeps.config import SweepConfig
from pipeline.experiments.sweeps.score import DevOrdinality
from pipeline.experiments.sweeps.study import Study
from pipeline.objectives.base import Objective, objective_of, required_labels
from pipeline.training.batched_heads import BatchedHeads, heads_config
from pipeline.training.heads import Heads, one_line_reason
from pipeline.training.training_data import TrainingBatches, TrainingData, fit_standardisation

log = logging.getLogger(__name__)

KEPT = 2  # sets of pairs in memory; one of the paper's size takes 1.6 GB
Key = tuple[str, tuple[str, ...], str]


def data_of(config: TrainConfig) -> Key:
    """What decides on the pairs and their standardisation."""
    return config.style, tuple(required_labels(config.objective)), config.standardise


def side_by_side(config: TrainConfig) -> tuple[object, ...]:
    """Trainings where this is equal may share a stack."""
    return *data_of(config), config.batch_size, config.width, config.activation, config.epochs


@dataclass
class _Set:
    """The pairs of one `Key`, standardised, and the objectives that were fitted on them."""

    material: TrainingData
    objectives: dict[str, Objective] = field(default_factory=dict)


class TrainingDataPool:
    """The pairs of `stores` by style, labels and standardisation; the most recent few are kept."""

    def __init__(self, stores: Stores, device: torch.device) -> None:
        self.stores, self.device = stores, device
        self._sets: dict[Key, _Set] = {}

    def of(self, config: TrainConfig) -> TrainingData:
        """What `config` trains on; vectors are shared with every other of the same data."""
        material = copy.copy(self._set(config).material)
        standard = Heads(
            material.speech.shape[1], material.text.shape[1], dim=config.width, activation=config.activation
        ).to(self.device)
        standard.load_state_dict(dict(material.standard.named_buffers()), strict=False)
        material.batch_size, material.standard = config.batch_size, standard
        return material

    def objective(self, config: TrainConfig) -> Objective:
        """One object for equal objectives, so that a stack prepares their batches once."""
        found = self._set(config)
        key = config.objective.model_dump_json()
        if key not in found.objectives:
            found.objectives[key] = objective_of(config.objective, found.material.pairs)
        return found.objectives[key]

    def stack(
        self, material: TrainingData, members: Sequence[tuple[TrainConfig, int]], states: Sequence[Tensors]
    ) -> BatchedHeads:
        """Heads of each (config, seed) as train-heads begins them, or as they are in `states` where there are any."""
        made = []
        for config, seed in members:
            heads = copy.deepcopy(material.standard)
            heads.initialise(seed, config.temperature)
            made.append(heads_config(config, heads, self.objective(config), steps=material.steps))
        stack = BatchedHeads(made)
        if states:
            stack.restore(joined(states))
        return stack

    def _set(self, config: TrainConfig) -> _Set:
        key = data_of(config)
        if key in self._sets:
            self._sets[key] = self._sets.pop(key)  # the most recent is last
            return self._sets[key]
        while len(self._sets) >= KEPT:
            del self._sets[next(iter(self._sets))]
        pairs, dev = (self._pairs(split, key) for split in ("train", "dev"))
        for note in pairs.notes + dev.notes:
            log.info(note)
        log.info(f"{config.style}: {len(pairs):,} training and {len(dev):,} development pairs")
        standard = Heads(pairs.speech.shape[1], pairs.text.shape[1], dim=1).to(self.device)
        fit_standardisation(standard, pairs, self.stores, config.standardise)
        self._sets[key] = _Set(TrainingData(pairs, dev, config.batch_size, standard))
        return self._sets[key]

    def _pairs(self, split: str, key: Key) -> CachedPairs:
        return cached_pairs(self.stores, split, style=key[0], require=key[1], device=self.device)


Found = dict[str, Any]
Said = Callable[[int, dict[int, Found]], None]  # rung, and what was found of each trial at it
SHUFFLE_SEED = 0  # of every trial's batches


class Race:
    """What the brackets of a sweep have in common."""

    def __init__(
        self, config: SweepConfig, study: Study, materials: TrainingDataPool, ordinality: DevOrdinality | None
    ) -> None:
        self.config, self.study, self.materials, self.ordinality = config, study, materials, ordinality

    def run(self, bracket: Bracket, check: Callable[[], None], said: Said) -> None:
        """Take `bracket` to its end from where it stands. `check` raises when it is time to stop."""
        standing = bracket.standing()
        while standing.running:
            found: dict[int, Found] = {}
            for together in self._stacks(bracket, standing):
                self._train(bracket, standing, together, check)
                left = [number for number in together if number in standing.running]
                found |= {number: self._score(bracket, standing, number) for number in left}
            self._decide(bracket, standing, dict(sorted(found.items())), said)
            bracket.save(standing, sparing=False)
        bracket.finish(standing)

    def _stacks(self, bracket: Bracket, standing: Standing) -> list[list[int]]:
        """The trials that train side by side. Those who fail on the way leave their stack and no other changes."""
        alike: dict[Key, dict[tuple[object, ...], list[int]]] = {}  # those of the same data one after the other
        for number in standing.entered:
            config = bracket.entries[number].config
            alike.setdefault(data_of(config), {}).setdefault(side_by_side(config), []).append(number)
        at_most = max(1, bracket.slots // self.config.repeats)
        groups = [group for same in alike.values() for group in same.values()]
        stacks = [group[i : i + at_most] for group in groups for i in range(0, len(group), at_most)]
        running = [[number for number in stack if number not in standing.failed] for stack in stacks]
        return [stack for stack in running if stack]

    def _train(self, bracket: Bracket, standing: Standing, numbers: list[int], check: Callable[[], None]) -> None:
        """Train `numbers` side by side to the rung; some may fail."""
        config = bracket.entries[numbers[0]].config
        material = self.materials.of(config)
        total = material.steps * config.epochs
        target = steps_to(standing.rung, self.config.halving, total)
        for number in numbers:
            for seed in bracket.entries[number].config.seeds:
                member = standing.members.setdefault((number, seed), MemberProgress())
        if member.steps >= target:  # all are as far
            return
        side = _Side(self, material, bracket, standing, numbers)
        start = time.perf_counter()
        while side.numbers and side.steps < target:
            side.advance(target, check)
            side.lose_the_failed(self._fail)
            now = time.perf_counter()
            for number in side.numbers:
                standing.seconds[number] = standing.seconds.get(number, 0.0) + (now - start) / len(side.numbers)
            start = now
            bracket.save(standing)

    def _score(self, bracket: Bracket, standing: Standing, number: int) -> Found:
        """The score of a trial and its parts: of its present heads at a rung, of the kept epoch's at the end."""
        config = bracket.entries[number].config
        material = self.materials.of(config)
        final = standing.rung == last_rung(self.config.halving)
        members = [standing.members[number, seed] for seed in config.seeds]
        kept = bool(members[0].best)  # an epoch has ended
        found: Found = {
            "dev_loss": _mean([member.best_loss for member in members]) if kept else None,
            "epoch": " ".join(str(member.best_epoch) for member in members) if kept else None,
            **self._effort(standing, number, members[0]),
        }
        if self.ordinality is not None:
            asked = [member.best if final else _present(member) for member in members]
            return found | self._consistency(material, asked, final)
        if final:
            return found | {"score": found["dev_loss"]}
        each = zip(config.seeds, members, strict=True)
        return found | {"score": _mean([self._dev_loss(material, config, seed, member) for seed, member in each])}

    def _consistency(self, material: TrainingData, asked: Sequence[Tensors], final: bool) -> Found:
        """`aoc`, `voc` and their mean, over the seeds of a trial; a score of NaN where heads give no finite vectors."""
        assert self.ordinality is not None
        try:
            parts = [self.ordinality(material, learnt, final=final) for learnt in asked]
        except UsageError:
            raise
        except EmotionRankError:
            return {"score": math.nan}
        aoc, voc = (_mean([part[name] for part in parts]) for name in ("aoc", "voc"))
        return {"aoc": aoc, "voc": voc, "score": (aoc + voc) / 2}

    def _effort(self, standing: Standing, number: int, member: MemberProgress) -> Found:
        return {"rung": standing.rung, "steps": member.steps, "seconds": standing.seconds.get(number, 0.0)}

    def _dev_loss(self, material: TrainingData, config: TrainConfig, seed: int, member: MemberProgress) -> float:
        stack = self.materials.stack(material, [(config, seed)], [member.now])
        return material.dev_losses(stack, material.dev_batches(stack.objectives))[0]

    def _decide(self, bracket: Bracket, standing: Standing, found: dict[int, Found], said: Said) -> None:
        """Tell the study what came of the rung; the best go on to the next."""
        halving = self.config.halving
        for number in [number for number, each in found.items() if not math.isfinite(each["score"])]:
            del found[number]
            self._fail(bracket, standing, number)
        scores = {number: each["score"] for number, each in found.items()}
        said(standing.rung, found)
        if halving is None or standing.rung == last_rung(halving):
            for number, score in scores.items():
                self.study.tell(bracket.entries[number].asked, "complete", found[number], score)
            standing.entered = []
            return
        for number, score in scores.items():
            self.study.report(bracket.entries[number].asked, standing.rung, score)
        standing.entered = survivors(scores, halving, highest=self.config.score == "ordinality") if scores else []
        for number in scores.keys() - set(standing.entered):
            self.study.tell(bracket.entries[number].asked, "pruned", found[number])
        for key, member in standing.members.items():
            if key[0] not in standing.entered:
                member.now, member.best = {}, {}
        standing.rung += 1

    def _fail(self, bracket: Bracket, standing: Standing, number: int) -> None:
        standing.failed.append(number)
        entry = bracket.entries[number]
        effort = self._effort(standing, number, standing.members[number, entry.config.seeds[0]])
        log.warning(f"trial {number} failed: its loss or its score is not finite after {effort['steps']} steps")
        self.study.tell(entry.asked, "fail", effort)


class _Side:
    """Trials side by side in one stack, on their way to a rung."""

    def __init__(
        self, race: Race, material: TrainingData, bracket: Bracket, standing: Standing, numbers: Sequence[int]
    ) -> None:
        self.materials, self.material, self.bracket, self.standing = race.materials, material, bracket, standing
        self.numbers = list(numbers)
        self._build()

    @property
    def steps(self) -> int:
        return self.members[0].steps

    def advance(self, target: int, check: Callable[[], None]) -> None:
        """Train to the end of the epoch or to `target` steps, whichever comes first."""
        epoch, begin = divmod(self.steps, self.material.steps)
        end = min(self.material.steps, begin + target - self.steps)
        losses = self.material.train(self.stack, SHUFFLE_SEED, epoch, check, slice(begin, end)).tolist()
        for member, loss in zip(self.members, losses, strict=True):
            member.steps += end - begin
            member.loss_sum += loss * (end - begin)
        if end == self.material.steps:
            self._end_epoch(epoch + 1)
        checkpoint = self.stack.checkpoint()
        for c, member in enumerate(self.members):
            member.now = taken_out(checkpoint, c, self.stack.dim)

    def lose_the_failed(self, fail: Callable[[Bracket, Standing, int], None]) -> None:
        """Trials with a loss that is not finite leave, and the stack shrinks."""
        failed = {key[0] for key, member in zip(self.keys, self.members, strict=True) if not _finite(member)}
        if not failed:
            return
        for number in sorted(failed):
            fail(self.bracket, self.standing, number)
        for key in self.keys:
            if key[0] in failed:
                self.standing.members[key].now, self.standing.members[key].best = {}, {}
        self.numbers = [number for number in self.numbers if number not in failed]
        if self.numbers:
            self._build()

    def _build(self) -> None:
        configs = {number: self.bracket.entries[number].config for number in self.numbers}
        self.keys = [(number, seed) for number, config in configs.items() for seed in config.seeds]
        self.members = [self.standing.members[key] for key in self.keys]
        states = [member.now for member in self.members] if self.steps else []
        try:
            self.stack: BatchedHeads = self.materials.stack(
                self.material, [(configs[number], seed) for number, seed in self.keys], states
            )
        except (KeyError, ValueError, RuntimeError, OverflowError) as error:  # only what a checkpoint says can be wrong
            found = f"tensors that do not fit ({one_line_reason(error)})"
            raise StoreCorrupt(self.bracket.folder / CHECKPOINT, found, "this bracket's", "Remove the file.") from None
        self._dev: list[TrainingBatches] = []

    def _end_epoch(self, epoch: int) -> None:
        """As `Trainer` ends one: the heads of the lowest development loss are kept."""
        self._dev = self._dev or self.material.dev_batches(self.stack.objectives)
        dev_losses, temperatures = self.material.dev_losses(self.stack, self._dev), self.stack.temperatures()
        for c, member in enumerate(self.members):
            train_loss, member.loss_sum = member.loss_sum / self.material.steps, 0.0
            if dev_losses[c] < member.best_loss:
                member.best_epoch, member.best_loss, member.best = epoch, dev_losses[c], self.stack.state(c)
            line = {"train_loss": train_loss, "dev_loss": dev_losses[c], "temperature": temperatures[c]}
            member.metrics.append({"epoch": epoch, **line})


def _present(member: MemberProgress) -> Tensors:
    """The heads as they are now: part of a state dict."""
    heads = {name.removeprefix("heads."): t for name, t in member.now.items() if name.startswith("heads.")}
    return heads | {"log_scale": heads["log_scale"].view(())}


def _finite(member: MemberProgress) -> bool:
    last = member.metrics[-1]["dev_loss"] if member.metrics else 0.0
    return math.isfinite(member.loss_sum + last)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
