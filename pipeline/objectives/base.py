"""An objective of the user's own: a function of logits and a batch, its gradient by autograd (docs/objectives.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from cache.manifest import LABEL_COLUMNS
from cache.pairs import CachedPairs
from pipeline.core.config import AnyObjective, CustomObjectiveConfig, RankingConfig, SoftTargetsConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.core.plugins import Plugin, find, translate_errors
from pipeline.objectives.label_order import Order, label_order
from pipeline.objectives.rank_n_contrast import rank_n_contrast, rank_n_contrast_gradient
from pipeline.objectives.soft_targets import (
    Targets,
    gemo,
    identity,
    same_class,
    smooth,
    soft_target_gradient,
    soft_target_loss,
)


@dataclass(frozen=True)
class Batch:
    """B pairs as a loss of one's own sees them; leading dimensions are of several batches. Looked up when asked for."""

    pairs: CachedPairs  # all that are trained on, or the development set
    rows: Tensor  # (..., B) which of them
    captions: Tensor  # (..., B) which caption of each: rows of `pairs.text`

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
    """A registered loss with its settings.

    What it gives is checked but for being finite: a sweep's trial may diverge, and fails alone.
    """

    part: Plugin
    settings: Mapping[str, Any]
    recordable: ClassVar[bool] = False  # a recording would keep whatever its Python decided the first time

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor) -> Batch:
        return Batch(pairs, rows, captions)

    def loss(self, logits: Tensor, prepared: Batch) -> Tensor:
        each = logits.reshape(-1, *logits.shape[-2:]).unbind()
        return torch.stack([self._of_one(one, prepared, c) for c, one in enumerate(each)]).mean()

    def gradient(self, logits: Tensor, prepared: Batch, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        flat = logits.detach().reshape(-1, *logits.shape[-2:])
        losses, slopes = flat.new_empty(len(flat)), torch.empty_like(flat if with_gradient else flat[:0])
        with torch.set_grad_enabled(with_gradient):
            for c, each in enumerate(flat):
                own = each.clone().requires_grad_(with_gradient)
                loss = self._of_one(own, prepared, c)
                if with_gradient:
                    slopes[c] = self._slope(loss, own)
                losses[c] = loss.detach()
        leading = logits.shape[:-2]
        return losses.view(leading), slopes.view(logits.shape) if with_gradient else slopes.flatten()

    def _of_one(self, logits: Tensor, prepared: Batch, c: int) -> Tensor:
        """The loss of the c-th (B, B) of all leading dimensions; those that `prepared` lacks share it."""
        count = prepared.rows.shape[:-1].numel()
        batch = prepared
        if prepared.rows.dim() > 1:
            rows, captions = (t.reshape(count, -1)[c % count] for t in (prepared.rows, prepared.captions))
            batch = Batch(prepared.pairs, rows, captions)
        with translate_errors(self.part, self.part.source, "a loss of (logits, batch)"):
            loss = self.part.make(logits, batch, **self.settings)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            shape = f" of shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else ""
            found = f"it returned a {type(loss).__name__}{shape}"
            raise EmotionRankError(self.part, found, "one number, as a tensor", "Return the mean over the batch.")
        return loss.reshape(())

    def _slope(self, loss: Tensor, logits: Tensor) -> Tensor:
        slope = None
        if loss.requires_grad:
            with translate_errors(self.part, self.part.source, "a loss that autograd can follow"):
                (slope,) = torch.autograd.grad(loss, logits, allow_unused=True)
        if slope is None:
            found, action = "its loss does not depend on the logits", "Compute it from the logits, without detaching."
            raise EmotionRankError(self.part, found, "one with a gradient", action)
        return slope


class Objective(Protocol):
    """A loss of one method."""

    recordable: ClassVar[bool]  # whether CUDA may record its work once and replay it

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor, /) -> Any:
        """For (S, B) rows of `pairs` and their captions: from labels and frozen features alone, no gradient.

        What is prepared for S batches has `[s]`, what was prepared for one of them.
        """

    def loss(self, logits: Tensor, prepared: Any) -> Tensor:
        """(..., B, B) cosine / tau and what was prepared for them -> a scalar that flows gradient to them."""

    def gradient(self, logits: Tensor, prepared: Any, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        """Each batch's own loss (...) and its gradient (..., B, B), without autograd; leading dimensions that
        `prepared` lacks share it.
        """


@dataclass(frozen=True)
class Ranking:
    """Rank-N-Contrast (pipeline.objectives.ranking)."""

    config: RankingConfig
    recordable: ClassVar[bool] = True

    def prepare(self, pairs: CachedPairs, rows: Tensor, _: Tensor) -> Order:
        columns = [LABEL_COLUMNS.index(name) for name in self.config.labels]
        weights = torch.tensor(self.config.weights or [1.0] * len(columns), dtype=torch.float64, device=rows.device)
        return label_order(pairs.labels[rows][..., columns] * weights, distance=self.config.distance)

    def loss(self, logits: Tensor, prepared: Order) -> Tensor:
        config = self.config
        return rank_n_contrast(logits, prepared, denominator=config.denominator, symmetric=config.symmetric)

    def gradient(self, logits: Tensor, prepared: Order, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        return rank_n_contrast_gradient(
            logits,
            prepared,
            denominator=self.config.denominator,
            symmetric=self.config.symmetric,
            with_gradient=with_gradient,
        )


@dataclass(frozen=True)
class SoftTargets:
    """One of the soft-target family (pipeline.objectives.soft_targets)."""

    config: SoftTargetsConfig
    make: Callable[[CachedPairs, Tensor, Tensor], Targets]
    recordable: ClassVar[bool] = True

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor) -> Targets:
        return self.make(pairs, rows, captions)

    def loss(self, logits: Tensor, prepared: Targets) -> Tensor:
        return soft_target_loss(logits, prepared, divergence=self.config.divergence)

    def gradient(self, logits: Tensor, prepared: Targets, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        return soft_target_gradient(logits, prepared, divergence=self.config.divergence, with_gradient=with_gradient)


def required_labels(config: AnyObjective) -> Sequence[str]:
    """The numeric labels without which a row cannot be trained on. Categories may be unknown (soft_targets)."""
    if isinstance(config, CustomObjectiveConfig):
        return find("objective", config.name).labels
    return config.labels if isinstance(config, RankingConfig) else ()


def objective_of(config: AnyObjective, train: CachedPairs) -> Objective:
    """The objective of `config`; what it fits (SmoothCLAP's standardisation), it fits on the training pairs.

    Raises UsageError when the stores lack what it compares (acoustic features), or its code is not registered.
    """
    if isinstance(config, CustomObjectiveConfig):
        return CustomLoss(find("objective", config.name), config.settings)
    if isinstance(config, RankingConfig):
        return Ranking(config)
    return SoftTargets(config, _maker(config, train))


def where_to_look(config: AnyObjective) -> str:
    """What to do about a loss that is not finite."""
    if not isinstance(config, CustomObjectiveConfig):
        return "Lower learning_rate, or look at temperature."
    return (
        f"Look at objective {config.name} (labels that are missing are nan where register_objective does not name "
        "them; a root of 0 has no slope), or lower learning_rate."
    )


def _maker(config: SoftTargetsConfig, train: CachedPairs) -> Callable[[CachedPairs, Tensor, Tensor], Targets]:
    if config.targets == "identity":
        return lambda _, rows, __: identity(rows.shape[-1], batches=tuple(rows.shape[:-1]), device=rows.device)
    if config.targets == "same_emotion":
        return lambda pairs, rows, _: same_class(pairs.emotion[rows])
    if config.targets == "gemo":
        return lambda pairs, rows, _: gemo(pairs.emotion[rows], pairs.gender[rows], alpha=config.alpha, mix=config.mix)
    if train.acoustic is None:
        raise UsageError(
            "targets smooth", "stores without acoustic.h5", "acoustic features",
            "Run extract-features with the style acoustic: -o captions.styles=[dimensional,template,acoustic].",
        )  # fmt: skip
    spread, mean = torch.std_mean(train.acoustic, dim=0)
    spread = spread.clamp_min(1e-6)

    def smoothed(pairs: CachedPairs, rows: Tensor, captions: Tensor) -> Targets:
        assert pairs.acoustic is not None
        acoustic = (pairs.acoustic[rows] - mean) / spread
        texts = pairs.text[captions]
        return smooth(acoustic, texts, beta=config.beta, gamma=config.gamma, temperature=config.temperature)

    return smoothed
