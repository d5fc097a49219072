"""The training step in its readable form.

train-heads STORES -o step=reference      # trains by it; the same as `BatchedHeads` to rounding
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.objectives.space import SharedSpace, State
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads_config import NORM_EPSILON, HeadsConfig


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


class ReferenceHeads(BatchedHeads):
    """One configuration trained by `reference_step`; parameters and moments are views of the stacked ones."""

    def __init__(self, configs: Sequence[HeadsConfig]) -> None:
        super().__init__(configs)
        (config,) = configs
        self.chosen_step = self.step
        self._config = replace(config, heads=copy.deepcopy(config.heads))
        self._adam = torch.optim.Adam(self._config.heads.parameters(), weight_decay=config.weight_decay, foreach=False)
        for name, parameter in self._config.heads.named_parameters():
            parameter.data = self.stacked[name].view(parameter.shape)
            self._adam.state[parameter] = {
                "step": self._adam_steps[0, self.trained.index(name)],
                "exp_avg": self._first_moments[name].view(parameter.shape),
                "exp_avg_sq": self._second_moments[name].view(parameter.shape),
            }

    def step(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        (group,) = self._adam.param_groups
        group["lr"] = self._config.learning_rate * self._config.schedule.factor(self.steps_done)
        batch = {"speech": speech, "text": text, "prepared": prepared[0]}
        loss = reference_step(self._config, self._adam, **batch, step=self.steps_done, state=self.states[0])
        self.steps_done += 1
        return loss[None]
