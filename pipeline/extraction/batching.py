"""The plan of batches, cut from the manifest alone, and the work of one batch: read its sources, encode them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.config import ExtractConfig
from pipeline.core.errors import EmotionRankError
from pipeline.core.resources import out_of_memory
from pipeline.extraction.audio.decoding import Decoding, UnusableAudio, Waveform
from pipeline.extraction.audio.files import digest_of
from pipeline.extraction.encoders.base import Encoder

log = logging.getLogger(__name__)

MOST = 512  # rows in one batch


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
            return BatchSampler(self._order, self._starts[place], self._stops[place])
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

    def take(self, places: NDArray[np.int64]) -> BatchSampler:
        """The batches at `places`, in that order."""
        return BatchSampler(self._order, self._starts[places], self._stops[places])


def batches(lengths: NDArray[np.int64], budget: int) -> BatchSampler:
    """Cut rows into batches of similar length, longest first, so that memory's peak comes at once.

    A batch's padded size (rows x longest) is at most `budget`, or it is a single row. Ties keep manifest order.
    """
    order = np.argsort(-lengths, kind="stable")
    sizes = np.minimum(MOST, np.maximum(1, budget // np.maximum(1, lengths[order]))).tolist()
    starts, start = [], 0
    while start < len(order):
        starts.append(start)
        start += sizes[start]
    cuts = np.array([*starts, len(order)], dtype=np.int64)
    return BatchSampler(order, cuts[:-1], cuts[1:])


S = TypeVar("S")
T = TypeVar("T")
Source = TypeVar("Source", contravariant=True)
Input = TypeVar("Input", covariant=True)


class Reader(Protocol[Source, Input]):
    """How a source becomes an encoder's input."""

    def load(self, source: Source) -> tuple[Input, bytes]:
        """The input, and the digest of the source's bytes. Raises UnusableAudio."""

    def placeholder(self, source: Source) -> Input:
        """What takes an unusable source's place, so that its neighbours' batch keeps its shape."""


class AudioFile(NamedTuple):
    """Where an utterance lies, and what it was when it was planned."""

    path: Path
    samples: int  # as its header promises; 0: it could not be read
    size: int | None = None  # bytes; None: not compared
    mtime: int | None = None  # nanoseconds; None: not compared, for machines may differ in it


@dataclass(frozen=True)
class SpeechReader:
    """Audio files, decoded."""

    decoding: Decoding

    def load(self, source: AudioFile) -> tuple[Waveform, bytes]:
        """Decode the file. Raises UnusableAudio, also where it is another than was planned.

        The row has the stamp of the plan. With no digest and another stamp it is encoded anew by the next run.
        """
        decoded = self.decoding.load(source.path)
        planned = zip((source.size, source.mtime), decoded.stamp, strict=True)
        if any(was not in (None, now) for was, now in planned):
            raise UnusableAudio("changed after it was planned: run it again")
        return decoded.wave, decoded.digest

    def placeholder(self, source: AudioFile) -> Waveform:
        """Silence of the planned length."""
        return np.zeros(max(1, source.samples), np.float32)


class TextReader:
    """Sentences as they are."""

    def load(self, source: str) -> tuple[str, bytes]:
        """The text itself."""
        return source, digest_of(source.encode())

    def placeholder(self, source: str) -> str:
        """Never needed: every text can be read."""
        return source


@dataclass(frozen=True)
class EncodedBatch:
    """One batch's vectors, row by row, and what it cost."""

    rows: NDArray[np.int64]  # (n,)
    vectors: NDArray[np.float32] | None  # (n, width); None where no source could be read
    digests: list[bytes]
    reasons: list[str | None]  # why a row has no vector
    load_seconds: float
    encode_seconds: float


class BatchEncoder(Generic[S, T]):
    """Reads and encodes batches. Threads may share it: on a CPU they all compute, on an accelerator in turns."""

    def __init__(self, reader: Reader[S, T], encoder: Encoder[T], device: torch.device) -> None:
        self.reader, self.encoder = reader, encoder
        self._turn: AbstractContextManager[Any] = nullcontext() if device.type == "cpu" else Lock()
        self._too_large = float("inf")  # the smallest batch, in padded size, that memory did not suffice for

    def __call__(self, rows: NDArray[np.int64], sources: Sequence[S]) -> EncodedBatch:
        """Encode `sources`, the rows `rows`, together. Raises EmotionRankError when one alone is too large."""
        start = time.monotonic()
        inputs: list[T] = []
        digests: list[bytes] = []
        reasons: list[str | None] = []
        for source in sources:
            try:
                value, digest = self.reader.load(source)
                reasons.append(None)
            except UnusableAudio as error:
                value, digest = self.reader.placeholder(source), error.digest
                reasons.append(error.reason)
            inputs.append(value)
            digests.append(digest)
        if all(reasons):
            return EncodedBatch(rows, None, digests, reasons, time.monotonic() - start, 0.0)
        prepared = self.encoder.prepare(inputs) if self._fits(inputs) else None
        loaded = time.monotonic()
        with self._turn:
            began = time.monotonic()
            vectors = self._encode(inputs, prepared).numpy()
            ended = time.monotonic()
        return EncodedBatch(rows, vectors, digests, reasons, loaded - start, ended - began)

    def _encode(self, inputs: Sequence[T], prepared: Any = None) -> torch.Tensor:
        """The vectors of a batch: whole or, where memory does not suffice, by halves."""
        if self._fits(inputs):
            try:
                return self.encoder.compute(self.encoder.prepare(inputs) if prepared is None else prepared)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not out_of_memory(error):
                    raise
            del prepared
            self._too_large = min(self._too_large, _size(inputs))
            if len(inputs) == 1:
                raise EmotionRankError(
                    "encoder", "not enough memory for one clip", "room for it", "Lower audio.max_seconds."
                )
            log.warning(f"not enough memory for {len(inputs)} at once: batches of this size are halved from here on")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        middle = (len(inputs) + 1) // 2
        return torch.cat([self._encode(inputs[:middle]), self._encode(inputs[middle:])])

    def _fits(self, inputs: Sequence[T]) -> bool:
        return len(inputs) == 1 or _size(inputs) < self._too_large


def work_of(kind: str, encoder: Encoder[Any], config: ExtractConfig, device: torch.device) -> BatchEncoder[Any, Any]:
    """The work of the store `kind`: audio, acoustic (Praat has no use for an accelerator) or text."""
    if kind == "text":
        return BatchEncoder(TextReader(), encoder, device)
    return BatchEncoder(
        SpeechReader(decoding_of(encoder, config)), encoder, device if kind == "audio" else torch.device("cpu")
    )


def decoding_of(encoder: Any, config: ExtractConfig) -> Decoding:
    """How the speech encoder's files are decoded."""
    return Decoding(encoder.sample_rate, config.audio.max_seconds, config.audio.crop)


@dataclass(frozen=True)
class EncodeTask(Generic[S, T]):
    """What differs between the stores of stage one."""

    name: str
    work: BatchEncoder[S, T]
    sources: Callable[[NDArray[np.int64]], list[S]]  # rows -> what is read for them
    seconds: Callable[[int], float]  # of audio in a row; 0 where the rate is in rows


def _size(inputs: Sequence[Any]) -> int:
    return len(inputs) * max(map(len, inputs))
