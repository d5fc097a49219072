"""The pairs as the step takes them: tensors on the device, cut into batches by an index and then standardised.

The vectors lie in memory once, as the encoders gave them. Standardising a batch gives the bits that standardising all
of them would.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs, GridTexts, OnDisk, cached_pairs, class_texts, grid_texts
from cache.stores import Stores
from pipeline.core.config import TrainConfig
from pipeline.core.errors import UsageError
from pipeline.core.objective_config import NoHeadsConfig, RidgeConfig
from pipeline.core.resources import one_thread
from pipeline.objectives.base import required_labels, sees_raters
from pipeline.objectives.space import Objective
from pipeline.training.batched_heads import Batch, BatchedHeads
from pipeline.training.enough_data import refuse_too_little, with_min_steps
from pipeline.training.fused_step import FusedStack
from pipeline.training.heads import Heads
from pipeline.training.kernels import replayed_step
from pipeline.training.reference_step import FeatureStatistics

log = logging.getLogger(__name__)

_CHUNK_ROWS = 2**13  # read from disk or standardised at once
_CHANNELS = 16  # in float64 at once
_STEPS_AHEAD = 64  # steps whose orders or targets are made in one call, at most
_PAIRS_AHEAD = 2**18  # and the pairs of one call: their orders take 24 bytes each


def fit_standardisation(heads: Heads, pairs: CachedPairs, stores: Stores, when: str) -> None:
    """Set mean and std of each channel of the frozen vectors from the training pairs, where `when` says so.

    `when` is "always", "never", or "auto": the embedded encoders' vectors only.
    """
    for side in ("audio", "text"):
        encoder = stores.fingerprint()[side]["encoder"]["encoder"]
        if when == "never" or (when == "auto" and encoder not in ("embedded", "side by side")):
            continue
        log.info(f"{side} features are standardised ({when if when != 'auto' else f'the {encoder} encoder'})")
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
    for places in torch.split(torch.arange(count), _CHUNK_ROWS):
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
    captions: Tensor  # (S, B + M) of pairs.text: a caption of each pair, then M extra texts
    prepared: list[Any]  # by objective; `prepared[g][s]` is that of one batch


@dataclass
class TrainingData:
    """Training and development pairs, and the standardisation of their vectors, the same for all configurations."""

    pairs: CachedPairs
    dev: CachedPairs
    batch_size: int
    standard: Heads  # untrained; its mean and std are those of the training pairs
    extra: int = 0  # grid texts in each batch, of those that the pairs have; with them come all class texts
    grid: GridTexts | None = None  # not standardised

    @property
    def device(self) -> torch.device:
        return self.pairs.text.device

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return max(1, len(self.pairs) // self.batch_size)

    def operations(self, config: TrainConfig) -> float:
        """Multiplications and additions of the linear layers over all epochs of a seed, forward and backward."""
        pairs = config.epochs * self.steps * min(self.batch_size, len(self.pairs))
        return 6.0 * pairs * (self.pairs.speech.shape[1] + self.pairs.text.shape[1]) * config.width

    def train(
        self, heads: BatchedHeads, seed: int, epoch: int, check: Callable[[], None], part: slice = slice(None)
    ) -> Tensor:
        """Train for an epoch, or its steps `part.start` to `part.stop`; each configuration's mean loss, (C,).

        The batches follow from (`seed`, `epoch`). `check` raises when it is time to stop.
        """
        losses = []
        rng = epoch_rng(seed, epoch)
        for batches in epoch_batches(self.pairs, self.batch_size, rng, heads.objectives, part, extra=self.extra):
            speech = None if self.pairs.disk is None else self.speech(self.pairs, batches.rows)
            steps = range(len(batches.rows))
            if isinstance(heads, FusedStack):
                losses += heads.steps([self._batch(batches, s, speech) for s in steps])
            else:
                losses += [self.step(heads, batches, s, speech) for s in steps]
            check()
        return torch.stack(losses).mean(0)

    def step(self, heads: BatchedHeads, batches: TrainingBatches, s: int, speech: Tensor | None = None) -> Tensor:
        """Step on batch `s`; returns the losses before it, (C,). `speech`: (S, B, Da) where it was read from disk."""
        batch = self._batch(batches, s, speech)
        if heads.chosen_step is None:
            recordable = self.device.type == "cuda" and all(objective.recordable for objective in heads.objectives)
            heads.chosen_step = replayed_step(heads, batch) if recordable else heads.step
        return heads.chosen_step(*batch)

    def _batch(self, batches: TrainingBatches, s: int, speech: Tensor | None) -> Batch:
        batch_speech = self.speech(self.pairs, batches.rows[s]) if speech is None else speech[s]
        batch_text = self.text(self.pairs, batches.captions[s])
        return batch_speech, batch_text, [prepared[s] for prepared in batches.prepared]

    def dev_batches(self, objectives: Sequence[Objective]) -> list[TrainingBatches]:
        """The development set's batches, always the same."""
        rng = torch.Generator().manual_seed(0)
        return list(epoch_batches(self.dev, self.batch_size, rng, objectives, extra=self.extra))

    @cached_property
    def statistics(self) -> dict[str, FeatureStatistics]:
        """Of each side's standardised vectors; an utterance's captions share its weight, extra texts count as drawn."""
        pairs, counts, size = self.pairs, self.pairs.offsets.diff(), min(self.batch_size, len(self.pairs))
        weights = torch.zeros(len(pairs.text), dtype=torch.float64, device=self.device)
        weights.index_add_(0, pairs.caption, (size / len(pairs) / counts.double()).repeat_interleave(counts))
        if self.extra and pairs.extra_emotion is not None:
            of_grid = pairs.extra_emotion == -1
            weights[-len(of_grid) :] += torch.where(of_grid, self.extra / of_grid.sum(), 1.0)
        weights /= weights.sum()
        weight = torch.full((), 1 / len(pairs), dtype=torch.float64, device=self.device)
        speech = ((part, weight.expand(len(part))) for part, _ in self.speech_chunks(pairs))
        return {"audio": _weighted_statistics(speech), "text": _weighted_statistics([(self.text(pairs), weights)])}

    def speech_chunks(self, pairs: CachedPairs) -> Iterator[tuple[Tensor, Tensor]]:
        """Standardised vectors (n, Da) of `pairs`, the training or the development set, with their points (n, 2)."""
        for places in torch.split(torch.arange(len(pairs)), _CHUNK_ROWS):
            places = places.to(self.device)
            yield self.speech(pairs, places), pairs.labels[places, :2]

    def dev_losses(self, heads: BatchedHeads, batches: Sequence[TrainingBatches]) -> list[float]:
        """Each configuration's mean loss over the development set's batches, which are projected many at a time."""
        dev_text = self.text(self.dev)
        texts = [heads.project(c, "text", dev_text) for c in range(heads.count)]  # vectors and lengths
        sums = torch.zeros(heads.count, dtype=torch.float64, device=self.device)
        for part in batches:
            speech = self.speech(self.dev, part.rows)
            for c, (text, lengths) in enumerate(texts):
                words = text[part.captions], lengths[part.captions]
                sums[c] += heads.losses(c, heads.project(c, "audio", speech), words, part.prepared).sum()
        return (sums / sum(len(part.rows) for part in batches)).tolist()

    def speech(self, pairs: CachedPairs, rows: Tensor) -> Tensor:
        """Standardised (..., Da) speech vectors of `rows` (...) of `pairs`, from memory or from disk."""
        # index_select takes half the time of an index where rows are long, as those of all layers are
        vectors = pairs.disk.read(rows.flatten()) if pairs.disk else pairs.speech.index_select(0, rows.flatten())
        return self._standardised("audio", vectors).view(*rows.shape, -1)

    def text(self, pairs: CachedPairs, captions: Tensor | None = None) -> Tensor:
        """Standardised (m, Dt) vectors of `captions` (m,), rows of `pairs.text`, or of all texts."""
        return self._standardised("text", pairs.text if captions is None else pairs.text.index_select(0, captions))

    def _standardised(self, side: str, vectors: Tensor) -> Tensor:
        return self.standard.shift_and_scale(side, vectors) if self._standardises[side] else vectors

    @cached_property
    def _standardises(self) -> dict[str, bool]:
        """Whether a side's vectors are changed at all: looked up once, not in every step."""
        return {side: self.standard.standardises(side) for side in ("audio", "text")}


