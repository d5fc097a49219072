"""An objective of the user's own: a function of logits and a batch, its gradient by autograd (docs/objectives.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.errors import EmotionRankError
from pipeline.own_code import told
from pipeline.registry import Part


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
class Own:
    """A registered loss with its settings.

    What it gives is checked but for being finite: a sweep's trial may diverge, and fails alone.
    """

    part: Part
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
        with told(self.part, self.part.source, "a loss of (logits, batch)"):
            loss = self.part.make(logits, batch, **self.settings)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            shape = f" of shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else ""
            found = f"it returned a {type(loss).__name__}{shape}"
            raise EmotionRankError(self.part, found, "one number, as a tensor", "Return the mean over the batch.")
        return loss.reshape(())

    def _slope(self, loss: Tensor, logits: Tensor) -> Tensor:
        slope = None
        if loss.requires_grad:
            with told(self.part, self.part.source, "a loss that autograd can follow"):
                (slope,) = torch.autograd.grad(loss, logits, allow_unused=True)
        if slope is None:
            found, action = "its loss does not depend on the logits", "Compute it from the logits, without detaching."
            raise EmotionRankError(self.part, found, "one with a gradient", action)
        return slope
