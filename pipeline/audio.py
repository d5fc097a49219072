"""Decoding: one audio file in, one mono waveform at the encoder's rate out, or the reason why not.

soundfile decodes (WAV, FLAC, MP3, OGG; a plain 16-bit WAV is taken as it lies), torchaudio resamples. A file that
decodes silently to less than its header promises is refused: half an utterance is another utterance.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional
from numpy.typing import NDArray

from pipeline.plain_wav import samples16, wav_length

Waveform = NDArray[np.float32]
_MARGIN_SECONDS = 0.1  # decoded beyond the crop, so that resampling sees no edge inside it


class UnusableAudio(Exception):
    """Why a file has no vector; costs its own row. `digest` identifies the file's bytes."""

    def __init__(self, reason: str, digest: bytes = bytes(16)) -> None:
        super().__init__(reason)
        self.reason, self.digest = reason, digest


@dataclass(frozen=True)
class Clip:
    """A decoded utterance."""

    wave: Waveform  # (samples,) mono at the asked rate, cropped
    digest: bytes  # BLAKE2b-128 of the file's bytes


@dataclass(frozen=True)
class Decoding:
    """How every file of a run is decoded."""

    sample_rate: int
    max_seconds: float
    crop: str  # "start" or "center"

    def fingerprint(self) -> dict[str, object]:
        return {"sample_rate": self.sample_rate, "max_seconds": self.max_seconds, "crop": self.crop}

    def load(self, path: Path) -> Clip:
        """Decode `path`. Raises UnusableAudio with the reason."""
        with _opened(path) as handle:
            data = _bytes(handle)
            digest = digest_of(data)
            try:
                _refuse_truncated_wav(data)
                wave, rate = self._decode(handle, data)
            except UnusableAudio as error:
                raise UnusableAudio(error.reason, digest) from None
            except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
                raise UnusableAudio(f"cannot be decoded ({_short(error)})", digest) from None
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            energy = float(np.dot(wave, wave))
        if not 0.0 < energy < np.inf:  # one product says nearly always that all is well
            if not np.isfinite(wave).all():
                raise UnusableAudio(f"{int((~np.isfinite(wave)).sum())} samples are not finite", digest)
            if not wave.any():
                raise UnusableAudio("silent: every sample is zero", digest)
        return Clip(self._resample(wave, rate), digest)

    def samples(self, path: str | Path) -> int:
        """Samples the clip will have, from the header alone; 0 where the header cannot be read."""
        length = wav_length(str(path))
        if length is None:
            try:
                info = soundfile.info(str(path))
            except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError):
                return 0
            length = info.frames, info.samplerate
        frames, rate = length
        return int(min(frames / rate, self.max_seconds) * self.sample_rate)

    def _decode(self, handle: int, data: bytes) -> tuple[Waveform, int]:
        """An open file and its bytes -> (samples,) mono and its rate, little more than the crop keeps."""
        plain = samples16(data)
        if plain:
            values, rate = plain
            start, keep = self._kept(len(values), rate)
            return _mono(values[start : start + keep] * np.float32(1 / 32768)), rate
        with soundfile.SoundFile(_rewound(handle, data), closefd=False) as file:
            rate, frames = file.samplerate, file.frames
            if frames <= 0:
                raise UnusableAudio("0 frames")
            start, keep = self._kept(frames, rate)
            if start:
                file.seek(start)
            wave = file.read(keep, dtype="float32", always_2d=True)
        if len(wave) < keep:
            raise UnusableAudio(f"truncated: {len(wave)} frames decode, the header promises {frames}")
        return _mono(wave), rate

    def _kept(self, frames: int, rate: int) -> tuple[int, int]:
        """The first frame that is decoded, and how many are."""
        keep = min(frames, int((self.max_seconds + 2 * _MARGIN_SECONDS) * rate) + 1)
        if self.crop != "center" or keep == frames:
            return 0, keep
        keep -= (frames - keep) % 2  # as much is left out before as after
        return (frames - keep) // 2, keep

    def _resample(self, wave: Waveform, rate: int) -> Waveform:
        if rate != self.sample_rate:
            wave = torchaudio.functional.resample(torch.tensor(wave), rate, self.sample_rate).numpy()
        limit = int(self.max_seconds * self.sample_rate)
        start = max(0, len(wave) - limit) // 2 if self.crop == "center" else 0
        return wave[start : start + limit]


def _mono(wave: Waveform) -> Waveform:
    """(frames, channels) -> (frames,), the mean of the channels."""
    return wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1, dtype=np.float32)


def digest_of(data: bytes) -> bytes:
    """BLAKE2b-128, the identity of a source's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UnusableAudio(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        yield handle
    finally:
        os.close(handle)


def _bytes(handle: int) -> bytes:
    """All of a file."""
    try:
        parts = []
        while part := os.read(handle, max(1 << 16, os.fstat(handle).st_size)):
            parts.append(part)
    except OSError as error:
        raise UnusableAudio(f"cannot be read ({error.strerror})") from None
    if not parts:
        raise UnusableAudio("an empty file")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _rewound(handle: int, data: bytes) -> int | io.BytesIO:
    """What libsndfile reads: the file by its handle, for bytes come to it through Python, in 30 calls a file that each
    wait for Python's lock while other threads encode. A pipe cannot be read twice; of it, the bytes."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
    except OSError:
        return io.BytesIO(data)
    return handle


def _refuse_truncated_wav(data: bytes) -> None:
    """libsndfile reads a RIFF that was cut off as if it were whole; its data chunk's size tells."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    position = 12
    while position + 8 <= len(data):
        name, size = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        position += 8
        if name == b"data":
            there = len(data) - position
            streamed = size in (0, 0xFFFFFFFF)  # written to a pipe: no size is promised
            if not streamed and there < size:
                raise UnusableAudio(f"truncated: {there} of {size} bytes of audio")
            return
        position += size + size % 2


def _short(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return " ".join(str(text).split()).rstrip(".") or type(error).__name__
