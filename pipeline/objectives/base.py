"""What an objective is, built in or a plugin's, and what a plugin's loss is given (docs/objectives.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.core.config import TrainConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.core.objective_config import (
    CLOSED_FORMS,
    AnyObjective,
    CustomObjectiveConfig,
    RankingConfig,
)
from pipeline.core.plugins import Plugin, find, translate_errors
from pipeline.objectives.gap import WithGap
from pipeline.objectives.grid import WithGrid
from pipeline.objectives.rank_n_contrast import Ranking
from pipeline.objectives.soft_targets import fit_soft_targets
from pipeline.objectives.space import LogitsObjective, Objective, SharedSpace, Slopes, State


@dataclass(frozen=True)
class Batch:
    """B pairs and M extra texts as a plugin's loss sees them; leading dimensions are of several batches.

    Each field is read when it is used.
    """

    pairs: CachedPairs  # the training or the development set
    rows: Tensor  # (..., B) of `pairs`
    captions: Tensor  # (..., B + M) rows of `pairs.text`: a caption of each pair, then the extra texts
    space: SharedSpace | None = None  # of this batch, under autograd; None where a loss is asked for logits alone
    state: State = field(default_factory=dict)  # tensors that are kept until the next step, and in checkpoints

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
    def label_error(self) -> Tensor:
        """(..., B, 3) float64 standard errors of `labels`, the raters' std / sqrt(n); NaN where unknown."""
        known = self.pairs.label_error
        return torch.full_like(self.labels, torch.nan) if known is None else known[self.rows]

    @property
    def votes(self) -> Tensor | None:
        """(..., B, K) float64 share of the raters who named each code of `emotion`, where the stores have votes."""
        return None if self.pairs.votes is None else self.pairs.votes[self.rows]

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
        return self.pairs.text[self.captions[..., : len(self)]]

    @property
    def extra_text(self) -> Tensor:
        """(..., M, Dt) float32 vectors of the extra texts: grid.texts of the plane, then class texts."""
        return self.pairs.text[self.captions[..., len(self) :]]

    @property
    def extra_points(self) -> Tensor:
        """(..., M, 2) float64 valence and arousal that the extra texts describe, 0.5 to 7; NaN for a class text."""
        return self.pairs.extra(self.captions[..., len(self) :])[0]

    @property
    def extra_emotion(self) -> Tensor:
        """(..., M) int64 codes of the category that an extra text names; -1 for a point of the plane."""
        return self.pairs.extra(self.captions[..., len(self) :])[1]

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
class CustomLoss(Objective):
    """A plugin's loss with its settings.

    A loss that is not finite is not refused here: a sweep's trial may diverge, and fails alone.
    """

    plugin: Plugin
    settings: Mapping[str, Any]

    @property
    def recordable(self) -> bool:
        return False  # a recording would repeat whatever its Python decided the first time

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor) -> Batch:
        return Batch(pairs, rows, captions)

    def space_loss(self, space: SharedSpace, prepared: Batch) -> Tensor:
        return self._loss_of_batch(space, prepared, 0, space.states[0] if space.states else {})

    def space_losses(self, space: SharedSpace, prepared: Batch) -> Tensor:
        with torch.no_grad():
            losses = [
                self._loss_of_batch(space.of_batch(index), prepared, index, dict(space.states[0]))
                for index in range(len(space.speech))
            ]
        return torch.stack(losses)

    def space_gradient(self, space: SharedSpace, prepared: Batch) -> tuple[Tensor, Slopes]:
        losses, slopes = [], []
        for c, state in enumerate(space.states):
            part = space.of_batch(c)
            speech, text = part.speech * part.speech_length, part.text * part.text_length
            leaves = [leaf.requires_grad_() for leaf in (speech, text, part.log_scale.clone())]
            loss = self._loss_of_batch(SharedSpace.of(speech, text, leaves[2]), prepared, 0, state)
            gradients: Sequence[Tensor | None] = [None]
            if loss.requires_grad:
                with translate_errors(self.plugin, self.plugin.source, "a loss that autograd can follow"):
                    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
            if all(gradient is None for gradient in gradients):
                found = "its loss does not depend on the logits or the space"
                action = "Compute it from these, without detaching."
                raise EmotionRankError(self.plugin, found, "one with a gradient", action)
            losses.append(loss.detach())
            pairs = zip(gradients, leaves, strict=True)
            slopes.append([torch.zeros_like(leaf) if slope is None else slope for slope, leaf in pairs])
        return torch.stack(losses), Slopes(*(torch.stack(side) for side in zip(*slopes, strict=True)))

    def _loss_of_batch(self, space: SharedSpace, prepared: Batch, index: int, state: State) -> Tensor:
        """The loss of one batch in the space, that at `index` of the leading dimension of `prepared`, if it has one.

        Raises EmotionRankError for what is not one number, or a state that is not of tensors.
        """
        batch = prepared if prepared.rows.dim() == 1 else prepared[index]
        batch = replace(batch, space=space, state=state)
        with translate_errors(self.plugin, self.plugin.source, "a loss of (logits, batch)"):
            loss = self.plugin.make(space.logits()[:, : len(batch)], batch, **self.settings)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            shape = f" of shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else ""
            found = f"it returned a {type(loss).__name__}{shape}"
            raise EmotionRankError(self.plugin, found, "one number, as a tensor", "Return the mean over the batch.")
        kept: Any
        for name, kept in state.items():
            if not isinstance(kept, Tensor):
                found = f"a {type(kept).__name__} as batch.state[{name!r:.40}]"
                raise EmotionRankError(self.plugin, found, "tensors, which a checkpoint can hold", "Keep a tensor.")
            state[name] = kept.detach()
        return loss.reshape(())


def objective_of(config: TrainConfig, train: CachedPairs) -> Objective:
    """The objective of `config`; SmoothCLAP's standardisation is fitted on the training pairs.

    Raises UsageError where the stores lack the acoustic features it needs, or its plugin is not registered.
    """
    objective = _without_gap(config, train)
    return WithGap(objective, config.gap) if config.gap.centroid or config.gap.covariance else objective


def _without_gap(config: TrainConfig, train: CachedPairs) -> Objective:
    named = config.objective
    if isinstance(named, CustomObjectiveConfig):
        return CustomLoss(find("objective", named.name), named.settings)
    if isinstance(named, CLOSED_FORMS):
        found = "a closed form, which takes no steps"
        raise UsageError(f"objective {named.name}", found, "an objective that is trained", "Fit it with train-heads.")
    built_in: LogitsObjective
    built_in = Ranking(named) if isinstance(named, RankingConfig) else fit_soft_targets(named, train)
    return WithGrid(built_in, config.grid) if config.grid.texts else built_in


def where_to_look(config: AnyObjective) -> str:
    """What to do about a loss that is not finite."""
    if not isinstance(config, CustomObjectiveConfig):
        return "Lower learning_rate, or look at temperature."
    return (
        f"Look at objective {config.name} (labels that are missing are nan where register_objective does not name "
        "them; a root of 0 has no slope), or lower learning_rate."
    )
