"""Plain WAV files: their length from the first bytes, and their 16-bit samples, many times as fast as by libsndfile.

Only the plain case is read here: a whole RIFF file of uncompressed samples that ends with its audio. For all else the
answer is None, and libsndfile is to be asked.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.extraction.audio.files import open_audio

_HEAD_BYTES = 512  # holds the chunks before the audio, in nearly every file
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WIDTHS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}  # bits
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # of an extensible format, after the code of the plain one
_PASSED_OVER = (b"LIST", b"JUNK", b"fact", b"PEAK")


class _Format(NamedTuple):
    code: int
    bits: int
    channels: int
    rate: int  # samples a second

    @property
    def frame(self) -> int:
        return self.channels * self.bits // 8  # bytes


class _Audio(NamedTuple):
    offset: int  # bytes
    frames: int
    form: _Format


def wav_length(path: str) -> tuple[int, int] | None:
    """(frames, samples a second) that libsndfile would find in `path`; None for anything but a plain whole WAV."""
    try:
        with open_audio(path) as handle:
            audio = _audio(os.read(handle, _HEAD_BYTES), os.fstat(handle).st_size)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    return (audio.frames, audio.form.rate) if audio else None


def samples16(data: bytes) -> tuple[NDArray[np.int16], int] | None:
    """(frames, channels) samples of a plain whole 16-bit WAV file, and its rate; None for anything else."""
    audio = _audio(data[:_HEAD_BYTES], len(data))
    if audio is None or (audio.form.code, audio.form.bits) != (_PCM, 16):
        return None
    values = np.frombuffer(data, "<i2", audio.frames * audio.form.channels, audio.offset)
    return values.reshape(audio.frames, audio.form.channels), audio.form.rate


def _audio(head: bytes, size: int) -> _Audio | None:
    """Where the audio lies, by the first bytes of a file of `size` bytes."""
    if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or int.from_bytes(head[4:8], "little") + 8 != size:
        return None
    place, form = 12, None
    while place + 8 <= len(head):
        name, length = head[place : place + 4], int.from_bytes(head[place + 4 : place + 8], "little")
        place += 8
        if name == b"data":
            whole = form is not None and length and place + length + length % 2 == size and not length % form.frame
            return _Audio(place, length // form.frame, form) if whole and form else None
        if name == b"fmt " and form is None:
            form = _format(head[place : place + length])
        elif name not in _PASSED_OVER:
            return None
        place += length + length % 2
    return None


def _format(chunk: bytes) -> _Format | None:
    """What a chunk `fmt ` says; None for what is not plain."""
    if len(chunk) not in (16, 18, 40):
        return None
    code, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", chunk)
    if code == _EXTENSIBLE and len(chunk) == 40 and chunk[26:] == _GUID_TAIL and chunk[18:20] == chunk[14:16]:
        code = int.from_bytes(chunk[24:26], "little")
    plain = bits in _WIDTHS.get(code, ()) and 1 <= channels <= 8 and frame == channels * bits // 8
    return _Format(code, bits, channels, rate) if plain and 0 < rate < 1 << 20 else None
