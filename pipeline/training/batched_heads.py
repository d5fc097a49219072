"""The training step: first in its readable form, then fast, for the heads of C configurations side by side.

    train-heads STORES -o step=reference      # trains by the readable form; the same to rounding

`BatchedHeads` stacks the parameters of C configurations (a single training is C = 1). One product projects a batch for
all of them and one makes all gradients of a weight; the loss's gradient comes out of its forward pass; the optimiser is
the fused Adam under torch.optim.Adam, called directly because the parameters are rows of stacked tensors.

On a CPU each of torch's threads keeps to some rows of the weights, forward, backward and in Adam (which cuts a tensor
into as many pieces). Products cut otherwise pass megabytes from core to core each step: on two cores that share no
cache a step took 5.3 ms and takes 3.4.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.optim.adam import adam

from pipeline.core.config import TrainConfig
from pipeline.objectives.base import Objective
from pipeline.training.heads import EPSILON, MAX_SCALE, Heads

MAX_EXPONENT = 709.0  # of e in a float64; the scale of a training that diverges gets beyond
TRAINED = ("audio.weight", "audio.bias", "text.weight", "text.bias", "log_scale")

Step = Callable[[Tensor, Tensor, Sequence[Any]], Tensor]


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
class HeadsConfig:
    """One configuration: its heads before the first step, and how they train."""

    heads: Heads
    objective: Objective
    learning_rate: float
    weight_decay: float = 0.0
    schedule: Schedule = Schedule(1)


def heads_config(config: TrainConfig, heads: Heads, objective: Objective, *, steps: int) -> HeadsConfig:
    """`heads`, to be trained as `config` says in epochs of `steps` steps."""
    schedule = Schedule(config.epochs * steps, config.schedule, config.warmup)
    return HeadsConfig(heads, objective, config.learning_rate, config.weight_decay, schedule)


def reference_step(
    config: HeadsConfig, adam: torch.optim.Adam, *, speech: Tensor, text: Tensor, prepared: Any
) -> Tensor:
    """One training step in plain autograd: what `BatchedHeads.step` computes by hand.

    speech (B, Da) and text (B, Dt) are standardised; `prepared` is the objective's for these pairs. Returns the loss
    before the step.
    """
    audio_unit, text_unit = config.heads.project(speech, text)  # (B, dim) each
    logits = audio_unit @ text_unit.mT * config.heads.log_scale.exp()  # (B, B), cosine / temperature
    loss = config.objective.loss(logits, prepared)
    adam.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()
    config.heads.clamp_scale()
    return loss.detach()


@dataclass(frozen=True)
class _AdamGroup:
    """The configurations with one learning rate, weight decay and schedule, for one call of `adam`."""

    config: HeadsConfig  # one of them
    rate: Tensor  # (), of the coming step
    tensors: dict[str, Any]  # their parameters and moments, as `adam` takes them


class BatchedHeads:
    """The heads of C configurations of one dim and activation, trained on the same batches."""

    def __init__(self, configs: Sequence[HeadsConfig]) -> None:
        first = configs[0].heads
        self.count, self.dim, self.activation = len(configs), first.audio.out_features, first.activation
        states = [config.heads.state_dict() for config in configs]
        self.stacked = {  # (C * dim, D) weights, (C * dim,) biases, (C,) scales
            name: torch.cat([state[name].reshape(-1, *state[name].shape[1:]) for state in states]) for name in TRAINED
        }
        self._gradients, self._first_moments, self._second_moments = (
            {name: torch.zeros_like(tensor) for name, tensor in self.stacked.items()} for _ in range(3)
        )
        device = first.audio.weight.device
        self._adam_steps = torch.zeros(self.count, len(TRAINED), device=device)
        alike: dict[tuple[float, float, Schedule], list[int]] = {}
        for c, config in enumerate(configs):
            alike.setdefault((config.learning_rate, config.weight_decay, config.schedule), []).append(c)
        self._groups = []
        for members in alike.values():
            tensors: dict[str, Any] = {
                name: [tensor for c in members for tensor in self._rows(stacked, c).values()]
                for name, stacked in (
                    ("params", self.stacked),
                    ("grads", self._gradients),
                    ("exp_avgs", self._first_moments),
                    ("exp_avg_sqs", self._second_moments),
                )
            }
            tensors["state_steps"] = [step for c in members for step in self._adam_steps[c].unbind()]
            rate = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
            self._groups.append(_AdamGroup(configs[members[0]], rate, tensors))
        self.steps_done = 0
        self.chosen_step: Step | None = None  # `step`, or its CUDA graph's replay (kernels.py)
        self.objectives: list[Objective] = []  # the distinct ones, in the order of `prepared`
        for config in configs:
            if config.objective not in self.objectives:
                self.objectives.append(config.objective)
        self._objective_of = [self.objectives.index(config.objective) for config in configs]
        self._configs_of = [  # which configurations each objective trains
            [c for c, place in enumerate(self._objective_of) if place == index] for index in range(len(self.objectives))
        ]

    def step(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        """Train every configuration on one batch of standardised vectors, (B, Da) and (B, Dt); `prepared` by objective.

        Returns the losses before the step, (C,).
        """
        self.set_learning_rates()
        losses = self.update(speech, text, prepared)
        self.steps_done += 1
        return losses

    def set_learning_rates(self) -> None:
        """Set the learning rates of the coming step."""
        for group in self._groups:
            group.rate.fill_(group.config.learning_rate * group.config.schedule.factor(self.steps_done))

    def update(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        """`step` at the learning rates that are set: work for the device alone, so that CUDA can record it."""
        threads = torch.get_num_threads() if speech.device.type == "cpu" else 1
        parts = threads if self.count * self.dim % threads == 0 else 1  # which share the rows of the weights
        audio_unit, audio_length = self._project("audio", speech, parts)
        text_unit, text_length = self._project("text", text, parts)
        scale = self.stacked["log_scale"].exp().view(-1, 1, 1)
        logits = (audio_unit @ text_unit.mT).mul_(scale)  # (C, B, B)
        losses, slope = self._losses(logits, prepared)
        torch.sum(slope * logits, (1, 2), out=self._gradients["log_scale"])
        slope.mul_(scale)
        audio_slope, text_slope = slope @ text_unit, slope.mT @ audio_unit
        self._backward("audio", speech, audio_slope, (audio_unit, audio_length), parts=parts)
        self._backward("text", text, text_slope, (text_unit, text_length), parts=parts)
        for group in self._groups:
            adam(
                **group.tensors, max_exp_avg_sqs=[], lr=group.rate, weight_decay=group.config.weight_decay, fused=True,
                capturable=speech.is_cuda, amsgrad=False, maximize=False, beta1=0.9, beta2=0.999, eps=1e-8,
            )  # fmt: skip
        self.stacked["log_scale"].clamp_(max=math.log(MAX_SCALE))
        return losses

    def project(self, c: int, side: str, vectors: Tensor) -> Tensor:
        """Configuration c's unit vectors (..., dim) of standardised vectors of a `side`, "audio" or "text"."""
        heads = self._rows(self.stacked, c)
        return self._normalise(linear(vectors, heads[f"{side}.weight"], heads[f"{side}.bias"]))[0]

    def losses(self, c: int, cosines: Tensor, prepared: Sequence[Any]) -> Tensor:
        """Configuration c's loss of each batch, (S,), for (S, B, B) cosines."""
        index = self._objective_of[c]
        logits = cosines * self.stacked["log_scale"][c].exp()
        return self.objectives[index].gradient(logits, prepared[index], with_gradient=False)[0]

    def state(self, c: int) -> dict[str, Tensor]:
        """A copy of configuration c's trained parameters: part of a state dict of `Heads`."""
        copies = {name: tensor.clone() for name, tensor in self._rows(self.stacked, c).items()}
        return copies | {"log_scale": copies["log_scale"].view(())}

    def temperatures(self) -> list[float]:
        return [math.exp(min(-scale, MAX_EXPONENT)) for scale in self.stacked["log_scale"].tolist()]

    def checkpoint(self) -> dict[str, Tensor]:
        """All that another `BatchedHeads` of the same configurations needs to resume with the same bits; no copies."""
        kinds = {"heads": self.stacked, "first": self._first_moments, "second": self._second_moments}
        tensors = {f"{kind}.{name}": tensor for kind, stacked in kinds.items() for name, tensor in stacked.items()}
        return tensors | {"steps": self._adam_steps}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a `checkpoint`. KeyError, ValueError or OverflowError where it does not fit; then nothing is changed."""
        mine = self.checkpoint()
        for name, tensor in mine.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(f"{name} of shape {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
        self.steps_done = int(tensors["steps"][0, 0])
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])

    def _rows(self, stacked: Mapping[str, Tensor], c: int) -> dict[str, Tensor]:
        """Configuration c's rows of each stacked tensor, as views."""
        sizes = {name: 1 if name == "log_scale" else self.dim for name in stacked}
        return {name: tensor[c * sizes[name] : (c + 1) * sizes[name]] for name, tensor in stacked.items()}

    def _project(self, side: str, inputs: Tensor, parts: int) -> tuple[Tensor, Tensor]:
        """Unit vectors (C, B, dim) of standardised inputs (B, D), and the lengths (C, B, 1) that were divided out."""
        weight, bias = self.stacked[f"{side}.weight"], self.stacked[f"{side}.bias"]
        if parts == 1:
            projected = linear(inputs, weight, bias)  # (B, C * dim)
        else:
            by_part = torch.bmm(inputs.expand(parts, -1, -1), weight.view(parts, -1, inputs.shape[1]).mT)
            projected = by_part.transpose(0, 1).reshape(len(inputs), -1).add_(bias)
        return self._normalise(projected.view(-1, self.count, self.dim).transpose(0, 1))

    def _normalise(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors after the activation, and their lengths before; in place."""
        if self.activation == "relu":
            projected = projected.relu_()
        length = torch.linalg.vector_norm(projected, dim=-1, keepdim=True).clamp_min_(EPSILON)
        return projected.div_(length), length

    def _losses(self, logits: Tensor, prepared: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """(C,) losses and their (C, B, B) gradient."""
        if len(self.objectives) == 1:
            return self.objectives[0].gradient(logits, prepared[0])
        losses, gradient = logits.new_empty(self.count), torch.empty_like(logits)
        for objective, configs, of_objective in zip(self.objectives, self._configs_of, prepared, strict=True):
            losses[configs], gradient[configs] = objective.gradient(logits[configs], of_objective)
        return losses, gradient

    def _backward(
        self, side: str, inputs: Tensor, slope: Tensor, projected: tuple[Tensor, Tensor], *, parts: int
    ) -> None:
        """From the gradient (C, B, dim) of the unit vectors to that of the weight and the bias."""
        unit, length = projected
        slope = slope.sub_(unit * (slope * unit).sum(-1, keepdim=True)).div_(length)
        if self.activation == "relu":
            slope.mul_(unit.sign())  # 1 where the ReLU let through; as bools, .3 ms of a step more
        slope = slope.transpose(0, 1).reshape(len(inputs), -1)  # (B, C * dim)
        torch.bmm(
            slope.view(len(slope), parts, -1).permute(1, 2, 0),
            inputs.expand(parts, -1, -1),
            out=self._gradients[f"{side}.weight"].view(parts, -1, inputs.shape[1]),
        )
        torch.sum(slope, 0, out=self._gradients[f"{side}.bias"])


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
                "step": self._adam_steps[0, TRAINED.index(name)],
                "exp_avg": self._first_moments[name].view(parameter.shape),
                "exp_avg_sq": self._second_moments[name].view(parameter.shape),
            }

    def step(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        (group,) = self._adam.param_groups
        group["lr"] = self._config.learning_rate * self._config.schedule.factor(self.steps_done)
        loss = reference_step(self._config, self._adam, speech=speech, text=text, prepared=prepared[0])
        self.steps_done += 1
        return loss[None]
