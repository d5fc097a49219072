"""The price of the gap: what the distance of the speech cloud and the text cloud of a batch adds to any objective.

    loss + centroid |mean(a) - mean(t)|^2 + covariance |Cov(a) - Cov(t)|_F^2      (M6 of the literature: CORAL)

a and t are the unit vectors of the B pairs; extra texts, which are spread over the plane otherwise than the utterances,
take no part. A collapsed space pays nothing: read order and recognition beside the distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.core.objective_config import GapConfig
from pipeline.objectives.space import Objective, SharedSpace, Slopes, before_normalisation


@dataclass(frozen=True)
class WithGap(Objective):
    """`objective`, and the price of `config` on the gap between its pairs."""

    objective: Objective
    config: GapConfig

    @property
    def recordable(self) -> bool:
        return self.objective.recordable

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor) -> Any:
        return self.objective.prepare(pairs, rows, captions)

    def space_loss(self, space: SharedSpace, prepared: Any) -> Tensor:
        return self.objective.space_loss(space, prepared) + self.price(space).mean()

    def space_losses(self, space: SharedSpace, prepared: Any) -> Tensor:
        return self.objective.space_losses(space, prepared) + self.price(space)

    def space_gradient(self, space: SharedSpace, prepared: Any) -> tuple[Tensor, Slopes]:
        losses, slopes = self.objective.space_gradient(space, prepared)
        between, (speech, text) = self._between(space), self._centred(space)
        size, size_squared = speech.shape[-2], speech.shape[-2] ** 2
        of_speech = (2 * self.config.centroid / size * between).expand_as(speech).clone()
        of_text = -of_speech
        if self.config.covariance:  # d |Cov(a) - Cov(t)|^2 / d a, with the covariances never made: B < dim
            factor, across = 4 * self.config.covariance / size_squared, speech @ text.mT
            of_speech += factor * (speech @ speech.mT @ speech - across @ text)
            of_text += factor * (text @ text.mT @ text - across.mT @ speech)
        slopes.speech.add_(before_normalisation(of_speech, space.speech, space.speech_length))
        pairs = slopes.text[..., :size, :]
        pairs.add_(before_normalisation(of_text, space.text[..., :size, :], space.text_length[..., :size, :]))
        return losses + self.price(space), slopes

    def price(self, space: SharedSpace) -> Tensor:
        """(...) of each batch or configuration."""
        price = self.config.centroid * self._between(space).square().sum((-2, -1))
        if self.config.covariance:
            speech, text = self._centred(space)
            grams = [(a @ b.mT).square().sum((-2, -1)) for a, b in ((speech, speech), (text, text), (speech, text))]
            price = price + self.config.covariance * (grams[0] + grams[1] - 2 * grams[2]) / speech.shape[-2] ** 2
        return price

    @staticmethod
    def _between(space: SharedSpace) -> Tensor:
        """(..., 1, dim) from the texts' centroid to the utterances'."""
        return space.speech.mean(-2, keepdim=True) - _pairs_text(space).mean(-2, keepdim=True)

    @staticmethod
    def _centred(space: SharedSpace) -> tuple[Tensor, Tensor]:
        """(..., B, dim) of speech and of text, less their centroids."""
        speech, text = space.speech, _pairs_text(space)
        return speech - speech.mean(-2, keepdim=True), text - text.mean(-2, keepdim=True)


def _pairs_text(space: SharedSpace) -> Tensor:
    return space.text[..., : space.speech.shape[-2], :]
