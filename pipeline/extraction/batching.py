"""One clip or text, from the plan to the row on disk: plan -> read -> encode -> commit.

The plan of batches is cut from the manifest and the captions alone, so that an interrupted run that is resumed gives
the same bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from cache.captions import Captions
from cache.header import PENDING
from cache.reader import Store
from cache.writer import Rounding, StoreWriter
from pipeline.core.config import ExtractConfig
from pipeline.core.errors import EmotionRankError
from pipeline.core.progress import Meter
from pipeline.core.resources import out_of_memory
from pipeline.data.captions.word_norms import WORD_NORMS
from pipeline.extraction.audio.decoding import Decoding, UnusableAudio, digest_of
from pipeline.extraction.encoders.base import Encoder

log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0
MAX_BATCH_ROWS = 512


class BatchSampler(Sequence[NDArray[np.int64]]):
    """Batches of rows, cut as they are asked for: millions of them take 16 bytes each.

    Batch i is `order[starts[i]:stops[i]]`.
    """

    def __init__(self, order: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        self._order, self._starts, self._stops = order, starts, stops

    @classmethod
    def of_size(cls, order: NDArray[np.int64], size: int) -> BatchSampler:
        """`order` in batches of `size` rows; the last may be smaller."""
        starts = np.arange(0, len(order), size, dtype=np.int64)
        return cls(order, starts, np.minimum(starts + size, len(order)))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, place: slice) -> BatchSampler: ...

    def __getitem__(self, place: int | slice) -> NDArray[np.int64] | BatchSampler:
        if isinstance(place, slice):
            return self.take(place)
        return self._order[self._starts[place] : self._stops[place]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(len,) rows in each batch."""
        return self._stops - self._starts

    def counts(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(len,) how many rows of each batch are `chosen`, which is (N,) over all rows."""
        before = np.zeros(len(self._order) + 1, dtype=np.int64)
        np.cumsum(chosen[self._order], out=before[1:])
        counted: NDArray[np.int64] = before[self._stops] - before[self._starts]
        return counted

    def take(self, places: NDArray[np.int64] | slice) -> BatchSampler:
        """The batches at `places`, in that order."""
        return BatchSampler(self._order, self._starts[places], self._stops[places])


def batches(lengths: NDArray[np.int64], budget: int) -> BatchSampler:
    """Cut rows of `lengths` (N,) into batches of similar length, longest first, so that memory peaks at the start.

    A batch's padded size (rows x longest) is at most `budget`, or it is a single row. Ties keep manifest order.
    """
    order = np.argsort(-lengths, kind="stable")
    sizes = np.minimum(MAX_BATCH_ROWS, np.maximum(1, budget // np.maximum(1, lengths[order]))).tolist()
    starts, start = [], 0
    while start < len(order):
        starts.append(start)
        start += sizes[start]
    cuts = np.array([*starts, len(order)], dtype=np.int64)
    return BatchSampler(order, cuts[:-1], cuts[1:])


def text_parts(captions: Captions) -> NDArray[np.int64]:
    """(N,) of each text: 0 a caption, 1 a prompt or a class text, 2 a prompt of rated words, 3 a whole-grammar text.

    All but captions are the same for every corpus.
    """
    others = [prompt.text for prompt in captions.prompts if prompt.style != WORD_NORMS]
    part_of = dict.fromkeys((*others, *captions.classes.columns["text"]), 1)
    part_of = dict.fromkeys(captions.prompts.columns["text"], 2) | part_of
    part_of |= dict.fromkeys(captions.captions.columns["text"], 0)
    return np.array([part_of.get(text, 3) for text in captions.texts()], dtype=np.int64)


def text_plan(captions: Captions, batch_size: int) -> BatchSampler:
    """The batches of the text encoder: of each part (`text_parts`) its own, longest texts first.

    So what a store has of another part, or gets later, changes no batch of this one, and no vector.
    """
    part = text_parts(captions)
    ends = np.bincount(part, minlength=4).cumsum()
    starts = np.concatenate([np.arange(start, end, batch_size) for start, end in pairwise([0, *ends.tolist()])])
    order = np.lexsort((-np.array([len(text) for text in captions.texts()], dtype=np.int64), part))
    return BatchSampler(order, starts, np.minimum(starts + batch_size, ends[part[order][starts]]))


class EncoderInput(NamedTuple):
    """A source as it was read."""

    value: Any  # what the encoder takes; of an unusable source a placeholder, so that the batch keeps its shape
    digest: bytes  # of the source's bytes
    reason: str | None = None  # why the source is unusable


class AudioFile(NamedTuple):
    """Where an utterance lies, and what it was when it was planned."""

    path: Path
    samples: int  # as its header promises; 0: it could not be read
    size: int | None = None  # bytes; None: not compared
    mtime: int | None = None  # nanoseconds; None: not compared, for machines may differ in it


def read_speech(decoding: Decoding, source: AudioFile) -> EncoderInput:
    """The clip; of an unusable file, or one that is not the file planned, silence of the planned length."""
    try:
        decoded = decoding.load(source.path)
        planned = zip((source.size, source.mtime), decoded.stamp, strict=True)
        if any(then not in (None, now) for then, now in planned):
            raise UnusableAudio("changed after it was planned: run it again")
    except UnusableAudio as error:
        return EncoderInput(np.zeros(max(1, source.samples), np.float32), error.digest, error.reason)
    return EncoderInput(decoded.wave, decoded.digest)


def read_text(text: str) -> EncoderInput:
    """A sentence as it is; of an empty transcript a full stop, which is not kept."""
    return EncoderInput(text or ".", digest_of(text.encode()), None if text else "no transcript")


@dataclass(frozen=True)
class EncodedBatch:
    """One batch's vectors, row by row, and what it cost."""

    rows: NDArray[np.int64]  # (n,)
    vectors: NDArray[np.float32] | None  # (n, D); None where no source could be read
    digests: list[bytes]
    reasons: list[str | None]  # why a row has no vector
    load_seconds: float
    encode_seconds: float


S = TypeVar("S")


class BatchEncoder(Generic[S]):
    """Reads and encodes batches. Threads may share it: on a CPU they all compute, on an accelerator in turns."""

    def __init__(self, read: Callable[[S], EncoderInput], encoder: Encoder[Any], device: torch.device) -> None:
        self.read, self.encoder = read, encoder
        self._turn: AbstractContextManager[Any] = nullcontext() if device.type == "cpu" else Lock()
        self._too_large = float("inf")  # the smallest batch, in padded size, that memory did not suffice for

    def __call__(self, rows: NDArray[np.int64], sources: Sequence[S]) -> EncodedBatch:
        """Encode `sources`, the rows `rows`, together. Raises EmotionRankError when one alone is too large."""
        start = time.monotonic()
        read = [self.read(source) for source in sources]
        values, digests, reasons = [i.value for i in read], [i.digest for i in read], [i.reason for i in read]
        if all(reasons):
            return EncodedBatch(rows, None, digests, reasons, time.monotonic() - start, 0.0)
        prepared = self.encoder.prepare(values) if self._fits(values) else None
        loaded = time.monotonic()
        with self._turn:
            began = time.monotonic()
            vectors = self._encode(values, prepared).numpy()
            ended = time.monotonic()
        return EncodedBatch(rows, vectors, digests, reasons, loaded - start, ended - began)

    def _fits(self, inputs: Sequence[Any]) -> bool:
        return len(inputs) == 1 or _padded_size(inputs) < self._too_large

    def _encode(self, inputs: Sequence[Any], prepared: Any = None) -> torch.Tensor:
        """The vectors of a batch: whole or, where memory does not suffice, by halves."""
        if self._fits(inputs):
            try:
                return self.encoder.compute(self.encoder.prepare(inputs) if prepared is None else prepared)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not out_of_memory(error):
                    raise
            del prepared
            self._too_large = min(self._too_large, _padded_size(inputs))
            if len(inputs) == 1:
                found, action = "not enough memory for one clip", "Lower audio.max_seconds."
                raise EmotionRankError("encoder", found, "room for it", action)
            log.warning(f"not enough memory for a batch of {len(inputs)}; batches of this size are halved from now on")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        middle = (len(inputs) + 1) // 2
        return torch.cat([self._encode(inputs[:middle]), self._encode(inputs[middle:])])


def _padded_size(inputs: Sequence[Any]) -> int:
    return len(inputs) * max(map(len, inputs))


def batch_encoder(kind: str, encoder: Encoder[Any], config: ExtractConfig, device: torch.device) -> BatchEncoder[Any]:
    """The BatchEncoder of the store `kind`: audio, acoustic (Praat runs on the CPU alone), text or words."""
    if kind in ("text", "words"):
        return BatchEncoder(read_text, encoder, device)
    read = partial(read_speech, decoding_of(encoder, config))
    return BatchEncoder(read, encoder, device if kind == "audio" else torch.device("cpu"))


def decoding_of(encoder: Any, config: ExtractConfig) -> Decoding:
    """How the speech encoder's files are decoded."""
    return Decoding(encoder.sample_rate, config.audio.max_seconds, config.audio.crop, config.corpus.channel)


@dataclass(frozen=True)
class EncodeTask(Generic[S]):
    """The encoding of one store."""

    name: str
    encode: BatchEncoder[S]
    sources: Callable[[NDArray[np.int64]], list[S]]  # rows -> what is read for them
    audio_seconds: NDArray[np.float64] | None = None  # (N,) by row; without it the rate is in rows


class Engine(Protocol):
    """Where batches are encoded: on this machine's threads, or on a Ray cluster. The caller alone commits rows."""

    @property
    def workers(self) -> float:
        """How many batches are encoded at once, on average so far."""

    def encode_batches(
        self, task: EncodeTask[Any], batches: Sequence[NDArray[np.int64]]
    ) -> Generator[EncodedBatch | None, None, None]:
        """Every batch once, in any order. None comes now and then while nothing is ready, so that the caller can stop.

        Closing it gives up what is not ready, and stops whatever was started.
        """


def encode_rows(
    store: Store, task: EncodeTask[Any], plan: BatchSampler, *, engine: Engine, check: Callable[[], None]
) -> tuple[Meter, Rounding]:
    """Encode the batches of `plan` that have a pending row, and commit these. `check` raises when it is time to stop.

    Whatever ends the run, the rows committed so far are on the disk.
    """
    states = store.scan()
    pending = plan.counts(states == PENDING)  # rows, by batch
    remaining = plan.take(np.flatnonzero(pending))
    total = int(plan.sizes.sum())
    with (
        StoreWriter(store) as writer,
        Meter(task.name, total, already=total - int(pending.sum()), workers=engine.workers) as meter,
        closing(engine.encode_batches(task, remaining)) as batches,
    ):
        synced = time.monotonic()
        try:
            for batch in batches:
                if batch is not None:
                    start = time.monotonic()
                    new = np.flatnonzero(states[batch.rows] == PENDING).tolist()
                    for i in new:
                        row, reason = int(batch.rows[i]), batch.reasons[i]
                        if reason is not None:
                            writer.fail(row, reason, batch.digests[i])
                        elif batch.vectors is not None:
                            writer.commit(row, batch.vectors[i], batch.digests[i])
                    if time.monotonic() - synced > SYNC_SECONDS:
                        writer.sync()
                        synced = time.monotonic()
                    meter.workers = engine.workers  # nodes may have joined
                    meter.spent("load", batch.load_seconds)
                    meter.spent("encode", batch.encode_seconds)
                    meter.spent("write", time.monotonic() - start)
                    seconds = 0.0 if task.audio_seconds is None else task.audio_seconds[batch.rows[new]].sum()
                    meter.advance(len(new), float(seconds))
                check()
        finally:
            writer.sync()
    return meter, writer.rounding
