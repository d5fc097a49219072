"""An audio file -> one mono clip at the encoder's rate, or the reason why there is none.

A file is opened once, by its handle: its bytes are hashed, its container is checked, libsndfile decodes it, and what
is not at the encoder's rate is resampled (resampling.py).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.extraction.audio.containers import missing_audio, read_at
from pipeline.extraction.audio.decoders import FFmpegFile, open_decoder
from pipeline.extraction.audio.resampling import resample, resampled_length
from pipeline.extraction.encoders.base import LFS_POINTER, Waveform

MARGIN_SECONDS = 0.1  # decoded beyond the crop, so that resampling sees no edge inside it
READ_VALUES = 1 << 22  # decoded at once: what a header promises need not be there
MAX_FILE_BYTES = 8 << 30
MAX_RATE = (1 << 20) - 1  # Hz; no recording has more
CHANNELS = {"mean": 0, "left": 1, "right": 2}  # by number, from 1
CANCELLED = 1e-4  # of the channels' energy, in their mean; 64 channels of independent noise leave 1/64
HASH_BYTES = 1 << 20  # of a file, in memory at once while it is hashed
_UNDECODABLE = (soundfile.SoundFileError, RuntimeError, ValueError, TypeError)
_OPEN_FLAGS = os.O_RDONLY | sum(  # of POSIX, and of Windows
    getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY", "O_NOINHERIT")
)
_SPECIAL_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class UnusableAudio(Exception):
    """Why a file has no vector; it fails one row. `digest` is of the file's bytes, zeros where they are unknown."""

    def __init__(self, reason: str, digest: bytes = bytes(16)) -> None:
        super().__init__(reason)
        self.reason, self.digest = reason, digest


@dataclass(frozen=True)
class DecodedAudio:
    """A decoded utterance."""

    wave: Waveform  # (samples,) mono at the decoding's rate, cropped
    digest: bytes  # BLAKE2b-128 of the file's bytes
    stamp: tuple[int, int] = (-1, 0)  # size and mtime of the file that was read


@contextmanager
def open_audio(path: str | Path) -> Iterator[int]:
    """A handle of the regular file `path`. Raises OSError, ValueError for a path that no file can have.

    Other files are never read: opening a pipe waits, a device may have no end, and neither can be read twice.
    """
    handle = os.open(path, _OPEN_FLAGS)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, f"{_SPECIAL_FILES.get(stat.S_IFMT(mode), 'something else')}, not a file")
        yield handle
    finally:
        os.close(handle)


def stamp_of(status: os.stat_result) -> tuple[int, int]:
    """(bytes, nanoseconds of the last change): a file that changed has another. Both fit in 64 bits."""
    return status.st_size, max(-(1 << 63), min(status.st_mtime_ns, (1 << 63) - 1))


