"""A batch in the shared space, as every objective sees it, and the gradient that an objective gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs

EPSILON = 1e-8  # a ReLU row can be all zero (F7)
State = dict[str, Tensor]  # what a plugin's loss keeps from step to step


@dataclass(frozen=True)
class SharedSpace:
    """B pairs and M extra texts in the shared space; leading dimensions are of configurations or of batches."""

    speech: Tensor  # (..., B, dim) unit vectors
    text: Tensor  # (..., B + M, dim) unit vectors; the last M are extra texts, which describe no utterance
    speech_length: Tensor  # (..., B, 1) lengths before normalisation
    text_length: Tensor  # (..., B + M, 1)
    log_scale: Tensor  # (...), or () of them all: log(1 / temperature)
    states: Sequence[State] = ()  # of each configuration

    @classmethod
    def of(cls, speech: Tensor, text: Tensor, log_scale: Tensor, states: Sequence[State] = ()) -> SharedSpace:
        """From the vectors before normalisation, (..., B, dim) and (..., B + M, dim), under autograd."""
        lengths = [torch.linalg.vector_norm(side, dim=-1, keepdim=True).clamp_min(EPSILON) for side in (speech, text)]
        return cls(speech / lengths[0], text / lengths[1], lengths[0], lengths[1], log_scale, states)

    @property
    def scale(self) -> Tensor:
        """1 / temperature, to be multiplied with logits."""
        return self.log_scale.exp()[..., None, None]

    def logits(self) -> Tensor:
        """(..., B, B + M) cosine / temperature."""
        return self.speech @ self.text.mT * self.scale

    def of_batch(self, index: int) -> SharedSpace:
        """One configuration or batch of the leading dimension."""
        log_scale = self.log_scale[index] if self.log_scale.dim() else self.log_scale
        return SharedSpace(
            self.speech[index], self.text[index], self.speech_length[index], self.text_length[index], log_scale
        )

    def of_configurations(self, configs: Sequence[int]) -> SharedSpace:
        """Some of the configurations."""
        index = list(configs)
        speech, text = self.speech[index], self.text[index]
        lengths = self.speech_length[index], self.text_length[index]
        return SharedSpace(speech, text, *lengths, self.log_scale[index], [self.states[c] for c in index])


@dataclass(frozen=True)
class Slopes:
    """The gradient of each configuration's loss, of the vectors before normalisation and of log(1 / temperature)."""

    speech: Tensor  # (C, B, dim)
    text: Tensor  # (C, B + M, dim)
    log_scale: Tensor  # (C,)


def before_normalisation(slope: Tensor, unit: Tensor, length: Tensor) -> Tensor:
    """The gradient of unit vectors as that of the vectors that were divided by `length`; in place."""
    return slope.sub_(unit * (slope * unit).sum(-1, keepdim=True)).div_(length)


class Objective(ABC):
    """The loss of a method: `Ranking`, `SoftTargets` or one of these `WithGrid`, a `CustomLoss`; or these `WithGap`."""

    @property
    def recordable(self) -> bool:
        """Whether a CUDA graph of its work may be replayed."""
        return True

    @abstractmethod
    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor) -> Any:
        """What depends on labels and frozen features alone, for (S, B) rows of `pairs` and (S, B + M) of its texts.

        What is prepared for S batches has `[s]`, what was prepared for one of them.
        """

    @abstractmethod
    def space_loss(self, space: SharedSpace, prepared: Any) -> Tensor:
        """The mean loss under autograd, a scalar: the readable form."""

    @abstractmethod
    def space_losses(self, space: SharedSpace, prepared: Any) -> Tensor:
        """Each batch's loss (...), without autograd."""

    @abstractmethod
    def space_gradient(self, space: SharedSpace, prepared: Any) -> tuple[Tensor, Slopes]:
        """(C,) losses of C configurations on one batch, and their gradient, without autograd."""


class LogitsObjective(Objective):
    """An objective of the logits alone: `loss` and `gradient` are all that a built-in one defines."""

    @abstractmethod
    def loss(self, logits: Tensor, prepared: Any) -> Tensor:
        """The mean loss of (..., B, B) logits (cosine / temperature) under autograd: a scalar."""

    @abstractmethod
    def gradient(self, logits: Tensor, prepared: Any, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        """Each batch's loss (...) and its gradient (..., B, B), without autograd.

        Leading dimensions that `prepared` lacks share it. Without `with_gradient` the gradient is empty. It may take
        the place of contiguous `logits`.
        """

    def space_loss(self, space: SharedSpace, prepared: Any) -> Tensor:
        return self.loss(space.logits(), prepared)

    def space_losses(self, space: SharedSpace, prepared: Any) -> Tensor:
        return self.gradient(_logits_in_place(space), prepared, with_gradient=False)[0]

    def space_gradient(self, space: SharedSpace, prepared: Any) -> tuple[Tensor, Slopes]:
        losses, slope = self.gradient(_logits_in_place(space), prepared)
        slope.mul_(space.scale)
        of_speech, of_text = slope @ space.text, slope.mT @ space.speech
        of_scale = (of_speech * space.speech).sum((1, 2))  # sum of slope * logits
        speech = before_normalisation(of_speech, space.speech, space.speech_length)
        return losses, Slopes(speech, before_normalisation(of_text, space.text, space.text_length), of_scale)


def _logits_in_place(space: SharedSpace) -> Tensor:
    """`space.logits()` without autograd: of 4,096 pairs, each matrix that is not made anew saves 30 ms."""
    return (space.speech @ space.text.mT).mul_(space.scale)
