"""Which library decodes a file: libsndfile, or FFmpeg by PyAV (the extra `av`) for what libsndfile does not read.

MPEG-4 (m4a), ADTS (aac), and Matroska (webm) are told by their first bytes. FFmpeg is given the format, so that no file
makes it a player of lists or a client of the network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.extraction.audio.containers import read_at

_HEAD_BYTES = 12
_ADTS_MASK, _ADTS = 0xFFF6, 0xFFF0  # a syncword, and layer 0: MP3 is layer 3


@contextmanager
def open_decoder(handle: int) -> Iterator[Any]:
    """A `soundfile.SoundFile` of an open file, or a `FFmpegFile` of the same attributes; the handle stays open.

    Raises RuntimeError where PyAV is needed and not installed, or cannot decode it, and what soundfile raises.
    """
    name = ffmpeg_format(read_at(handle, _HEAD_BYTES, 0))
    os.lseek(handle, 0, os.SEEK_SET)
    if name is None:
        with soundfile.SoundFile(handle, closefd=False) as file:
            yield file
        return
    try:
        import av
    except ImportError:
        raise RuntimeError(f"{name} needs PyAV: pip install 'emotionrankclap[av]'") from None
    try:
        with os.fdopen(os.dup(handle), "rb") as file, av.open(file, format=name) as container:
            yield FFmpegFile(container)
    except (av.FFmpegError, IndexError) as error:
        raise RuntimeError(getattr(error, "strerror", None) or str(error) or type(error).__name__) from None


def ffmpeg_format(head: bytes) -> str | None:
    """FFmpeg's name of the format that begins with `head`; None for what libsndfile is asked."""
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    return "aac" if int.from_bytes(head[:2], "big") & _ADTS_MASK == _ADTS else None


class FFmpegFile:
    """The first audio stream of an open container, read as `soundfile.SoundFile` is."""

    def __init__(self, container: Any) -> None:
        self._container, self._stream = container, container.streams.audio[0]
        self.samplerate: int = self._stream.rate
        self.channels: int = self._stream.channels
        self.frames = self._count()
        self._blocks = self._decoded()
        self._rest = np.empty((0, self.channels), np.float32)

    def _count(self) -> int:
        """By the header, else by the packets, which are not decoded; both may be a few hundred frames off."""
        seconds = self._stream.duration and self._stream.duration * self._stream.time_base
        if not seconds or self._container.format.name == "aac":  # of ADTS the duration is guessed by the bit rate
            packets = self._container.demux(self._stream)
            seconds = sum((packet.duration or 0) * packet.time_base for packet in packets if packet.size)
            self._container.seek(0)
        return int(seconds * self.samplerate)

    def _decoded(self) -> Iterator[NDArray[np.float32]]:
        """Blocks (n, channels) from -1 to 1."""
        from av import AudioResampler

        resampler: Any = AudioResampler(format="fltp", layout=self._stream.layout, rate=self.samplerate)
        for frame in self._container.decode(self._stream):
            for block in resampler.resample(frame):
                yield block.to_ndarray().T
        for block in resampler.resample(None):
            yield block.to_ndarray().T

    def seek(self, start: int) -> None:
        """Leave out the first `start` frames."""
        while start > 0 and len(part := self.read(min(start, self.samplerate))):
            start -= len(part)

    def read(self, count: int, **_: Any) -> NDArray[np.float32]:
        """(count, channels), fewer at the end."""
        parts, found = [self._rest], len(self._rest)
        while found < count and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            found += len(block)
        frames = np.concatenate(parts)
        self._rest = frames[count:]
        return frames[:count]