def _weighted_statistics(parts: Iterable[tuple[Tensor, Tensor]]) -> FeatureStatistics:
    """Of vectors (n, D) with weights (n,) that sum to 1 over all parts."""
    mean, second = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for vectors, weights in parts:
        mean = mean.to(vectors.device) + weights @ vectors.double()
        second = second.to(vectors.device) + vectors.double().mT @ (vectors.double() * weights[:, None])
    return FeatureStatistics(mean, second - torch.outer(mean, mean))


def needs_grid(config: TrainConfig) -> bool:
    """Whether it trains on the whole-grammar texts (captions.grid)."""
    objective = config.objective
    of_grid = objective.texts == "grid" if isinstance(objective, RidgeConfig) else config.start == "ridge"
    return of_grid or config.grid.texts > 0


@one_thread()
def load_training_data(
    stores: Stores, config: TrainConfig, device: torch.device, *, resident: bool = True
) -> TrainingData:
    """What `config` trains on: the train and dev splits of `stores`, with extra texts where it asks for them.

    Of layered rows the layers and poolings that it names are read.

    Without `resident` the speech vectors stay on disk. Raises UsageError where something is missing.
    """
    stores = stores.selected(config.speech.choice, config.text.choice)
    pairs, dev = (
        cached_pairs(
            stores, split, style=config.style, require=required_labels(config), device=device, resident=resident
        )
        for split in ("train", "dev")
    )
    for note in pairs.notes + dev.notes:
        log.info(note)
    refuse_too_little(pairs, config, stores.folder)
    if config.balance == "corpus":
        if stores.corpus is None:
            raise UsageError("balance", "corpus, with one folder of stores", "several", "Name them, or leave it out.")
        pairs = replace(pairs, corpus=torch.from_numpy(stores.corpus[pairs.rows]))
    grid = grid_texts(stores, config.style, device=device) if needs_grid(config) else None
    if grid is not None and config.grid.texts:
        classes = class_texts(stores, device=device) if config.grid.classes else None
        pairs, dev = pairs.with_extra(grid, classes), dev.with_extra(grid, classes)
    standard = Heads(
        pairs.speech.shape[1],
        pairs.text.shape[1],
        dim=config.width,
        activation=config.activation,
        audio_layers=stores.audio.selection.weighted,
        text_layers=stores.text.selection.weighted,
    )
    fit_standardisation(standard.to(device), pairs, stores, config.standardise)
    if isinstance(config.objective, NoHeadsConfig):
        standard = standard.unchanged()
    batch_size = with_min_steps(config, len(pairs)).batch_size
    return TrainingData(pairs, dev, batch_size, standard, config.grid.texts, grid)


