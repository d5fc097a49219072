"""Decoding: one audio file in, one mono waveform at the encoder's rate out, or the reason why not.

soundfile decodes (WAV, FLAC, MP3, OGG), torchaudio resamples. A file that decodes silently to less than its header
promises is refused: half an utterance is another utterance.
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional
from numpy.typing import NDArray

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
        data = _bytes(path)
        digest = digest_of(data)
        try:
            _refuse_truncated_wav(data)
            wave, rate = self._decode(data)
        except UnusableAudio as error:
            raise UnusableAudio(error.reason, digest) from None
        except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
            raise UnusableAudio(f"cannot be decoded ({_short(error)})", digest) from None
        if not np.isfinite(wave).all():
            raise UnusableAudio(f"{int((~np.isfinite(wave)).sum())} samples are not finite", digest)
        if not wave.any():
            raise UnusableAudio("silent: every sample is zero", digest)
        return Clip(self._resample(wave, rate), digest)

    def samples(self, path: Path) -> int:
        """Samples the clip will have, from the header alone; 0 where the header cannot be read."""
        try:
            info = soundfile.info(str(path))
        except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError):
            return 0
        return int(min(info.frames / info.samplerate, self.max_seconds) * self.sample_rate)

    def _decode(self, data: bytes) -> tuple[Waveform, int]:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, frames = file.samplerate, file.frames
            if frames <= 0:
                raise UnusableAudio("0 frames")
            keep = min(frames, int((self.max_seconds + 2 * _MARGIN_SECONDS) * rate) + 1)
            if self.crop == "center" and keep < frames:
                keep -= (frames - keep) % 2  # as much is left out before as after
                file.seek((frames - keep) // 2)
            wave = file.read(keep, dtype="float32", always_2d=True)
        if len(wave) < keep:
            raise UnusableAudio(f"truncated: {len(wave)} frames decode, the header promises {frames}")
        return wave.mean(axis=1, dtype=np.float32), rate

    def _resample(self, wave: Waveform, rate: int) -> Waveform:
        signal = torch.tensor(wave)
        if rate != self.sample_rate:
            signal = torchaudio.functional.resample(signal, rate, self.sample_rate)
        limit = int(self.max_seconds * self.sample_rate)
        start = max(0, len(signal) - limit) // 2 if self.crop == "center" else 0
        cropped: Waveform = signal[start : start + limit].numpy()
        return cropped


def digest_of(data: bytes) -> bytes:
    """BLAKE2b-128, the identity of a source's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnusableAudio(f"cannot be read ({error.strerror})") from None
    if not data:
        raise UnusableAudio("an empty file")
    return data


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
