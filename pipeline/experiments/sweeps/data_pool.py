"""What the trials of a sweep train on: read and standardised once, shared by all that train on the same."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch

from cache.stores import Stores
from pipeline.core.config import TrainConfig
from pipeline.experiments.sweeps.bracket import Tensors, join_checkpoints
from pipeline.objectives.base import objective_of
from pipeline.objectives.space import Objective
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.fused_step import fused_heads
from pipeline.training.ridge import Planes, fit_planes
from pipeline.training.training_data import TrainingData, load_training_data

log = logging.getLogger(__name__)

POOLED_SETS = 2  # sets of pairs in memory; one of the paper's size takes 1.6 GB
DataKey = tuple[object, ...]


def data_key(config: TrainConfig) -> DataKey:
    """What decides on the pairs and their standardisation."""
    extra = config.needs_grid, config.grid.texts > 0, config.grid.classes > 0
    return config.style, config.required_labels, config.standardise, extra, config.speech, config.text


class _PooledData:
    def __init__(self, data: TrainingData) -> None:
        self.data = data
        self._planes: Planes | None = None  # of a start by ridge
        self._objectives: dict[str, Objective] = {}  # fitted on the data, by their config

    def planes(self, config: TrainConfig) -> Planes:
        if self._planes is None:
            self._planes = fit_planes(self.data, config)
        return self._planes

    def objective(self, config: TrainConfig) -> Objective:
        """One object for equal objectives, so that their batches are prepared once."""
        key = config.objective.model_dump_json() + config.grid.model_dump_json()
        if key not in self._objectives:
            self._objectives[key] = objective_of(config, self.data.pairs)
        return self._objectives[key]


class TrainingDataPool:
    """Standardised pairs of `stores` by style, labels and standardisation, read once; the last few used are kept."""

    def __init__(self, stores: Stores, device: torch.device) -> None:
        self.stores, self.device = stores, device
        self._pooled: dict[DataKey, _PooledData] = {}

    def get(self, config: TrainConfig) -> TrainingData:
        """The data that `config` trains on; vectors are shared with every other training on the same data."""
        data = copy.copy(self._pool(config).data)
        standard = data.standard.untrained(config.width, config.activation)
        data.batch_size, data.extra, data.standard = config.batch_size, config.grid.texts, standard.to(self.device)
        return data

    def batched_heads(
        self, data: TrainingData, trainings: Sequence[tuple[TrainConfig, int]], states: Sequence[Tensors] = ()
    ) -> BatchedHeads:
        """Heads of each (config, seed) as train-heads initialises them, or as in `states` where there are any."""
        heads_configs = []
        for config, seed in trainings:
            pooled = self._pool(config)
            start = pooled.planes(config).start if config.start == "ridge" else None
            heads_configs.append(data.heads_config(config, pooled.objective(config), seed, start))
        fused = all(config.step == "fused" for config, _ in trainings)
        batched = fused_heads(heads_configs) if fused else BatchedHeads(heads_configs)
        if states:
            batched.restore(join_checkpoints(states))
        return batched

    def _pool(self, config: TrainConfig) -> _PooledData:
        key = data_key(config)
        if key in self._pooled:
            self._pooled[key] = self._pooled.pop(key)  # the last used is last
            return self._pooled[key]
        while len(self._pooled) >= POOLED_SETS:
            del self._pooled[next(iter(self._pooled))]
        data = load_training_data(self.stores, config, self.device)
        log.info(f"{config.style}: {len(data.pairs):,} training and {len(data.dev):,} development pairs")
        self._pooled[key] = _PooledData(data)
        return self._pooled[key]
