"""Speech as a user hands it over: audio files by path, or waveforms as arrays; one clip each, cut as a store's are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import UsageError
from pipeline.extraction.audio.decoding import Decoding, UnusableAudio, Waveform, resampled_length

_HIGHEST_RATE = 2**20  # Hz
AudioInput: TypeAlias = str | os.PathLike[str] | NDArray[np.floating[Any]] | torch.Tensor
Source: TypeAlias = Path | NDArray[np.floating[Any]]


class ArrayAudio(Decoding):
    """What `Decoding` does to a file, done to samples that are in memory."""

    def cut(self, samples: NDArray[np.floating[Any]], rate: int) -> Waveform:
        """(frames,) mono at `rate` -> (samples,) at `sample_rate`, cropped. Raises UnusableAudio."""
        start, keep = self._kept(len(samples), rate)
        with np.errstate(over="ignore"):  # float64 beyond float32: not finite, and said so
            wave = samples[start : start + keep].astype(np.float32)
        if not np.isfinite(wave).all():
            raise UnusableAudio(f"{int((~np.isfinite(wave)).sum())} samples are not finite")
        kept = self._resample(wave, rate)
        if not kept.any() or (wave == wave[0]).all():
            raise UnusableAudio("silent: every sample is the same")
        return kept


@dataclass(frozen=True)
class AudioInputs:
    """A `Reader` (pipeline.work) of paths and arrays; `rate` in Hz is the arrays'."""

    decoding: ArrayAudio
    rate: int

    def load(self, source: Source) -> tuple[Waveform, bytes]:
        """The waveform; nothing keeps its digest. Raises UnusableAudio."""
        if isinstance(source, Path):
            return self.decoding.load(source).wave, b""
        return self.decoding.cut(source, self.rate), b""

    def placeholder(self, source: Source) -> Waveform:
        """Silence of the recording's length."""
        return np.zeros(max(1, self.samples(source)), np.float32)

    def samples(self, source: Source) -> int:
        """How long the clip will be, at the encoder's rate; 0 where a file's header cannot be read."""
        if isinstance(source, Path):
            return self.decoding.samples(source)
        limit = int(self.decoding.max_seconds * self.decoding.sample_rate)
        return min(resampled_length(len(source), self.rate, self.decoding.sample_rate), limit)


def audio_sources(recordings: AudioInput | Sequence[AudioInput], sample_rate: int | None) -> list[Source]:
    """One or several recordings as a list, checked. Raises UsageError for what is neither a path nor a waveform."""
    alone = isinstance(recordings, str | os.PathLike | np.ndarray | torch.Tensor)
    sources = [_source(each, place) for place, each in enumerate([recordings] if alone else recordings)]  # type: ignore[arg-type]
    if any(isinstance(source, np.ndarray) for source in sources):
        _require_rate(sample_rate)
    return sources


def _source(recording: object, place: int) -> Source:
    if isinstance(recording, str | os.PathLike):
        return Path(recording)
    found = type(recording).__name__
    if isinstance(recording, torch.Tensor):
        recording = recording.detach().cpu().numpy()
    if isinstance(recording, np.ndarray):
        if recording.ndim == 1 and recording.size and np.issubdtype(recording.dtype, np.floating):
            return recording
        found = f"{recording.dtype} of shape {recording.shape}"
    raise UsageError(
        f"recording {place}",
        found,
        "a path, or floats from -1 to 1 of shape (samples,)",
        "Pass a list of paths or of mono waveforms.",
    )


def _require_rate(rate: object) -> None:
    if type(rate) is not int or not 1 <= rate < _HIGHEST_RATE:
        found = "not given" if rate is None else f"{rate!r:.40}"
        raise UsageError("sample_rate", found, "the arrays' own, in Hz, such as 16000", "Say sample_rate=.")
