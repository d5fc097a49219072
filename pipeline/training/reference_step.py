"""The training step in its readable form, and what a configuration of it is.

train-heads STORES -o step=reference      # trains by this form; the same to rounding
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.core.config import TrainConfig
from pipeline.objectives.space import Objective, SharedSpace, State
from pipeline.training.heads import Heads

NORM_EPSILON = 1e-5  # of a unit's variance, as in torch's BatchNorm


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a training of `steps` steps: constant (the paper's), or warmed up and decayed."""

    steps: int
    shape: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0  # share of the steps over which it rises linearly

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with at step 0 to `steps` - 1; a decay ends just above 0."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.shape == "constant":
            return 1.0
        left = 1 - (step - rising) / max(1, self.steps - rising)
        return left if self.shape == "linear" else (1 - math.cos(math.pi * left)) / 2


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of the standardised vectors that a side's head is trained on, float64."""

    mean: Tensor  # (D,)
    covariance: Tensor  # (D, D)


@dataclass(frozen=True)
class Temperature:
    """Learned from `start` on, fixed there, or taken from `start` to `end` over `steps` steps by half a cosine."""

    start: float = 1.0
    shape: Literal["learned", "fixed", "cosine"] = "learned"
    end: float = 1.0
    steps: int = 1

    def log_scale(self, step: int) -> float | None:
        """log(1 / temperature) at `step`; None where it is learned."""
        if self.shape == "learned":
            return None
        passed = (1 - math.cos(math.pi * min(1.0, step / self.steps))) / 2 if self.shape == "cosine" else 0.0
        return -math.log(self.start + (self.end - self.start) * passed)


@dataclass(frozen=True)
class HeadsConfig:
    """One configuration: its heads before the first step, and how they train."""

    heads: Heads
    objective: Objective
    learning_rate: float
    weight_decay: float = 0.0
    schedule: Schedule = Schedule(1)
    temperature: Temperature = Temperature()
    norm: Literal["none", "centre", "batch"] = "none"
    statistics: Mapping[str, FeatureStatistics] | None = None  # by side, where there is a norm


def heads_config(
    config: TrainConfig,
    heads: Heads,
    objective: Objective,
    *,
    steps: int,
    statistics: Mapping[str, FeatureStatistics] | None = None,
) -> HeadsConfig:
    """`heads`, to be trained as `config` says in epochs of `steps` steps."""
    total = config.epochs * steps
    schedule = Schedule(total, config.schedule, config.warmup)
    temperature = Temperature(config.temperature, config.temperature_schedule, config.temperature_end, total)
    optimiser = config.learning_rate, config.weight_decay, schedule
    return HeadsConfig(heads, objective, *optimiser, temperature, config.norm, statistics)


def reference_step(
    config: HeadsConfig,
    adam: torch.optim.Adam,
    *,
    speech: Tensor,
    text: Tensor,
    prepared: Any,
    step: int = 0,
    state: State | None = None,
) -> Tensor:
    """One training step in plain autograd: what `BatchedHeads.step` computes by hand.

    speech (B, Da) and text (B + M, Dt) are standardised; `prepared` is the objective's for these pairs. Returns the
    loss before the step.
    """
    heads, scheduled = config.heads, config.temperature.log_scale(step)
    if scheduled is not None:
        heads.log_scale.data.fill_(scheduled)
    projected = []
    for side, vectors in (("audio", speech), ("text", text)):
        layer, vectors = getattr(heads, side), heads.sum_layers(side, vectors)
        units = layer(vectors)
        if config.norm != "none":
            units = vectors @ layer.weight.mT
            units = units - units.mean(0)
            if config.norm == "batch":
                units = units / (units.square().mean(0) + NORM_EPSILON).sqrt()
            units = units + layer.bias
        projected.append(units.relu() if heads.activation == "relu" else units)
    space = SharedSpace.of(projected[0], projected[1], heads.log_scale, [{} if state is None else state])
    loss = config.objective.space_loss(space, prepared)
    adam.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()
    heads.clamp_scale()
    if scheduled is not None:
        heads.log_scale.data.fill_(scheduled)
    return loss.detach()
