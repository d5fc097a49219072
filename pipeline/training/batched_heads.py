"""The training step, fast, for the heads of C configurations side by side; reference_step.py is its readable form.

`BatchedHeads` stacks the parameters of C configurations (a single training is C = 1). One product projects a batch for
all of them and one makes all gradients of a weight; the loss's gradient comes out of its forward pass; the optimiser is
the fused Adam under torch.optim.Adam.

On a CPU each of torch's threads keeps to some rows of the weights, forward, backward and in Adam (which cuts a tensor
into as many pieces). Products cut otherwise pass megabytes from core to core each step: on two cores that share no
cache a step took 5.3 ms and takes 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline.objectives.space import EPSILON, Objective, SharedSpace, Slopes, State
from pipeline.training.heads import MAX_SCALE, Heads, by_layer
from pipeline.training.heads_config import NORM_EPSILON, HeadsConfig, Schedule

# torch does not promise to keep the function under its optimiser; without it the optimiser itself makes each step
_adam: Any
try:
    from torch.optim.adam import adam as _adam
except ImportError:
    _adam = None

MAX_EXPONENT = 709.0  # of e in a float64; the scale of a training that diverges gets beyond
TRAINED = ("audio.weight", "audio.bias", "text.weight", "text.bias", "log_scale")  # and the sums of layers

Step = Callable[[Tensor, Tensor, Sequence[Any]], Tensor]
Batch = tuple[Tensor, Tensor, Sequence[Any]]  # what a step takes
AdamTensors = Mapping[str, list[Tensor]]  # params, grads, exp_avgs, exp_avg_sqs of one shape; state_steps: () each


@dataclass(frozen=True)
class _AdamGroup:
    """The configurations with one learning rate, weight decay and schedule, for one call of `adam_step`."""

    config: HeadsConfig  # one of them
    rate: Tensor  # (), of the coming step
    tensors: dict[str, Any]  # their parameters and moments, as `adam_step` takes them


class _Norm(NamedTuple):
    """A batch-normalised projection before bias and activation."""

    units: Tensor  # (B, C * dim)
    std: Tensor  # (C * dim,)


def trained_names(heads: Heads) -> tuple[str, ...]:
    """The names of all that is trained of `heads`."""
    summed = [side for side, layers in zip(("audio", "text"), heads.layers, strict=True) if layers > 1]
    return TRAINED + tuple(f"{side}_sum.{name}" for side in summed for name in ("logits", "scale"))


class BatchedHeads:
    """The heads of C configurations of one dim and activation, trained on the same batches."""

    def __init__(self, configs: Sequence[HeadsConfig]) -> None:
        first = configs[0].heads
        self.count, self.dim, self.activation = len(configs), first.audio.out_features, first.activation
        states = [config.heads.state_dict() for config in configs]
        self.layers = dict(zip(("audio", "text"), first.layers, strict=True))  # summed with weights, by side
        self.trained = trained_names(first)
        self.stacked = {  # (C * dim, D) weights, (C * dim,) biases, (C,) scales, (C * L,) logits of layers
            name: torch.cat([state[name].reshape(-1, *state[name].shape[1:]) for state in states])
            for name in self.trained
        }
        self._gradients, self._first_moments, self._second_moments = (
            {name: torch.zeros_like(tensor) for name, tensor in self.stacked.items()} for _ in range(3)
        )
        device = first.audio.weight.device
        self._adam_steps = torch.zeros(self.count, len(self.trained), device=device)
        self.norm, self._configs = configs[0].norm, list(configs)
        temperatures = [config.temperature.log_scale(0) is not None for config in configs]
        self._scheduled = torch.tensor(temperatures, device=device) if any(temperatures) else None  # (C,) not learned
        self._scheduled_scale = torch.zeros(self.count, device=device, dtype=self.stacked["log_scale"].dtype)
        self.states: list[State] = [{} for _ in configs]  # what plugins' losses keep from step to step
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
        """Set the learning rates of the coming step, and the temperatures that are not learned."""
        for group in self._groups:
            group.rate.fill_(group.config.learning_rate * group.config.schedule.factor(self.steps_done))
        if self._scheduled is not None:
            scales = [config.temperature.log_scale(self.steps_done) or 0.0 for config in self._configs]
            self._scheduled_scale.copy_(torch.tensor(scales, dtype=self._scheduled_scale.dtype))

    def update(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        """`step` at the learning rates that are set: work for the device alone, so that CUDA can record it."""
        threads = torch.get_num_threads() if speech.device.type == "cpu" else 1
        parts = threads if self.count * self.dim % threads == 0 else 1  # which share the rows of the weights
        self._set_scheduled_scales()
        speech_sum, text_sum = self._sum_layers("audio", speech), self._sum_layers("text", text)
        audio, audio_length, audio_norm = self._project("audio", speech_sum, parts)
        words, text_length, text_norm = self._project("text", text_sum, parts)
        space = SharedSpace(audio, words, audio_length, text_length, self.stacked["log_scale"], self.states)
        losses, slopes = self._losses(space, prepared)
        self._gradients["log_scale"].copy_(slopes.log_scale)
        slope = self._backward("audio", speech_sum, slopes.speech, unit=audio, norm=audio_norm, parts=parts)
        self._backward_sum("audio", speech, slope)
        slope = self._backward("text", text_sum, slopes.text, unit=words, norm=text_norm, parts=parts)
        self._backward_sum("text", text, slope)
        for group in self._groups:
            adam_step(group.tensors, group.rate, group.config.weight_decay)
        self._limit_scales()
        return losses

    def _limit_scales(self) -> None:
        """Keep 1 / temperature in its bounds, or where its schedule has it, after a step."""
        self.stacked["log_scale"].clamp_(max=math.log(MAX_SCALE))
        self._set_scheduled_scales()

    def _set_scheduled_scales(self) -> None:
        if self._scheduled is not None:
            learned = self.stacked["log_scale"]
            learned.copy_(torch.where(self._scheduled, self._scheduled_scale, learned))

    def project(self, c: int, side: str, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Configuration c's unit vectors (..., dim) of standardised vectors of a `side`, "audio" or "text".

        And their lengths (..., 1) before normalisation.
        """
        heads = self._folded(c)
        if self.layers[side] > 1:
            vectors = self._layer_weights(side)[c] @ by_layer(vectors, self.layers[side])
        return self._normalise(linear(vectors, heads[f"{side}.weight"], heads[f"{side}.bias"]))

    def losses(
        self, c: int, speech: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor], prepared: Sequence[Any]
    ) -> Tensor:
        """Configuration c's loss of each of S batches, (S,), of what `project` returned for them."""
        index = self._objective_of[c]
        log_scale = self.stacked["log_scale"][c]
        space = SharedSpace(speech[0], text[0], speech[1], text[1], log_scale, [self.states[c]])
        return self.objectives[index].space_losses(space, prepared[index])

    def state(self, c: int) -> dict[str, Tensor]:
        """A copy of configuration c's trained parameters, part of a state dict of `Heads`; a norm is folded in."""
        copies = {name: tensor.clone() for name, tensor in self._folded(c).items()}
        return copies | {"log_scale": copies["log_scale"].view(())}

    def _folded(self, c: int) -> dict[str, Tensor]:
        """Configuration c's parameters, with a norm as weights and biases: the norm of all training vectors.

        A unit w . x has the mean w . mean(x) and the variance w' cov(x) w, so that no running average is needed.
        """
        heads, statistics = self._rows(self.stacked, c), self._configs[c].statistics
        for side, of_side in (statistics or {}).items():
            weight = heads[f"{side}.weight"].double()
            if self.norm == "batch":
                variance = (weight @ of_side.covariance * weight).sum(1, keepdim=True)
                weight = weight / (variance + NORM_EPSILON).sqrt()
            heads[f"{side}.bias"] = (heads[f"{side}.bias"] - weight @ of_side.mean).to(heads[f"{side}.bias"].dtype)
            heads[f"{side}.weight"] = weight.to(heads[f"{side}.weight"].dtype)
        return heads

    def temperatures(self) -> list[float]:
        return [math.exp(min(-scale, MAX_EXPONENT)) for scale in self.stacked["log_scale"].tolist()]

    def checkpoint(self) -> dict[str, Tensor]:
        """All that another `BatchedHeads` of the same configurations needs to resume with the same bits; no copies."""
        kinds = {"heads": self.stacked, "first": self._first_moments, "second": self._second_moments}
        tensors = {f"{kind}.{name}": tensor for kind, stacked in kinds.items() for name, tensor in stacked.items()}
        states = {f"state.{c}.{name}": kept for c, state in enumerate(self.states) for name, kept in state.items()}
        return tensors | {"steps": self._adam_steps} | states

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a `checkpoint`. KeyError, ValueError or OverflowError where it does not fit; then nothing is changed."""
        mine = {name: tensor for name, tensor in self.checkpoint().items() if not name.startswith("state.")}
        for name, tensor in mine.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(f"{name} of shape {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
        self.steps_done = int(tensors["steps"][0, 0])
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self.states = [{} for _ in self._configs]
        for name in tensors:
            if name.startswith("state."):
                _, c, kept = name.split(".", 2)
                self.states[int(c)][kept] = tensors[name].clone()

    def _rows(self, stacked: Mapping[str, Tensor], c: int) -> dict[str, Tensor]:
        """Configuration c's rows of each stacked tensor, as views."""
        sizes = {name: len(tensor) // self.count for name, tensor in stacked.items()}
        return {name: tensor[c * sizes[name] : (c + 1) * sizes[name]] for name, tensor in stacked.items()}

    def _layer_weights(self, side: str) -> Tensor:
        """(C, L) what each layer of a `side` is multiplied with, the scale included."""
        logits = self.stacked[f"{side}_sum.logits"].view(self.count, -1)
        return self.stacked[f"{side}_sum.scale"][:, None] * logits.softmax(1)

    def _sum_layers(self, side: str, inputs: Tensor) -> Tensor:
        """Standardised inputs (B, L * D), their layers summed as each configuration weights them: (C, B, D).

        (B, D) where there is one configuration or one layer: then all share the inputs.
        """
        if self.layers[side] == 1:
            return inputs
        weights = self._layer_weights(side)
        summed = torch.matmul(weights, by_layer(inputs, self.layers[side]))  # (B, C, D)
        return summed[:, 0] if self.count == 1 else summed.transpose(0, 1).contiguous()

    def _project(self, side: str, inputs: Tensor, parts: int) -> tuple[Tensor, Tensor, _Norm | None]:
        """Unit vectors (C, B, dim) of what `_sum_layers` gives, and the lengths (C, B, 1) that were divided out."""
        weight, bias, norm = self.stacked[f"{side}.weight"], self.stacked[f"{side}.bias"], None
        parts = self.count if inputs.dim() == 3 else parts
        if parts == 1:
            projected = linear(inputs, weight, bias if self.norm == "none" else None)  # (B, C * dim)
        else:
            by_part = torch.bmm(inputs.expand(parts, -1, -1), weight.view(parts, -1, inputs.shape[-1]).mT)
            projected = by_part.transpose(0, 1).reshape(inputs.shape[-2], -1)
        if self.norm != "none":
            projected = projected.sub_(projected.mean(0))
        if self.norm == "batch":
            std = (projected.square().mean(0) + NORM_EPSILON).sqrt_()
            norm = _Norm(projected.div_(std).clone(), std)
        if self.norm != "none" or parts != 1:
            projected.add_(bias)
        return *self._normalise(projected.view(-1, self.count, self.dim).transpose(0, 1)), norm

    def _normalise(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors after the activation, and their lengths before; in place."""
        if self.activation == "relu":
            projected = projected.relu_()
        length = torch.linalg.vector_norm(projected, dim=-1, keepdim=True).clamp_min_(EPSILON)
        return projected.div_(length), length

    def _losses(self, space: SharedSpace, prepared: Sequence[Any]) -> tuple[Tensor, Slopes]:
        """(C,) losses and their gradient."""
        if len(self.objectives) == 1:
            return self.objectives[0].space_gradient(space, prepared[0])
        losses = torch.empty_like(space.log_scale)
        slopes = Slopes(*map(torch.empty_like, (space.speech, space.text, space.log_scale)))
        for objective, configs, of_objective in zip(self.objectives, self._configs_of, prepared, strict=True):
            losses[configs], part = objective.space_gradient(space.of_configurations(configs), of_objective)
            slopes.speech[configs], slopes.text[configs] = part.speech, part.text
            slopes.log_scale[configs] = part.log_scale
        return losses, slopes

    def _backward(
        self, side: str, inputs: Tensor, slope: Tensor, *, unit: Tensor, norm: _Norm | None, parts: int
    ) -> Tensor:
        """From the gradient (C, B, dim) of the vectors before normalisation to that of the weight and the bias.

        Returns that of the projection (B, C * dim).
        """
        parts = self.count if inputs.dim() == 3 else parts
        if self.activation == "relu":
            slope.mul_(unit.sign())  # 1 where the ReLU let through; as bools, .3 ms of a step more
        slope = slope.transpose(0, 1).reshape(inputs.shape[-2], -1)  # (B, C * dim)
        torch.sum(slope, 0, out=self._gradients[f"{side}.bias"])
        if self.norm != "none":
            slope = slope - slope.mean(0)
        if norm is not None:
            slope = slope.sub_(norm.units * (slope * norm.units).mean(0)).div_(norm.std)
        torch.bmm(
            slope.view(len(slope), parts, -1).permute(1, 2, 0),
            inputs.expand(parts, -1, -1),
            out=self._gradients[f"{side}.weight"].view(parts, -1, inputs.shape[-1]),
        )
        return slope

    def _backward_sum(self, side: str, inputs: Tensor, slope: Tensor) -> None:
        """From the gradient (B, C * dim) of the projection to those of the weights of the layers of `inputs`.

        With s the scale, a = softmax(logits) and r_l = <gradient of the sum, layer l>, the gradient of s is sum a_l r_l
        and that of logit l is s a_l (r_l - sum a_k r_k).
        """
        if self.layers[side] == 1:
            return
        weight = self.stacked[f"{side}.weight"].view(self.count, self.dim, -1)  # (C, dim, D)
        of_sum = torch.bmm(slope.view(len(slope), self.count, -1).transpose(0, 1), weight)  # (C, B, D)
        # the few rows first: with the layers first it takes many times as long
        of_layers = torch.bmm(of_sum.transpose(0, 1).contiguous(), by_layer(inputs, self.layers[side]).mT)  # (B, C, L)
        products = of_layers.sum(0)
        shares = self.stacked[f"{side}_sum.logits"].view(self.count, -1).softmax(1)
        mean = (shares * products).sum(1, keepdim=True)
        self._gradients[f"{side}_sum.scale"].copy_(mean[:, 0])
        logits = self.stacked[f"{side}_sum.scale"][:, None] * shares * (products - mean)
        self._gradients[f"{side}_sum.logits"].copy_(logits.flatten())


def adam_step(tensors: AdamTensors, rate: Tensor, weight_decay: float) -> None:
    """A step of Adam (Kingma and Ba, 2015), in place, of tensors of the caller's; `rate` () lies on their device."""
    if _adam is None:
        adam_step_by_optimiser(tensors, rate, weight_decay)
        return
    _adam(
        **tensors, max_exp_avg_sqs=[], lr=rate, weight_decay=weight_decay, fused=True, capturable=rate.is_cuda,
        amsgrad=False, maximize=False, beta1=0.9, beta2=0.999, eps=1e-8,
    )  # fmt: skip


def adam_step_by_optimiser(tensors: AdamTensors, rate: Tensor, weight_decay: float) -> None:
    """`adam_step` by what torch documents alone: the same kernel, so the same bits, and slower."""
    params = tensors["params"]
    optimiser = torch.optim.Adam(params, lr=rate, weight_decay=weight_decay, fused=True, capturable=rate.is_cuda)
    names = ("grads", "state_steps", "exp_avgs", "exp_avg_sqs")
    for param, grad, step, first, second in zip(params, *(tensors[name] for name in names), strict=True):
        param.grad = grad
        optimiser.state[param] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
    optimiser.step()