def digest_of(data: bytes) -> bytes:
    """BLAKE2b-128, the identity of a source's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def digest_of_file(handle: int, size: int) -> bytes:
    """`digest_of` the first `size` bytes of an open file (one that grows has no end), in pieces."""
    digest = hashlib.blake2b(digest_size=16)
    while size > 0 and (piece := os.read(handle, min(size, HASH_BYTES))):
        digest.update(piece)
        size -= len(piece)
    return digest.digest()


@dataclass(frozen=True)
class Decoding:
    """How every file of a run is decoded."""

    sample_rate: int
    max_seconds: float
    crop: str  # "start" or "center"
    channel: str | int = "mean"  # of all, or one: "left", "right" or its number, from 1

    def fingerprint(self) -> dict[str, object]:
        """What changes a clip."""
        settings = {"sample_rate": self.sample_rate, "max_seconds": self.max_seconds, "crop": self.crop}
        return settings if self.channel == "mean" else settings | {"channel": self.channel}

    @property
    def max_samples(self) -> int:
        """Of a clip, after resampling."""
        return int(self.max_seconds * self.sample_rate)

    def samples(self, path: str | Path) -> int:
        """Samples the clip will have, from the header alone; 0 where the header cannot be read."""
        try:
            with open_audio(path) as handle, open_decoder(handle) as file:
                samples = resampled_length(file.frames, file.samplerate, self.sample_rate)
        except (*_UNDECODABLE, OSError):
            return 0
        return max(0, min(samples, self.max_samples))

    def load(self, path: Path) -> DecodedAudio:
        """Decode `path`. Raises UnusableAudio with the reason."""
        try:
            with open_audio(path) as handle:
                stamp = stamp_of(os.fstat(handle))
                try:
                    return self._load(handle, stamp)
                finally:
                    if stamp_of(os.fstat(handle)) != stamp:  # the clip, or the reason, is of unknown bytes
                        raise UnusableAudio("changed while it was read: run it again") from None
        except (OSError, ValueError) as error:
            raise UnusableAudio(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None

    def _load(self, handle: int, stamp: tuple[int, int]) -> DecodedAudio:
        size = stamp[0]
        if not size:
            raise UnusableAudio("an empty file")
        if size > MAX_FILE_BYTES:  # not even hashed: 50 GB of a sparse file took two minutes
            raise UnusableAudio(f"{size / 2**30:,.0f} GiB: larger than any recording of an utterance")
        digest = digest_of_file(handle, size)
        if read_at(handle, len(LFS_POINTER), 0) == LFS_POINTER:
            raise UnusableAudio("a git-lfs pointer, not audio: run git lfs pull", digest)
        try:
            missing = missing_audio(handle, size)
            if missing:
                raise UnusableAudio(f"truncated: {missing}")
            decoded, rate = self._decode(handle)
            clip = self.clip(decoded, rate)
            refuse_invalid(decoded, clip)
        except UnusableAudio as error:
            raise UnusableAudio(error.reason, digest) from None
        except _UNDECODABLE as error:
            text = " ".join((getattr(error, "error_string", None) or str(error)).split()).rstrip(".")
            raise UnusableAudio(f"cannot be decoded ({text or type(error).__name__})", digest) from None
        return DecodedAudio(clip, digest, stamp)

    def _decode(self, handle: int) -> tuple[Waveform, int]:
        """An open file -> (frames,) mono and its rate, little more than the crop keeps.

        By its handle: given bytes, libsndfile would read them through Python, in 30 calls a file that each wait for
        Python's lock while other threads encode.
        """
        with open_decoder(handle) as file:
            frames, rate = file.frames, file.samplerate
            if frames <= 0:
                raise UnusableAudio("0 frames")
            if rate > MAX_RATE:
                raise UnusableAudio(f"a header that says {rate:,} samples a second")
            start, count = self.frame_range(frames, rate)
            if start:
                file.seek(start)
            mix = ChannelMix(self.channel, file.channels)
            parts, left, step = [], count, max(1, READ_VALUES // file.channels)
            while left > 0 and len(part := file.read(min(left, step), dtype="float32", always_2d=True)):
                parts.append(mix.mono(part))
                left -= len(part)
            allowed = MARGIN_SECONDS * rate if isinstance(file, FFmpegFile) else 0  # its headers are not exact
        if left > allowed or not parts:
            raise UnusableAudio(f"truncated: {count - left} frames decode, the header promises {frames}")
        mix.refuse_cancelled()
        return parts[0] if len(parts) == 1 else np.concatenate(parts), rate

    def frame_range(self, frames: int, rate: int) -> tuple[int, int]:
        """The first of `frames` at `rate` to decode, and how many: the crop and a margin on either side."""
        count = min(frames, int((self.max_seconds + 2 * MARGIN_SECONDS) * rate) + 1)
        if self.crop != "center" or count == frames:
            return 0, count
        count -= (frames - count) % 2  # as much is left out before as after
        return (frames - count) // 2, count

    def clip(self, decoded: Waveform, rate: int) -> Waveform:
        """What was decoded of `frame_range`, (frames,) at `rate` -> (samples,) at the encoder's rate, cropped."""
        wave = decoded if rate == self.sample_rate else resample(decoded, rate, self.sample_rate)
        start = max(0, len(wave) - self.max_samples) // 2 if self.crop == "center" else 0
        return wave[start : start + self.max_samples]


class ChannelMix:
    """Blocks of a file's channels -> mono: their mean, or one of them."""

    def __init__(self, channel: str | int, channels: int) -> None:
        """Raises UnusableAudio for a channel that the file does not have."""
        self.number = CHANNELS.get(channel, channels + 1) if isinstance(channel, str) else channel
        if not 0 <= self.number <= channels:
            raise UnusableAudio(f"{channels} channels: corpus.channel={channel} is not among them")
        self.energies = [0.0, 0.0]  # of the channels on average, and of their mean

    def mono(self, block: Waveform) -> Waveform:
        """(frames, channels) -> (frames,)."""
        channels = block.shape[1]
        if self.number or channels == 1:
            one: Waveform = block[:, max(0, self.number - 1)]
            return one
        mean: Waveform = block.mean(axis=1, dtype=np.float32)
        self.energies[0] += float(np.vdot(block, block)) / channels
        self.energies[1] += float(np.vdot(mean, mean))
        return mean

    def refuse_cancelled(self) -> None:
        """Raises UnusableAudio where the mean is silent and the channels are not: one is the other upside down."""
        channels, mean = self.energies
        if mean < CANCELLED * channels:
            raise UnusableAudio("channels cancel: their mean is silent and they are not; -o corpus.channel=left")


def refuse_invalid(decoded: Waveform, clip: Waveform) -> None:
    """Raise UnusableAudio where `clip`, cut of what was `decoded`, is silent or not finite."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        energy = float(np.dot(clip, clip))
    if not 0.0 < energy < np.inf:  # one product shows nearly always that all is well
        for wave in (decoded, clip):
            infinite = int((~np.isfinite(wave)).sum())
            if infinite:
                raise UnusableAudio(f"{infinite} samples are not finite")
        if not clip.any():
            raise UnusableAudio("silent: every sample is zero")
    if decoded[0] == decoded[-1] and len(decoded) > 1 and (decoded == decoded[0]).all():
        raise UnusableAudio(f"silent: every sample is {decoded[0]:.3g}")
