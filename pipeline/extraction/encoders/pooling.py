"""Frames to one vector: weighted statistics over a clip's own frames, never over padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.core.errors import UsageError

Pool = Callable[[Tensor, Tensor], Tensor]  # frames (B, T, D), mask (B, T) -> (B, dim)


def frame_mask(counts: Tensor, frames: int) -> Tensor:
    """(B,) frames each clip has -> (B, frames), True where a frame is the clip's own."""
    return torch.arange(frames, device=counts.device)[None] < counts[:, None]


def uniform(mask: Tensor) -> Tensor:
    """(B, T) weights of the plain mean: 1 / T over a clip's own frames, 0 elsewhere."""
    return mask / mask.sum(1, keepdim=True)


def mean(frames: Tensor, weights: Tensor) -> Tensor:
    """frames (B, T, D), weights (B, T) -> (B, D)."""
    return torch.bmm(weights[:, None], frames)[:, 0]


def statistics(frames: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation (F19), each (B, D); variances are clamped at 1e-5 from below."""
    average = mean(frames, weights)
    # sum w (x - mu)^2 is sum w x^2 - mu^2 without its cancellation, which costs digits in outlier channels (F36)
    variance = mean((frames - average[:, None]).square(), weights)
    return average, variance.clamp_min(1e-5).sqrt()


def plain_pooling(kind: str, subject: object) -> Pool:
    """`mean`, or `mean_std` (mean || standard deviation), every frame alike. Raises UsageError for `hidden`."""
    if kind not in ("mean", "mean_std"):
        raise UsageError(subject, f"pooling {kind}", "mean or mean_std", "Only encoder wavlm_ser has a hidden layer.")

    def pool(frames: Tensor, mask: Tensor) -> Tensor:
        weights = uniform(mask)
        return mean(frames, weights) if kind == "mean" else torch.cat(statistics(frames, weights), 1)

    return pool


class AttentivePooling(nn.Module):
    """The weights of F19, under their published names: softmax(tanh(sap_linear(x)) @ attention) over frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sap_linear = nn.Linear(dim, dim)
        self.attention = nn.Parameter(torch.zeros(dim, 1))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """frames (B, T, D), mask (B, T) -> weights (B, T), zero outside the mask."""
        scores = (torch.tanh(self.sap_linear(frames)) @ self.attention)[..., 0]
        return scores.masked_fill(~mask, -torch.inf).softmax(1)
