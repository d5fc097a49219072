"""A configuration: its heads before the first step, and how its learning rate and temperature run over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.objectives.space import Objective
from pipeline.training.heads import Heads
from pipeline.training.standardisation import FeatureStatistics

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