def epoch_rng(seed: int, epoch: int) -> torch.Generator:
    """Every draw of one epoch: its order and its captions."""
    mixed = hashlib.blake2b(f"{seed}:{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little") >> 1)


def epoch_batches(
    pairs: CachedPairs,
    size: int,
    rng: torch.Generator,
    objectives: Sequence[Objective],
    part: slice = slice(None),
    *,
    extra: int = 0,
) -> Iterator[TrainingBatches]:
    """The batches of `size` pairs of one epoch, or of `part` of its steps, up to `_STEPS_AHEAD` at a time.

    Rows that fill no batch are left to the next shuffle. `extra` grid texts are drawn for each batch.
    """
    size = min(size, len(pairs))
    rows = pairs.shuffled(rng).to(pairs.text.device)
    rows = rows[: len(rows) // size * size].view(-1, size)
    captions = pairs.draw_captions(rng)[rows]
    if extra:
        captions = torch.cat([captions, pairs.draw_extra(extra, len(rows), rng)], 1)
    steps = max(1, min(_STEPS_AHEAD, _PAIRS_AHEAD // size**2))
    for chunk, drawn in zip(torch.split(rows[part], steps), torch.split(captions[part], steps), strict=True):
        yield TrainingBatches(chunk, drawn, [objective.prepare(pairs, chunk, drawn) for objective in objectives])


def data_digest(stores: Stores, data: TrainingData, configs: Iterable[TrainConfig]) -> str:
    """Identifies the data of `configs`: which rows, which labels, which vectors (of speech by their checksums)."""
    digest = hashlib.blake2b(digest_size=16)
    checksums = stores.audio.column("crc")
    raters = any(map(sees_raters, configs))
    for part in (data.pairs, data.dev):
        digest.update(checksums[part.rows].data)
        tensors = [part.labels, part.emotion, part.gender, part.offsets, part.caption, part.text]
        tensors += [each for each in (part.label_error, part.votes) if raters and each is not None]
        for tensor in tensors:
            digest.update(tensor.cpu().numpy().data)
    return digest.hexdigest()
