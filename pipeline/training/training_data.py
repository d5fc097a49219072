"""Mean and deviation of each channel of the frozen vectors, of the training pairs alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from cache.stores import Stores
from pipeline.objectives.base import Objective
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads import Heads
from pipeline.training.kernels import replayed_step

log = logging.getLogger(__name__)

_ROWS = 2**13  # read from disk at once


def fit_standardisation(heads: Heads, pairs: CachedPairs, stores: Stores, when: str) -> None:
    """Set mean and spread of each channel from the training split, per modality, where `when` asks for it."""
    for name in ("audio", "text"):
        embedded = stores.fingerprint()[name]["encoder"]["encoder"] == "embedded"
        if when == "never" or (when == "auto" and not embedded):
            continue
        log.info(f"{name} features are standardised ({'the embedded encoder' if when == 'auto' else when})")
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


_STEPS_AHEAD = 64  # steps whose orders or targets are made in one call, at most
_PAIRS_AHEAD = 2**18  # and the pairs of one call: their orders take 24 bytes each


@dataclass(frozen=True)
class TrainingBatches:
    """S steps' worth of batches: rows, their captions, and what each objective wants to know of them."""

    rows: Tensor  # (S, B) of pairs.speech
    captions: Tensor  # (S, B) of pairs.text
    prepared: list[Any]  # by objective; `prepared[g][s]` is that of one batch


@dataclass
class TrainingData:
    """Training and development pairs with their vectors standardised, once for all who train on them."""

    pairs: CachedPairs
    dev: CachedPairs
    batch_size: int
    standard: Heads  # whose mean and spread are those of the training pairs
    speech: Tensor = field(init=False)
    text: Tensor = field(init=False)
    dev_speech: Tensor = field(init=False)
    dev_text: Tensor = field(init=False)

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
        self, stack: BatchedHeads, seed: int, epoch: int, check: Callable[[], None], part: slice = slice(None)
    ) -> Tensor:
        """Step through an epoch, or its steps `part.start` to `part.stop`; each member's mean loss, (C,).

        `seed` is of the batches. `check` raises when it is time to stop.
        """
        losses = []
        for batches in steps_of(self.pairs, self.batch_size, epoch_generator(seed, epoch), stack.objectives, part):
            near = self._near(self.pairs, batches.rows)
            losses += [self.step(stack, batches, s, near) for s in range(len(batches.rows))]
            check()
        return torch.stack(losses).mean(0)

    def step(self, stack: BatchedHeads, batches: TrainingBatches, s: int, near: Tensor | None = None) -> Tensor:
        """One step of every member; returns their losses before it, (C,). `near` are the (S, B, Da) speech vectors."""
        speech = self.speech[batches.rows[s]] if near is None else near[s]
        text, prepared = self.text[batches.captions[s]], [of_all[s] for of_all in batches.prepared]
        if stack.fastest is None:
            replays = self.device.type == "cuda" and all(objective.recordable for objective in stack.objectives)
            stack.fastest = replayed_step(stack, speech, text, prepared) if replays else stack.step
        return stack.fastest(speech, text, prepared)

    def dev_batches(self, objectives: Sequence[Objective]) -> list[TrainingBatches]:
        """The development set's batches, which never change: one draw, one order."""
        return list(steps_of(self.dev, self.batch_size, torch.Generator().manual_seed(0), objectives))

    def dev_losses(self, stack: BatchedHeads, batches: Sequence[TrainingBatches]) -> list[float]:
        """Each member's mean loss over the development set's batches, which are projected many at a time."""
        texts = [stack.project(c, "text", self.dev_text) for c in range(stack.count)]
        sums = torch.zeros(stack.count, dtype=torch.float64, device=self.device)
        for part in batches:
            near = self._near(self.dev, part.rows)
            vectors = self.dev_speech[part.rows] if near is None else near
            for c, text in enumerate(texts):
                cosines = stack.project(c, "audio", vectors) @ text[part.captions].mT
                sums[c] += stack.losses(c, cosines, part.prepared).sum()
        return (sums / sum(len(part.rows) for part in batches)).tolist()

    def _near(self, pairs: CachedPairs, rows: Tensor) -> Tensor | None:
        """Standardised (S, B, Da) speech vectors of `rows` where they are read from disk."""
        if pairs.disk is None:
            return None
        return self.standard.standardised("audio", pairs.disk.read(rows.flatten())).view(*rows.shape, -1)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Every draw of one epoch: its order and its captions."""
    mixed = hashlib.blake2b(f"{seed}:{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little") >> 1)


def steps_of(
    pairs: CachedPairs,
    size: int,
    generator: torch.Generator,
    objectives: Sequence[Objective],
    part: slice = slice(None),
) -> Iterator[TrainingBatches]:
    """The batches of one epoch, or of `part` of its steps, up to `_STEPS_AHEAD` at a time.

    Rows that fill no batch are left to the next shuffle.
    """
    size = min(size, len(pairs))
    rows = pairs.shuffled(generator).to(pairs.text.device)
    rows = rows[: len(rows) // size * size].view(-1, size)[part]
    captions = pairs.draw_captions(generator)
    for chunk in torch.split(rows, max(1, min(_STEPS_AHEAD, _PAIRS_AHEAD // size**2))):
        own = captions[chunk]
        yield TrainingBatches(chunk, own, [objective.prepare(pairs, chunk, own) for objective in objectives])
