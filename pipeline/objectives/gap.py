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
        return self.objective.space_loss(space, prepared) + self._clouds(space).price(self.config).mean()

    def space_losses(self, space: SharedSpace, prepared: Any) -> Tensor:
        return self.objective.space_losses(space, prepared) + self._clouds(space).price(self.config)

    def space_gradient(self, space: SharedSpace, prepared: Any) -> tuple[Tensor, Slopes]:
        losses, slopes = self.objective.space_gradient(space, prepared)
        clouds, size = self._clouds(space), space.speech.shape[-2]
        of_speech, of_text = clouds.gradient(self.config)
        slopes.speech.add_(before_normalisation(of_speech, space.speech, space.speech_length))
        pairs = slopes.text[..., :size, :]
        pairs.add_(before_normalisation(of_text, space.text[..., :size, :], space.text_length[..., :size, :]))
        return losses + clouds.price(self.config), slopes

    def _clouds(self, space: SharedSpace) -> _Clouds:
        return _Clouds.of(space.speech, space.text[..., : space.speech.shape[-2], :], bool(self.config.covariance))


@dataclass(frozen=True)
class _Clouds:
    """The speech and the text of B pairs, less their centroids, and the products that make |Cov(a) - Cov(t)|^2.

    The (dim, dim) covariances are never made: B < dim, and |X'X|^2 = |XX'|^2.
    """

    between: Tensor  # (..., 1, dim) from the texts' centroid to the utterances'
    speech: Tensor  # (..., B, dim)
    text: Tensor  # (..., B, dim)
    grams: tuple[Tensor, Tensor, Tensor] | None  # (..., B, B): of speech, of text, of one with the other

    @classmethod
    def of(cls, speech: Tensor, text: Tensor, with_covariances: bool) -> _Clouds:
        means = [side.mean(-2, keepdim=True) for side in (speech, text)]
        a, t = speech - means[0], text - means[1]
        grams = (a @ a.mT, t @ t.mT, a @ t.mT) if with_covariances else None
        return cls(means[0] - means[1], a, t, grams)

    def price(self, config: GapConfig) -> Tensor:
        """(...) of each batch or configuration."""
        price = config.centroid * self.between.square().sum((-2, -1))
        if self.grams is None:
            return price
        of_speech, of_text, across = (gram.square().sum((-2, -1)) for gram in self.grams)
        return price + config.covariance * (of_speech + of_text - 2 * across) / self.speech.shape[-2] ** 2

    def gradient(self, config: GapConfig) -> tuple[Tensor, Tensor]:
        """(..., B, dim) of the speech and of the text."""
        size = self.speech.shape[-2]
        of_speech = (2 * config.centroid / size * self.between).expand_as(self.speech).clone()
        of_text = -of_speech
        if self.grams is not None:
            factor, (speech, text, across) = 4 * config.covariance / size**2, self.grams
            of_speech += factor * (speech @ self.speech - across @ self.text)
            of_text += factor * (text @ self.text - across.mT @ self.speech)
        return of_speech, of_text
