"""Speech as a user passes it: audio files by path, or waveforms as arrays; one clip each, cropped as a store's are."""

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
from pipeline.extraction.audio.decoding import MAX_RATE, Decoding, UnusableAudio
from pipeline.extraction.audio.resampling import resampled_length
from pipeline.extraction.batching import EncoderInput
from pipeline.extraction.encoders.base import Waveform

AudioInput: TypeAlias = str | os.PathLike[str] | NDArray[np.floating[Any]] | torch.Tensor
Source: TypeAlias = Path | NDArray[np.floating[Any]]


class ArrayAudio(Decoding):
    """What `Decoding` does to a file, done to samples that are in memory."""

    def cut(self, samples: NDArray[np.floating[Any]], rate: int) -> Waveform:
        """(frames,) mono at `rate` -> (samples,) at `sample_rate`, cropped. Raises UnusableAudio."""
        start, count = self.frame_range(len(samples), rate)
        with np.errstate(over="ignore"):  # float64 beyond float32 is not finite
            wave = samples[start : start + count].astype(np.float32)
        if not np.isfinite(wave).all():
            raise UnusableAudio(f"{int((~np.isfinite(wave)).sum())} samples are not finite")
        clip = self.clip(wave, rate)
        if not clip.any() or (wave == wave[0]).all():
            raise UnusableAudio("silent: every sample is the same")
        return clip


@dataclass(frozen=True)
class AudioInputs:
    """Reads paths and arrays for a `BatchEncoder`; `rate` in Hz is the arrays'."""

    decoding: ArrayAudio
    rate: int

    def read(self, source: Source) -> EncoderInput:
        """The waveform; its digest is not needed."""
        try:
            if isinstance(source, Path):
                return EncoderInput(self.decoding.load(source).wave, b"")
            return EncoderInput(self.decoding.cut(source, self.rate), b"")
        except UnusableAudio as error:
            return EncoderInput(np.zeros(max(1, self.samples(source)), np.float32), b"", error.reason)

    def samples(self, source: Source) -> int:
        """How long the clip will be, at the encoder's rate; 0 where a file's header cannot be read."""
        if isinstance(source, Path):
            return self.decoding.samples(source)
        length = resampled_length(len(source), self.rate, self.decoding.sample_rate)
        return min(length, self.decoding.max_samples)


def audio_sources(recordings: AudioInput | Sequence[AudioInput], sample_rate: int | None) -> list[Source]:
    """One or several recordings as a list, checked. Raises UsageError for what is neither a path nor a waveform."""
    single = isinstance(recordings, str | os.PathLike | np.ndarray | torch.Tensor)
    sources = [_source(each, place) for place, each in enumerate([recordings] if single else recordings)]  # type: ignore[arg-type]
    has_arrays = any(isinstance(source, np.ndarray) for source in sources)
    if has_arrays and (type(sample_rate) is not int or not 1 <= sample_rate <= MAX_RATE):
        found = "not given" if sample_rate is None else f"{sample_rate!r:.40}"
        raise UsageError("sample_rate", found, "the arrays' own, in Hz, such as 16000", "Pass sample_rate=.")
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
    expected = "a path, or floats from -1 to 1 of shape (samples,)"
    raise UsageError(f"recordings[{place}]", found, expected, "Pass a list of paths or of mono waveforms.")
