"""The pairs as the step takes them: tensors on the device, cut into batches by an index and then standardised.

The vectors lie in memory once, as the encoders gave them. Standardising a batch gives the bits that standardising all
of them would.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs, GridTexts, cached_pairs, class_texts, grid_texts
from cache.stores import Stores
from pipeline.core.config import TrainConfig
from pipeline.core.errors import UsageError
from pipeline.core.objective_config import NoHeadsConfig
from pipeline.core.resources import one_thread
from pipeline.objectives.space import Objective
from pipeline.training.batched_heads import Batch, BatchedHeads
from pipeline.training.enough_data import refuse_too_little
from pipeline.training.fused_step import FusedStack
from pipeline.training.heads import Heads
from pipeline.training.heads_config import HeadsConfig, Schedule, Temperature
from pipeline.training.kernels import replayed_step
from pipeline.training.standardisation import CHUNK_ROWS, FeatureStatistics, fit_standardisation, weighted_statistics

log = logging.getLogger(__name__)

BLOCK_ROWS = 256  # consecutive rows of a store on disk that are read together
WINDOW_BLOCKS = 256  # that are shuffled among each other
_STEPS_AHEAD = 64  # steps whose orders or targets are made in one call, at most
_PAIRS_AHEAD = 2**18  # and the pairs of one call: their orders take 24 bytes each


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
        for some in self.train_steps(heads, seed, epoch, part):
            losses += some
            check()
        return torch.stack(losses).mean(0)

    def train_steps(self, heads: BatchedHeads, seed: int, epoch: int, part: slice) -> Iterator[list[Tensor]]:
        """The steps of `train`, some at a time: their losses (C,)."""
        rng = epoch_rng(seed, epoch)
        for batches in epoch_batches(self.pairs, self.batch_size, rng, heads.objectives, part, extra=self.extra):
            speech = None if self.pairs.disk is None else self.speech(self.pairs, batches.rows)
            steps = range(len(batches.rows))
            if isinstance(heads, FusedStack):
                yield heads.steps([self._batch(batches, s, speech) for s in steps])
            else:
                yield [self.step(heads, batches, s, speech) for s in steps]

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

    def heads_config(
        self, config: TrainConfig, objective: Objective, seed: int, start: Callable[[Heads, int], None] | None = None
    ) -> HeadsConfig:
        """Untrained heads of `seed`, set by `start` where there is one, to be trained as `config` says."""
        heads, steps = copy.deepcopy(self.standard), config.epochs * self.steps
        heads.initialise(seed, config.temperature)
        if start is not None:
            start(heads, seed)
        return HeadsConfig(
            heads,
            objective,
            config.learning_rate,
            config.weight_decay,
            Schedule(steps, config.schedule, config.warmup),
            Temperature(config.temperature, config.temperature_schedule, config.temperature_end, steps),
            config.norm,
            self.statistics if config.norm != "none" else None,
        )

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
        text = self.standard.standardise_side("text", pairs.text)
        return {"audio": weighted_statistics(speech), "text": weighted_statistics([(text, weights)])}

    def speech_chunks(self, pairs: CachedPairs) -> Iterator[tuple[Tensor, Tensor]]:
        """Standardised vectors (n, Da) of `pairs`, the training or the development set, with their points (n, 2)."""
        for places in torch.split(torch.arange(len(pairs)), CHUNK_ROWS):
            places = places.to(self.device)
            yield self.speech(pairs, places), pairs.labels[places, :2]

    def dev_losses(self, heads: BatchedHeads, batches: Sequence[TrainingBatches]) -> list[float]:
        """Each configuration's mean loss over the development set's batches, which are projected many at a time."""
        dev_text = self.standard.standardise_side("text", self.dev.text)
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
        return self._standardise("audio", vectors).view(*rows.shape, -1)

    def text(self, pairs: CachedPairs, captions: Tensor) -> Tensor:
        """Standardised (m, Dt) vectors of `captions` (m,), rows of `pairs.text`."""
        return self._standardise("text", pairs.text.index_select(0, captions))

    def _standardise(self, side: str, vectors: Tensor) -> Tensor:
        """`Heads.standardise_side`, in place: the vectors of a batch are a copy."""
        if side in self._mean_and_std:
            mean, std = self._mean_and_std[side]
            vectors.sub_(mean).div_(std)
        return vectors

    @cached_property
    def _mean_and_std(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of the sides that they change, which is looked up once and not in every step."""
        sides = [side for side in ("audio", "text") if self.standard.standardises(side)]
        return {side: (getattr(self.standard, f"{side}_mean"), getattr(self.standard, f"{side}_std")) for side in sides}


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
            stores, split, style=config.style, require=config.required_labels, device=device, resident=resident
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
    grid = grid_texts(stores, config.style, device=device) if config.needs_grid else None
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
    batch_size = config.with_min_steps(len(pairs)).batch_size
    return TrainingData(pairs, dev, batch_size, standard, config.grid.texts, grid)


