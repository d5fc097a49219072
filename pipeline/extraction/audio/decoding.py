"""Resampling a clip to the encoder's rate: torchaudio's windowed sinc, whatever the ratio of the rates.

torchaudio lays out one filter for each phase of the reduced ratio, which for rates without a common divisor (16,001 Hz
to 16 kHz, as a damaged header may say) takes gigabytes. There the same filter is made for each sample alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional
from numpy.typing import NDArray

from pipeline.extraction.audio.files import bytes_of, digest_of, digest_of_file, missing, open_audio, stamp_of
from pipeline.extraction.audio.plain_wav import samples16, wav_length

Waveform = NDArray[np.float32]
_ZEROS = 6  # crossings of the sinc on either side: torchaudio's default
_ROLLOFF = 0.99  # of the lower rate's Nyquist frequency, likewise
_KERNEL_VALUES = 1 << 24  # of torchaudio's filters, at most: 44.1 kHz takes 70 thousand, 22,255 Hz 14 million
_BLOCK_VALUES = 1 << 18  # of the filters held at once here


def resampled_length(frames: int, rate: int, new_rate: int) -> int:
    """Samples that `frames` at `rate` are at `new_rate`."""
    return -(-frames * new_rate // rate)


def resample(wave: Waveform, rate: int, new_rate: int) -> Waveform:
    """(frames,) at `rate` -> (resampled_length,) at `new_rate`."""
    if rate == new_rate:
        return wave
    common = math.gcd(rate, new_rate)
    orig, new = rate // common, new_rate // common
    if orig * new > _KERNEL_VALUES:
        return one_by_one(wave, orig, new)
    result: Waveform = torchaudio.functional.resample(torch.tensor(wave), orig, new).numpy()
    return result


def one_by_one(wave: Waveform, orig: int, new: int) -> Waveform:
    """torchaudio's resampling by the formula: each sample is a sum over the frames around its own time."""
    band = min(orig, new) * _ROLLOFF / orig
    width = math.ceil(_ZEROS / band)
    taps = np.arange(-width, width + 2)
    padded = np.pad(wave, (width, width + 2)).astype(np.float64)
    result = np.empty(resampled_length(len(wave), orig, new), np.float32)
    step = max(1, _BLOCK_VALUES // len(taps))
    for start in range(0, len(result), step):
        frame, phase = np.divmod(np.arange(start, min(start + step, len(result)), dtype=np.int64) * orig, new)
        t = np.clip((taps - phase[:, None] / new) * band, -_ZEROS, _ZEROS)
        kernels = np.sinc(t) * np.cos(t * (math.pi / _ZEROS / 2)) ** 2 * band
        around = padded[frame[:, None] + taps + width]
        with np.errstate(over="ignore", invalid="ignore"):  # told of by what comes out
            result[start : start + step] = (kernels * around).sum(axis=1)
    return result


_MARGIN_SECONDS = 0.1  # decoded beyond the crop, so that resampling sees no edge inside it
_WHOLE_BYTES = 1 << 24  # a file up to here is read at once; of a larger one, what is kept (30 s of 48 kHz stereo: 9 MB)
_READ_VALUES = 1 << 22  # decoded at once: what a header promises need not be there
_HIGHEST_RATE = (1 << 20) - 1  # of samples a second: no recording has more
_UNDECODABLE = (soundfile.SoundFileError, RuntimeError, ValueError, TypeError)


class UnusableAudio(Exception):
    """Why a file has no vector; costs its own row. `digest` identifies the file's bytes."""

    def __init__(self, reason: str, digest: bytes = bytes(16)) -> None:
        super().__init__(reason)
        self.reason, self.digest = reason, digest


@dataclass(frozen=True)
class DecodedAudio:
    """A decoded utterance."""

    wave: Waveform  # (samples,) mono at the asked rate, cropped
    digest: bytes  # BLAKE2b-128 of the file's bytes
    stamp: tuple[int, int] = (-1, 0)  # size and mtime of the file that was read


@dataclass(frozen=True)
class Decoding:
    """How every file of a run is decoded."""

    sample_rate: int
    max_seconds: float
    crop: str  # "start" or "center"

    def fingerprint(self) -> dict[str, object]:
        return {"sample_rate": self.sample_rate, "max_seconds": self.max_seconds, "crop": self.crop}

    def load(self, path: Path) -> DecodedAudio:
        """Decode `path`. Raises UnusableAudio with the reason."""
        try:
            with open_audio(path) as handle:
                stamp = stamp_of(os.fstat(handle))
                try:
                    return self._clip(handle, stamp)
                finally:
                    if stamp_of(os.fstat(handle)) != stamp:  # nobody knows of what bytes the clip or the reason is
                        raise UnusableAudio("changed while it was read: run it again") from None
        except (OSError, ValueError) as error:
            raise UnusableAudio(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None

    def samples(self, path: str | Path) -> int:
        """Samples the clip will have, from the header alone; 0 where the header cannot be read."""
        length = wav_length(str(path))
        if length is None:
            try:
                with open_audio(path) as handle, soundfile.SoundFile(handle, closefd=False) as file:
                    length = file.frames, file.samplerate
            except (*_UNDECODABLE, OSError):
                return 0
        frames, rate = length
        return max(0, min(resampled_length(frames, rate, self.sample_rate), self._limit))

    @property
    def _limit(self) -> int:
        return int(self.max_seconds * self.sample_rate)

    def _clip(self, handle: int, stamp: tuple[int, int]) -> DecodedAudio:
        size = stamp[0]
        if not size:
            raise UnusableAudio("an empty file")
        data = bytes_of(handle, size) if size <= _WHOLE_BYTES else b""
        digest = digest_of(data) if data else digest_of_file(handle, size)
        try:
            absent = missing(_bytes_at(handle, data), size)
            if absent:
                raise UnusableAudio(f"truncated: {absent}")
            wave, rate = self._decode(handle, data)
            kept = self._resample(wave, rate)
            _refuse_unsound(wave, kept)
        except UnusableAudio as error:
            raise UnusableAudio(error.reason, digest) from None
        except _UNDECODABLE as error:
            raise UnusableAudio(f"cannot be decoded ({_short(error)})", digest) from None
        return DecodedAudio(kept, digest, stamp)

    def _decode(self, handle: int, data: bytes) -> tuple[Waveform, int]:
        """An open file and its bytes -> (samples,) mono and its rate, little more than the crop keeps."""
        plain = samples16(data)
        if plain:
            values, rate = plain
            start, keep = self._kept(len(values), rate)
            return _mono(values[start : start + keep] * np.float32(1 / 32768)), rate
        # by its handle: bytes would come to libsndfile through Python, in 30 calls a file that each wait for Python's
        # lock while other threads encode
        os.lseek(handle, 0, os.SEEK_SET)
        with soundfile.SoundFile(handle, closefd=False) as file:
            rate, frames = file.samplerate, file.frames
            if frames <= 0:
                raise UnusableAudio("0 frames")
            if rate > _HIGHEST_RATE:
                raise UnusableAudio(f"a header that says {rate:,} samples a second")
            start, keep = self._kept(frames, rate)
            if start:
                file.seek(start)
            wave = _read(file, keep)
        if len(wave) < keep:
            raise UnusableAudio(f"truncated: {len(wave)} frames decode, the header promises {frames}")
        return wave, rate

    def _kept(self, frames: int, rate: int) -> tuple[int, int]:
        """The first frame that is decoded, and how many are."""
        keep = min(frames, int((self.max_seconds + 2 * _MARGIN_SECONDS) * rate) + 1)
        if self.crop != "center" or keep == frames:
            return 0, keep
        keep -= (frames - keep) % 2  # as much is left out before as after
        return (frames - keep) // 2, keep

    def _resample(self, wave: Waveform, rate: int) -> Waveform:
        wave = resample(wave, rate, self.sample_rate)
        start = max(0, len(wave) - self._limit) // 2 if self.crop == "center" else 0
        return wave[start : start + self._limit]


def _read(file: soundfile.SoundFile, frames: int) -> Waveform:
    """The next `frames`, or those that decode, mono."""
    step = max(1, _READ_VALUES // file.channels)
    parts = []
    while frames > 0 and len(part := file.read(min(frames, step), dtype="float32", always_2d=True)):
        parts.append(_mono(part))
        frames -= len(part)
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])


def _mono(wave: Waveform) -> Waveform:
    """(frames, channels) -> (frames,), the mean of the channels."""
    return wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1, dtype=np.float32)


def _bytes_at(handle: int, data: bytes) -> Callable[[int, int], bytes]:
    """What lies at a place of a file, as (place, count) -> bytes."""
    if data:
        return lambda place, count: data[place : place + count]
    return lambda place, count: os.pread(handle, count, place)


def _refuse_unsound(decoded: Waveform, kept: Waveform) -> None:
    """Raise UnusableAudio where the clip `kept` of what was `decoded` is silent or not finite."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        energy = float(np.dot(kept, kept))
    if not 0.0 < energy < np.inf:  # one product says nearly always that all is well
        for wave in (decoded, kept):
            if not np.isfinite(wave).all():
                raise UnusableAudio(f"{int((~np.isfinite(wave)).sum())} samples are not finite")
        if not kept.any():
            raise UnusableAudio("silent: every sample is zero")
    if decoded[0] == decoded[-1] and len(decoded) > 1 and (decoded == decoded[0]).all():
        raise UnusableAudio(f"silent: every sample is {decoded[0]:.3g}")


def _short(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return " ".join(str(text).split()).rstrip(".") or type(error).__name__
