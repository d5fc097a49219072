"""Mean and std of the frozen vectors, by which heads standardise them, and the covariance that a norm needs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cache.pairs import CachedPairs, OnDisk
from cache.stores import Stores
from pipeline.training.heads import Heads

log = logging.getLogger(__name__)

CHUNK_ROWS = 2**13  # read from disk or standardised at once
_CHANNELS = 16  # in float64 at once


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of the standardised vectors that a side's head is trained on, float64."""

    mean: Tensor  # (D,)
    covariance: Tensor  # (D, D)


def fit_standardisation(heads: Heads, pairs: CachedPairs, stores: Stores, when: str) -> None:
    """Set mean and std of each channel of the frozen vectors from the training pairs, where `when` says so.

    `when` is "always", "never", or "auto": the embedded encoders' vectors only.
    """
    for side in ("audio", "text"):
        encoder = stores.fingerprint()[side]["encoder"]["encoder"]
        if when == "never" or (when == "auto" and encoder not in ("embedded", "side by side")):
            continue
        log.info(f"{side} features are standardised (standardise={when}, encoder {encoder})")
        if side == "audio" and pairs.disk is not None:
            std, mean = std_and_mean_on_disk(pairs.disk)
        else:
            std, mean = std_and_mean(pairs.speech if side == "audio" else pairs.text)
        getattr(heads, f"{side}_mean").copy_(mean)
        getattr(heads, f"{side}_std").copy_(std.clamp_min(1e-6))


def std_and_mean(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.std_mean(vectors.double(), dim=0)` of (n, D), some channels at a time: float64 takes twice the memory."""
    count = -(-vectors.shape[1] // _CHANNELS)
    channels = torch.empty(len(vectors), _CHANNELS, dtype=torch.float64, device=vectors.device)
    std, mean = [], []
    for part in torch.tensor_split(vectors, count, dim=1):
        # into one buffer: malloc may lay each new one behind the last
        of_part = torch.std_mean(channels[:, : part.shape[1]].copy_(part), dim=0)
        std.append(of_part[0])
        mean.append(of_part[1])
    return torch.cat(std), torch.cat(mean)


def std_and_mean_on_disk(disk: OnDisk) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each channel of vectors that stay on disk, (D,) float64."""
    count = len(disk.rows)
    shift = disk.read(torch.zeros(1, dtype=torch.int64)).double()  # (1, D), against cancellation
    sums, squares = torch.zeros_like(shift[0]), torch.zeros_like(shift[0])
    for places in torch.split(torch.arange(count), CHUNK_ROWS):
        vectors = disk.read(places).double() - shift
        sums += vectors.sum(0)
        squares += vectors.square().sum(0)
    mean = sums / count
    variance = (squares - count * mean.square()) / max(1, count - 1)
    return variance.clamp_min(0).sqrt(), mean + shift[0]


def weighted_statistics(parts: Iterable[tuple[Tensor, Tensor]]) -> FeatureStatistics:
    """Of vectors (n, D) with weights (n,) that sum to 1 over all parts."""
    mean, second = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for vectors, weights in parts:
        mean = mean.to(vectors.device) + weights @ vectors.double()
        second = second.to(vectors.device) + vectors.double().mT @ (vectors.double() * weights[:, None])
    return FeatureStatistics(mean, second - torch.outer(mean, mean))
