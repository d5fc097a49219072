"""The pairs as the step takes them: standardised tensors on the device, cut into batches by an index."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs, OnDisk
from cache.stores import Stores
from pipeline.objectives.base import Objective
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads import Heads
from pipeline.training.kernels import replayed_step

log = logging.getLogger(__name__)

_DISK_ROWS = 2**13  # read at once
_STEPS_AHEAD = 64  # steps whose orders or targets are made in one call, at most
_PAIRS_AHEAD = 2**18  # and the pairs of one call: their orders take 24 bytes each


def fit_standardisation(heads: Heads, pairs: CachedPairs, stores: Stores, when: str) -> None:
    """Set mean and std of each channel of the frozen vectors from the training pairs, where `when` says so.

    `when` is "always", "never", or "auto": the embedded encoders' vectors only.
    """
    for side in ("audio", "text"):
        embedded = stores.fingerprint()[side]["encoder"]["encoder"] == "embedded"
        if when == "never" or (when == "auto" and not embedded):
            continue
        log.info(f"{side} features are standardised ({'the embedded encoder' if when == 'auto' else when})")
        if side == "audio" and pairs.disk is not None:
            std, mean = _std_and_mean_on_disk(pairs.disk)
        else:
            std, mean = torch.std_mean((pairs.speech if side == "audio" else pairs.text).double(), dim=0)
        getattr(heads, f"{side}_mean").copy_(mean)
        getattr(heads, f"{side}_std").copy_(std.clamp_min(1e-6))


def _std_and_mean_on_disk(disk: OnDisk) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each channel of vectors that stay on disk, (D,) float64."""
    count = len(disk.rows)
    shift = disk.read(torch.zeros(1, dtype=torch.int64)).double()  # (1, D), against cancellation
    sums, squares = torch.zeros_like(shift[0]), torch.zeros_like(shift[0])
    for places in torch.split(torch.arange(count), _DISK_ROWS):
        vectors = disk.read(places).double() - shift
        sums += vectors.sum(0)
        squares += vectors.square().sum(0)
    mean = sums / count
    variance = (squares - count * mean.square()) / max(1, count - 1)
    return variance.clamp_min(0).sqrt(), mean + shift[0]


@dataclass(frozen=True)
class TrainingBatches:
    """S batches of B pairs, and what each objective prepared for them."""

    rows: Tensor  # (S, B) of pairs.speech
    captions: Tensor  # (S, B) of pairs.text
    prepared: list[Any]  # by objective; `prepared[g][s]` is that of one batch


@dataclass
class TrainingData:
    """Training and development pairs, their vectors standardised once for all configurations."""

    pairs: CachedPairs
    dev: CachedPairs
    batch_size: int
    standard: Heads  # untrained; its mean and std are those of the training pairs

    def __post_init__(self) -> None:
        with torch.no_grad():
            self.speech, self.text = self.standard.standardise(self.pairs.speech, self.pairs.text)
            self.dev_speech, self.dev_text = self.standard.standardise(self.dev.speech, self.dev.text)

    @property
    def device(self) -> torch.device:
        return self.text.device

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return max(1, len(self.pairs) // self.batch_size)

    def train(
        self, heads: BatchedHeads, seed: int, epoch: int, check: Callable[[], None], part: slice = slice(None)
    ) -> Tensor:
        """Train for an epoch, or its steps `part.start` to `part.stop`; each configuration's mean loss, (C,).

        The batches follow from (`seed`, `epoch`). `check` raises when it is time to stop.
        """
        losses = []
        for batches in epoch_batches(self.pairs, self.batch_size, epoch_rng(seed, epoch), heads.objectives, part):
            speech = self._from_disk(self.pairs, batches.rows)
            losses += [self.step(heads, batches, s, speech) for s in range(len(batches.rows))]
            check()
        return torch.stack(losses).mean(0)

    def step(self, heads: BatchedHeads, batches: TrainingBatches, s: int, speech: Tensor | None = None) -> Tensor:
        """Step on batch `s`; returns the losses before it, (C,). `speech`: (S, B, Da) where it was read from disk."""
        batch_speech = self.speech[batches.rows[s]] if speech is None else speech[s]
        batch = batch_speech, self.text[batches.captions[s]], [prepared[s] for prepared in batches.prepared]
        if heads.chosen_step is None:
            recordable = self.device.type == "cuda" and all(objective.recordable for objective in heads.objectives)
            heads.chosen_step = replayed_step(heads, batch) if recordable else heads.step
        return heads.chosen_step(*batch)

    def dev_batches(self, objectives: Sequence[Objective]) -> list[TrainingBatches]:
        """The development set's batches, always the same."""
        return list(epoch_batches(self.dev, self.batch_size, torch.Generator().manual_seed(0), objectives))

    def dev_losses(self, heads: BatchedHeads, batches: Sequence[TrainingBatches]) -> list[float]:
        """Each configuration's mean loss over the development set's batches, which are projected many at a time."""
        texts = [heads.project(c, "text", self.dev_text) for c in range(heads.count)]
        sums = torch.zeros(heads.count, dtype=torch.float64, device=self.device)
        for part in batches:
            speech = self._from_disk(self.dev, part.rows)
            speech = self.dev_speech[part.rows] if speech is None else speech
            for c, text in enumerate(texts):
                cosines = heads.project(c, "audio", speech) @ text[part.captions].mT
                sums[c] += heads.losses(c, cosines, part.prepared).sum()
        return (sums / sum(len(part.rows) for part in batches)).tolist()

    def _from_disk(self, pairs: CachedPairs, rows: Tensor) -> Tensor | None:
        """Standardised (S, B, Da) speech vectors of `rows` where `pairs` keep them on disk."""
        if pairs.disk is None:
            return None
        return self.standard.standardise_side("audio", pairs.disk.read(rows.flatten())).view(*rows.shape, -1)


def epoch_rng(seed: int, epoch: int) -> torch.Generator:
    """Every draw of one epoch: its order and its captions."""
    mixed = hashlib.blake2b(f"{seed}:{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little") >> 1)


def epoch_batches(
    pairs: CachedPairs, size: int, rng: torch.Generator, objectives: Sequence[Objective], part: slice = slice(None)
) -> Iterator[TrainingBatches]:
    """The batches of `size` pairs of one epoch, or of `part` of its steps, up to `_STEPS_AHEAD` at a time.

    Rows that fill no batch are left to the next shuffle.
    """
    size = min(size, len(pairs))
    rows = pairs.shuffled(rng).to(pairs.text.device)
    rows = rows[: len(rows) // size * size].view(-1, size)[part]
    captions = pairs.draw_captions(rng)
    for chunk in torch.split(rows, max(1, min(_STEPS_AHEAD, _PAIRS_AHEAD // size**2))):
        drawn = captions[chunk]
        yield TrainingBatches(chunk, drawn, [objective.prepare(pairs, chunk, drawn) for objective in objectives])