def epoch_rng(seed: int, epoch: int) -> torch.Generator:
    """Of every draw of one epoch, on the CPU: its order and its captions."""
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
    rows = shuffled(pairs, rng).to(pairs.text.device)
    size = min(size, len(rows))
    rows = rows[: len(rows) // size * size].view(-1, size)
    captions = draw_captions(pairs, rng)[rows]
    if extra:
        captions = torch.cat([captions, draw_extra(pairs, extra, len(rows), rng)], 1)
    steps = max(1, min(_STEPS_AHEAD, _PAIRS_AHEAD // size**2))
    for chunk, drawn in zip(torch.split(rows[part], steps), torch.split(captions[part], steps), strict=True):
        yield TrainingBatches(chunk, drawn, [objective.prepare(pairs, chunk, drawn) for objective in objectives])


def shuffled(pairs: CachedPairs, rng: torch.Generator) -> Tensor:
    """(n,) every index once; with a `corpus`, as many of each corpus, in turn.

    Vectors on disk are shuffled block by block, and row by row within a window of blocks, so that the next reads are in
    few places of the file; the operating system's page cache holds the window.
    """
    if pairs.corpus is not None:
        return _of_each_corpus(pairs.corpus, rng)
    count = len(pairs.rows)
    if pairs.disk is None:
        return torch.randperm(count, generator=rng)
    blocks = torch.split(torch.arange(count), BLOCK_ROWS)
    mixed = [blocks[i] for i in torch.randperm(len(blocks), generator=rng).tolist()]
    starts = range(0, len(mixed), WINDOW_BLOCKS)
    windows = [torch.cat(mixed[start : start + WINDOW_BLOCKS]) for start in starts]
    return torch.cat([window[torch.randperm(len(window), generator=rng)] for window in windows])


def _of_each_corpus(corpus: Tensor, rng: torch.Generator) -> Tensor:
    """(n,) an index of each corpus, then another of each: a smaller corpus begins anew, a larger one is cut."""
    each = [torch.nonzero(corpus == number)[:, 0] for number in sorted(set(corpus.tolist()))]
    rounds = -(-len(corpus) // len(each))
    drawn = []
    for places in each:
        passes = [torch.randperm(len(places), generator=rng) for _ in range(-(-rounds // len(places)))]
        drawn.append(places[torch.cat(passes)[:rounds]])
    return torch.stack(drawn, 1).flatten()[: len(corpus)]


def draw_captions(pairs: CachedPairs, rng: torch.Generator) -> Tensor:
    """(n,) one row of `pairs.text` for each utterance."""
    counts = pairs.offsets.diff()
    draws = torch.rand(len(counts), generator=rng, dtype=torch.float64).to(counts.device)
    return pairs.caption[pairs.offsets[:-1] + (draws * counts).long()]


def draw_extra(pairs: CachedPairs, texts: int, steps: int, rng: torch.Generator) -> Tensor:
    """(steps, M) rows of `pairs.text`: `texts` of the grid texts, none twice in a step, then every class text."""
    emotion = torch.empty(0) if pairs.extra_emotion is None else pairs.extra_emotion.cpu()
    first, of_grid = len(pairs.text) - len(emotion), int((emotion == -1).sum())
    drawn = torch.rand(steps, of_grid, generator=rng).topk(min(texts, of_grid), dim=1).indices
    of_class = torch.arange(of_grid, len(emotion)).expand(steps, -1)
    return (torch.cat([drawn, of_class], 1) + first).to(pairs.text.device)


def data_digest(stores: Stores, data: TrainingData, configs: Iterable[TrainConfig]) -> str:
    """Identifies the data of `configs`: which rows, which labels, which vectors (of speech by their checksums)."""
    digest = hashlib.blake2b(digest_size=16)
    checksums = stores.audio.column("crc")
    raters = any(config.sees_raters for config in configs)
    for part in (data.pairs, data.dev):
        digest.update(checksums[part.rows].data)
        tensors = [part.labels, part.emotion, part.gender, part.offsets, part.caption, part.text]
        tensors += [each for each in (part.label_error, part.votes) if raters and each is not None]
        for tensor in tensors:
            digest.update(tensor.cpu().numpy().data)
    return digest.hexdigest()
