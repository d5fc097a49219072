"""The learning rate over a training: constant (the paper's), or warmed up and brought down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """What the learning rate is multiplied with at each of `steps` steps."""

    steps: int
    shape: Shape = "constant"
    warmup: float = 0.0  # share of the steps over which it rises in a straight line

    def factor(self, step: int) -> float:
        """Of step 0 to `steps` - 1; the last one of `linear` and `cosine` is just above 0."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.shape == "constant":
            return 1.0
        left = 1 - (step - rising) / max(1, self.steps - rising)
        return left if self.shape == "linear" else (1 - math.cos(math.pi * left)) / 2


CONSTANT = Schedule(1)
