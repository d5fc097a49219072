"""What an objective is, built in or a plugin's, and what a plugin's loss is given (docs/objectives.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.core.config import AnyObjective, CustomObjectiveConfig, RankingConfig
from pipeline.core.errors import EmotionRankError
from pipeline.core.plugins import Plugin, find, translate_errors
from pipeline.objectives.rank_n_contrast import Ranking
from pipeline.objectives.soft_targets import fit_soft_targets


class Objective(Protocol):
    """The loss of a method: `Ranking`, `SoftTargets` or a plugin's `CustomLoss`."""

    recordable: ClassVar[bool]  # whether a CUDA graph of its work may be replayed

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor, /) -> Any:
        """What depends on labels and frozen features alone, for (S, B) rows of `pairs` and their captions.

        What is prepared for S batches has `[s]`, what was prepared for one of them.
        """

    def loss(self, logits: Tensor, prepared: Any) -> Tensor:
        """The mean loss of (..., B, B) logits (cosine / tau) under autograd: a scalar."""

    def gradient(self, logits: Tensor, prepared: Any, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        """Each batch's loss (...) and its gradient (..., B, B), without autograd.

        Leading dimensions that `prepared` lacks share it. Without `with_gradient` the gradient is empty.
        """


@dataclass(frozen=True)
class Batch:
    """B pairs as a plugin's loss sees them; leading dimensions are of several batches. Each field is read when used."""

    pairs: CachedPairs  # the training or the development set
    rows: Tensor  # (..., B) of `pairs`
    captions: Tensor  # (..., B) rows of `pairs.text`, one caption each

    def __len__(self) -> int:
        return self.rows.shape[-1]

    def __getitem__(self, batch: int) -> Batch:
        """One batch of the leading dimension."""
        return Batch(self.pairs, self.rows[batch], self.captions[batch])

    @property
    def labels(self) -> Tensor:
        """(..., B, 3) float64: valence, arousal, dominance from 1 to 7; NaN where unlabelled."""
        return self.pairs.labels[self.rows]

    @property
    def emotion(self) -> Tensor:
        """(..., B) int64 codes of the categories; -1 where unknown."""
        return self.pairs.emotion[self.rows]

    @property
    def gender(self) -> Tensor:
        """(..., B) int64 codes; -1 where unknown."""
        return self.pairs.gender[self.rows]

    @property
    def text(self) -> Tensor:
        """(..., B, Dt) float32 caption vectors of the frozen encoder, not standardised."""
        return self.pairs.text[self.captions]

    @property
    def speech(self) -> Tensor:
        """(..., B, Da) float32 speech vectors of the frozen encoder, not standardised."""
        if self.pairs.disk is None:
            return self.pairs.speech[self.rows]
        return self.pairs.disk.read(self.rows.flatten()).view(*self.rows.shape, -1)

    @property
    def acoustic(self) -> Tensor | None:
        """(..., B, F) float32 acoustic features, where the stores have them."""
        return None if self.pairs.acoustic is None else self.pairs.acoustic[self.rows]


@dataclass(frozen=True)
class CustomLoss:
    """A plugin's loss with its settings.

    A loss that is not finite is not refused here: a sweep's trial may diverge, and fails alone.
    """

    plugin: Plugin
    settings: Mapping[str, Any]
    recordable: ClassVar[bool] = False  # a recording would repeat whatever its Python decided the first time

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor) -> Batch:
        return Batch(pairs, rows, captions)

    def loss(self, logits: Tensor, prepared: Batch) -> Tensor:
        flat = logits.reshape(-1, *logits.shape[-2:]).unbind()
        return torch.stack([self._loss_of_batch(batch, prepared, index) for index, batch in enumerate(flat)]).mean()

    def gradient(self, logits: Tensor, prepared: Batch, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        flat = logits.detach().reshape(-1, *logits.shape[-2:])
        losses, gradients = flat.new_empty(len(flat)), torch.empty_like(flat if with_gradient else flat[:0])
        with torch.set_grad_enabled(with_gradient):
            for index, batch in enumerate(flat):
                variable = batch.clone().requires_grad_(with_gradient)
                loss = self._loss_of_batch(variable, prepared, index)
                losses[index] = loss.detach()
                if not with_gradient:
                    continue
                gradient = None
                if loss.requires_grad:
                    with translate_errors(self.plugin, self.plugin.source, "a loss that autograd can follow"):
                        (gradient,) = torch.autograd.grad(loss, variable, allow_unused=True)
                if gradient is None:
                    found = "its loss does not depend on the logits"
                    action = "Compute it from the logits, without detaching."
                    raise EmotionRankError(self.plugin, found, "one with a gradient", action)
                gradients[index] = gradient
        return losses.view(logits.shape[:-2]), gradients.view(logits.shape) if with_gradient else gradients.flatten()

    def _loss_of_batch(self, logits: Tensor, prepared: Batch, index: int) -> Tensor:
        """The loss of (B, B) logits, those at `index` of all leading dimensions.

        Leading dimensions that `prepared` lacks share it. Raises EmotionRankError for what is not one number.
        """
        rows, captions = (tensor.reshape(-1, len(prepared)) for tensor in (prepared.rows, prepared.captions))
        batch = Batch(prepared.pairs, rows[index % len(rows)], captions[index % len(rows)])
        with translate_errors(self.plugin, self.plugin.source, "a loss of (logits, batch)"):
            loss = self.plugin.make(logits, batch, **self.settings)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            shape = f" of shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else ""
            found = f"it returned a {type(loss).__name__}{shape}"
            raise EmotionRankError(self.plugin, found, "one number, as a tensor", "Return the mean over the batch.")
        return loss.reshape(())


def required_labels(config: AnyObjective) -> Sequence[str]:
    """The numeric labels without which a row cannot be trained on. Categories may be unknown (soft_targets)."""
    if isinstance(config, CustomObjectiveConfig):
        return find("objective", config.name).labels
    return config.labels if isinstance(config, RankingConfig) else ()


def objective_of(config: AnyObjective, train: CachedPairs) -> Objective:
    """The objective of `config`; SmoothCLAP's standardisation is fitted on the training pairs.

    Raises UsageError where the stores lack the acoustic features it needs, or its plugin is not registered.
    """
    if isinstance(config, CustomObjectiveConfig):
        return CustomLoss(find("objective", config.name), config.settings)
    if isinstance(config, RankingConfig):
        return Ranking(config)
    return fit_soft_targets(config, train)


def where_to_look(config: AnyObjective) -> str:
    """What to do about a loss that is not finite."""
    if not isinstance(config, CustomObjectiveConfig):
        return "Lower learning_rate, or look at temperature."
    return (
        f"Look at objective {config.name} (labels that are missing are nan where register_objective does not name "
        "them; a root of 0 has no slope), or lower learning_rate."
    )
