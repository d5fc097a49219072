"""Mean and deviation of each channel of the frozen vectors, of the training pairs alone."""

from __future__ import annotations

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from cache.stores import Stores
from pipeline.heads import Heads
from pipeline.progress import say

_ROWS = 2**13  # read from disk at once


def fit_standardisation(heads: Heads, pairs: CachedPairs, stores: Stores, when: str) -> None:
    """Set mean and spread of each channel from the training split, per modality, where `when` asks for it."""
    for name in ("audio", "text"):
        embedded = stores.fingerprint()[name]["encoder"]["encoder"] == "embedded"
        if when == "never" or (when == "auto" and not embedded):
            continue
        say(f"{name} features are standardised ({'the embedded encoder' if when == 'auto' else when})")
        spread, mean = _spread_and_mean(pairs, name)
        getattr(heads, f"{name}_mean").copy_(mean)
        getattr(heads, f"{name}_spread").copy_(spread.clamp_min(1e-6))


def _spread_and_mean(pairs: CachedPairs, name: str) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each channel of the speech or text vectors, (D,) float64."""
    if name == "text" or pairs.disk is None:
        return torch.std_mean((pairs.text if name == "text" else pairs.speech).double(), dim=0)
    count = len(pairs)
    sums, squares = (torch.zeros(pairs.speech.shape[1], dtype=torch.float64, device=pairs.text.device) for _ in "12")
    first = pairs.disk.read(torch.zeros(1, dtype=torch.int64)).double()  # a shift against cancellation
    for places in torch.split(torch.arange(count), _ROWS):
        vectors = pairs.disk.read(places).double() - first
        sums += vectors.sum(0)
        squares += vectors.square().sum(0)
    mean = sums / count
    return ((squares - count * mean.square()) / max(1, count - 1)).clamp_min(0).sqrt(), mean + first[0]
