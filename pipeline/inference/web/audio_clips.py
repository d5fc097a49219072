"""The recordings that the page plays: those of rows that a search may find, and no other file.

A row is named by its number, never by a path. A file is played only while its bytes are those that were encoded. What
is sent is the decoded waveform as a new WAV: no byte of a file that is not audio leaves, and every format that a store
was made from can be played.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from cache.errors import one_line
from cache.manifest import Manifest
from pipeline.data.corpora.locations import AudioFiles
from pipeline.extraction.audio.decoders import open_decoder
from pipeline.extraction.audio.decoding import Decoding, UnusableAudio, open_audio
from pipeline.extraction.encoders.base import Waveform

MAX_SECONDS = 600.0
MAX_FRAMES = int(MAX_SECONDS * 48_000)  # 58 MB of samples, whatever the rate
_ANOTHER = "not the file that was encoded; run extract-features again"
DEFAULT_RATE = 16_000  # where a header gives none; decoding then says what is wrong


class ClipError(Exception):
    """Why a row cannot be played, on one line."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(one_line(f"{subject}: {reason}"))


@dataclass(frozen=True)
class Clips:
    """The recordings of `rows` of `manifest` under `root`; those that lie elsewhere only with `outside_root`.

    Links are followed, as in an extraction: what they lead to must be what was encoded.
    """

    manifest: Manifest
    rows: NDArray[np.int64]  # ascending
    digests: NDArray[np.uint8]  # (N, 16) BLAKE2b-128 of the file of every row of the manifest
    root: Path
    outside_root: bool = False
    channel: str | int = "mean"  # as for the encoder

    def wav(self, row: int) -> bytes:
        """The recording as a mono 16-bit WAV at its own rate, ten minutes of it at most. Raises ClipError."""
        if row not in self.rows:
            raise ClipError(f"row {row}", "not among the utterances searched")
        try:
            path = self._path(self.manifest.audio[row])
            rate = _rate(path)
            clip = Decoding(rate, min(MAX_SECONDS, MAX_FRAMES / rate), "start", self.channel).load(path)
            if clip.digest != self.digests[row].tobytes():
                raise UnusableAudio(_ANOTHER)
            return _wav(clip.wave, rate)
        except UnusableAudio as error:
            another = error.digest not in (bytes(16), self.digests[row].tobytes())  # a reason tells of its samples
            raise ClipError(self.manifest.id[row], _ANOTHER if another else error.reason) from None

    def _path(self, audio: str) -> Path:
        """Where `audio` lies. Raises UnusableAudio where that is outside the root."""
        files = AudioFiles(self.root)
        inside = files.inside(audio) if audio else None
        if inside is None and not (self.outside_root and audio):
            raise UnusableAudio("its path leads out of the audio root")
        return Path(files.whole(audio))


def _rate(path: Path) -> int:
    """Samples a second, as the header says."""
    try:
        with open_audio(path) as handle, open_decoder(handle) as file:
            return int(file.samplerate) or DEFAULT_RATE
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError):
        return DEFAULT_RATE


def _wav(samples: Waveform, rate: int) -> bytes:
    """(n,) -> a WAV file; samples of a 16-bit file come out as they went in."""
    values = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, values, rate, "PCM_16", format="WAV")
    return file.getvalue()
