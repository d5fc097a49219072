"""The training step by hand: the heads of C configurations side by side in wide matrices, over shared batches.

One product projects a batch for all of them and one makes all gradients of a weight; the loss's gradient comes out of
its forward pass; the optimiser is torch's fused Adam, with rates of its own for each configuration. A single training
is a stack of one. Under autograd, `Heads.project` and `Objective.loss` are the reference (tests/test_stack.py).

On a CPU each of torch's threads keeps to some rows of the weights, forward, backward and in Adam (which cuts a tensor
into as many pieces). Products cut otherwise pass megabytes from core to core each step: on two cores that share no
cache a step took 5.3 ms and takes 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.optim.adam import adam

from pipeline.objectives.base import Objective
from pipeline.training.heads import EPSILON, MAX_SCALE, Heads
from pipeline.training.lr_schedule import CONSTANT, Schedule

MAX_EXPONENT = 709.0  # of e in a float64; training that goes astray gets beyond
TRAINED = ("audio.weight", "audio.bias", "text.weight", "text.bias", "log_scale")


@dataclass(frozen=True)
class HeadsConfig:
    """One configuration of a stack: its heads as they are at the start, and how it trains."""

    heads: Heads
    objective: Objective
    learning_rate: float
    weight_decay: float = 0.0
    schedule: Schedule = CONSTANT


class BatchedHeads:
    """C members of one width and activation, which see the same batches; all else is their own."""

    def __init__(self, members: Sequence[HeadsConfig]) -> None:
        first = members[0].heads
        self.count, self.width, self.activation = len(members), first.audio.out_features, first.activation
        self.wide = {name: _joined([member.heads.state_dict()[name] for member in members]) for name in TRAINED}
        self._gradients = {name: torch.zeros_like(tensor) for name, tensor in self.wide.items()}
        self._first = {name: torch.zeros_like(tensor) for name, tensor in self.wide.items()}  # Adam's moments
        self._second = {name: torch.zeros_like(tensor) for name, tensor in self.wide.items()}
        self._steps = torch.zeros(self.count, len(TRAINED), device=first.audio.weight.device)
        self.steps_done = 0  # steps so far
        self.fastest: Callable[[Tensor, Tensor, Sequence[Any]], Tensor] | None = None  # `step`, or its replay on CUDA
        self._adams = self._by_rate(members)
        self.objectives: list[Objective] = []  # the distinct ones, in the order that `prepared` has
        self._members_of: list[list[int]] = []
        for c, member in enumerate(members):
            if member.objective not in self.objectives:
                self.objectives.append(member.objective)
                self._members_of.append([])
            self._members_of[self.objectives.index(member.objective)].append(c)

    def step(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        """Train every member on one batch of standardised vectors, (B, Da) and (B, Dt); `prepared` by objective.

        Returns the losses before the step, (C,).
        """
        self.set_rates()
        losses = self.step_at_rates(speech, text, prepared)
        self.steps_done += 1
        return losses

    def set_rates(self) -> None:
        """Set every member's learning rate to what its schedule says of the coming step."""
        for member_rate, schedule, rate, _ in self._adams:
            rate.fill_(member_rate * schedule.factor(self.steps_done))

    def step_at_rates(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        """`step` at the rates that are set: work for the device alone, so that CUDA can record it (cuda_step.py)."""
        audio_unit, audio_length = self._projected("audio", speech)
        text_unit, text_length = self._projected("text", text)
        scale = self.wide["log_scale"].exp().view(-1, 1, 1)
        logits = (audio_unit @ text_unit.mT).mul_(scale)  # (C, B, B)
        losses, slope = self._losses(logits, prepared)
        torch.sum(slope * logits, (1, 2), out=self._gradients["log_scale"])
        slope.mul_(scale)
        self._backward("audio", slope @ text_unit, audio_unit, audio_length, speech)
        self._backward("text", slope.mT @ audio_unit, text_unit, text_length, text)
        for _, _, rate, state in self._adams:
            adam(**state, lr=rate)
        self.wide["log_scale"].clamp_(max=math.log(MAX_SCALE))
        return losses

    def project(self, c: int, side: str, vectors: Tensor) -> Tensor:
        """HeadsConfig c's unit vectors (..., width) of standardised vectors of a `side`, "audio" or "text"."""
        own = self._part(self.wide, c)
        return self._unit(linear(vectors, own[f"{side}.weight"], own[f"{side}.bias"]))[0]

    def losses(self, c: int, logits: Tensor, prepared: Sequence[Any]) -> Tensor:
        """HeadsConfig c's loss of each batch, (S,), for (S, B, B) cosines."""
        group = next(g for g, members in enumerate(self._members_of) if c in members)
        scaled = logits * self.wide["log_scale"][c].exp()
        return self.objectives[group].gradient(scaled, prepared[group], with_gradient=False)[0]

    def state(self, c: int) -> dict[str, Tensor]:
        """A copy of what member c has learnt: part of a state dict of `Heads`."""
        shapes = {"log_scale": ()}
        own = self._part(self.wide, c)
        return {name: tensor.clone().view(shapes.get(name, tensor.shape)) for name, tensor in own.items()}

    def temperatures(self) -> list[float]:
        return [math.exp(min(-scale, MAX_EXPONENT)) for scale in self.wide["log_scale"].tolist()]

    def checkpoint(self) -> dict[str, Tensor]:
        """Everything that another `BatchedHeads` of the same members needs to go on with the same bits; no copies."""
        kinds = {"heads": self.wide, "first": self._first, "second": self._second}
        tensors = {f"{kind}.{name}": tensor for kind, wide in kinds.items() for name, tensor in wide.items()}
        return tensors | {"steps": self._steps}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a `checkpoint`. Raises KeyError or ValueError, before anything is changed, where it does not fit."""
        own = self.checkpoint()
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(f"{name} of shape {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.steps_done = int(self._steps[0, 0])

    def _by_rate(self, members: Sequence[HeadsConfig]) -> list[tuple[float, Schedule, Tensor, dict[str, Any]]]:
        """Learning rate, schedule, the step's rate and what else `adam` takes, for all members that have them alike."""
        rates: dict[tuple[float, float, Schedule], list[int]] = {}
        for c, member in enumerate(members):
            rates.setdefault((member.learning_rate, member.weight_decay, member.schedule), []).append(c)
        kinds = {
            "params": self.wide, "grads": self._gradients, "exp_avgs": self._first, "exp_avg_sqs": self._second
        }  # fmt: skip
        device = self._steps.device
        fixed = {
            "amsgrad": False, "maximize": False, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "fused": True,
            "capturable": device.type == "cuda",
        }  # fmt: skip
        return [
            (
                rate,
                schedule,
                torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device),
                {
                    **{kind: [p for c in own for p in self._part(wide, c).values()] for kind, wide in kinds.items()},
                    "max_exp_avg_sqs": [],
                    "state_steps": [step for c in own for step in self._steps[c].unbind()],
                    "weight_decay": decay,
                    **fixed,
                },
            )
            for (rate, decay, schedule), own in rates.items()
        ]

    def _part(self, wide: Mapping[str, Tensor], c: int) -> dict[str, Tensor]:
        """HeadsConfig c's part of each wide tensor, as views."""
        sizes = {name: 1 if name == "log_scale" else self.width for name in wide}
        return {name: tensor[c * sizes[name] : (c + 1) * sizes[name]] for name, tensor in wide.items()}

    def _projected(self, side: str, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (C, B, width) of every member, and the lengths (C, B, 1) they had."""
        weight, bias, parts = self.wide[f"{side}.weight"], self.wide[f"{side}.bias"], self._parts(vectors)
        if parts == 1:
            wide = linear(vectors, weight, bias)
        else:
            by_part = torch.bmm(vectors.expand(parts, -1, -1), weight.view(parts, -1, vectors.shape[1]).mT)
            wide = by_part.transpose(0, 1).reshape(len(vectors), -1).add_(bias)
        return self._unit(wide.view(-1, self.count, self.width).transpose(0, 1))

    def _parts(self, vectors: Tensor) -> int:
        """How many threads share the rows of the weights."""
        threads = torch.get_num_threads() if vectors.device.type == "cpu" else 1
        return threads if self.count * self.width % threads == 0 else 1

    def _unit(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        if self.activation == "relu":
            projected = projected.relu_()
        length = torch.linalg.vector_norm(projected, dim=-1, keepdim=True).clamp_min_(EPSILON)
        return projected.div_(length), length

    def _losses(self, logits: Tensor, prepared: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """(C,) losses and their (C, B, B) gradient."""
        if len(self.objectives) == 1:
            return self.objectives[0].gradient(logits, prepared[0])
        losses, gradient = logits.new_empty(self.count), torch.empty_like(logits)
        for objective, members, own in zip(self.objectives, self._members_of, prepared, strict=True):
            losses[members], gradient[members] = objective.gradient(logits[members], own)
        return losses, gradient

    def _backward(self, side: str, slope: Tensor, unit: Tensor, length: Tensor, vectors: Tensor) -> None:
        """From the gradient (C, B, width) of the unit vectors to that of the weight and the bias."""
        slope = slope.sub_(unit * (slope * unit).sum(-1, keepdim=True)).div_(length)
        if self.activation == "relu":
            slope.mul_(unit.sign())  # 1 where the ReLU let through; as bools, .3 ms of a step more
        wide = slope.transpose(0, 1).reshape(len(vectors), -1)
        gradient, parts = self._gradients[f"{side}.weight"], self._parts(vectors)
        torch.bmm(
            wide.view(len(wide), parts, -1).permute(1, 2, 0),
            vectors.expand(parts, -1, -1),
            out=gradient.view(parts, -1, vectors.shape[1]),
        )
        torch.sum(wide, 0, out=self._gradients[f"{side}.bias"])


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1, *tensor.shape[1:]) for tensor in tensors])
