"""An objective as training sees it: what it needs of the labels, made ahead of the steps, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from cache.manifest import LABEL_COLUMNS
from cache.pairs import CachedPairs
from pipeline.errors import UsageError
from pipeline.objective_config import AnyObjective, OwnObjectiveConfig, RankingConfig, SoftTargetsConfig
from pipeline.objectives.label_order import Order, label_order
from pipeline.objectives.own import Own
from pipeline.objectives.ranking import rank_n_contrast, rank_n_contrast_gradient
from pipeline.objectives.soft_targets import (
    Targets,
    gemo,
    identity,
    same_class,
    smooth,
    soft_target_gradient,
    soft_target_loss,
)
from pipeline.plugins import find


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
        `prepared` lacks share it."""


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


def needed_labels(config: AnyObjective) -> Sequence[str]:
    """The numeric labels without which a row cannot be trained on. Categories may be unknown (soft_targets)."""
    if isinstance(config, OwnObjectiveConfig):
        return find("objective", config.name).labels
    return config.labels if isinstance(config, RankingConfig) else ()


def objective_of(config: AnyObjective, train: CachedPairs) -> Objective:
    """The objective of `config`; what it fits (SmoothCLAP's standardisation), it fits on the training pairs.

    Raises UsageError when the stores lack what it compares (acoustic features), or its code is not registered.
    """
    if isinstance(config, OwnObjectiveConfig):
        return Own(find("objective", config.name), config.settings)
    if isinstance(config, RankingConfig):
        return Ranking(config)
    return SoftTargets(config, _maker(config, train))


def where_to_look(config: AnyObjective) -> str:
    """What to do about a loss that is not finite."""
    if not isinstance(config, OwnObjectiveConfig):
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
