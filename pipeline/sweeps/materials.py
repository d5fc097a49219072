"""What the trials of a sweep see: pairs read once, standardised once, shared by all who agree on them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.config import TrainConfig
from pipeline.epochs import Material
from pipeline.heads import Heads
from pipeline.objectives.objective import Objective, needed_labels, objective_of
from pipeline.progress import say
from pipeline.stack import Stack
from pipeline.standardisation import fit_standardisation
from pipeline.sweeps.members import Tensors, joined
from pipeline.training import member_of

KEPT = 2  # sets of pairs in memory; one of the paper's size takes 1.6 GB

Key = tuple[str, tuple[str, ...], str]


def data_of(config: TrainConfig) -> Key:
    """What decides on the pairs and their standardisation."""
    return config.style, tuple(needed_labels(config.objective)), config.standardise


def side_by_side(config: TrainConfig) -> tuple[object, ...]:
    """Trainings where this is equal may share a stack."""
    return *data_of(config), config.batch_size, config.width, config.activation, config.epochs


@dataclass
class _Set:
    """The pairs of one `Key`, standardised, and the objectives that were fitted on them."""

    material: Material
    objectives: dict[str, Objective] = field(default_factory=dict)


class Materials:
    """The pairs of `stores` by style, labels and standardisation; the most recent few are kept."""

    def __init__(self, stores: Stores, device: torch.device) -> None:
        self.stores, self.device = stores, device
        self._sets: dict[Key, _Set] = {}

    def of(self, config: TrainConfig) -> Material:
        """What `config` trains on; vectors are shared with every other of the same data."""
        material = copy.copy(self._set(config).material)
        standard = Heads(
            material.speech.shape[1], material.text.shape[1], width=config.width, activation=config.activation
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

    def stack(self, material: Material, members: Sequence[tuple[TrainConfig, int]], states: Sequence[Tensors]) -> Stack:
        """Heads of each (config, seed) as train-heads begins them, or as they are in `states` where there are any."""
        made = []
        for config, seed in members:
            heads = copy.deepcopy(material.standard)
            heads.initialise(seed, config.temperature)
            made.append(member_of(config, heads, self.objective(config), material.steps))
        stack = Stack(made)
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
            say(note)
        say(f"{config.style}: {len(pairs):,} training and {len(dev):,} development pairs")
        standard = Heads(pairs.speech.shape[1], pairs.text.shape[1], width=1).to(self.device)
        fit_standardisation(standard, pairs, self.stores, config.standardise)
        self._sets[key] = _Set(Material(pairs, dev, config.batch_size, standard))
        return self._sets[key]

    def _pairs(self, split: str, key: Key) -> CachedPairs:
        return cached_pairs(self.stores, split, style=key[0], require=key[1], device=self.device)
