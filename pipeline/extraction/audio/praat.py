"""Praat's acoustic features of an utterance: seven numbers for the acoustic captions of ParaCLAP (F14, F28, F41).

    pip install 'emotionrankclap[acoustic]'

Where a measure is undefined (pitch, jitter and shimmer of an unvoiced clip, the deviation of a single frame) it is 0,
because a store refuses vectors that are not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import MissingEncoder
from pipeline.extraction.encoders.base import AudioEncoder

NAMES: tuple[str, ...] = (
    "pitch_mean",  # Hz, over voiced frames
    "pitch_variation",  # semitones, standard deviation over voiced frames
    "intensity_mean",  # dB above 2e-5, full scale being 1; the mean of the energy; 0 for what lies below
    "jitter_local",  # mean difference of neighbouring periods / mean period
    "shimmer_local",  # mean difference of neighbouring periods' amplitudes / mean amplitude
    "articulation_rate",  # syllable nuclei per second of speaking time
    "duration",  # s of the clip, after the crop
)
FORMAT = 1  # raised whenever the same wave gets other numbers
PITCH_FLOOR, PITCH_CEILING = 75.0, 600.0  # Hz, Praat's own for speech
INTENSITY_FLOOR = 50.0  # Hz; smooths over 128 ms, so that a peak is a syllable and not a pitch period
_PERIODS = (0.0, 0.0, 0.0001, 0.02, 1.3)  # whole clip; shortest and longest period (s), largest ratio of neighbours
_AMPLITUDES = 1.6  # largest ratio of neighbours' amplitudes
_SILENCE, _DIP, _PAUSE = 25.0, 2.0, 0.3  # dB below the loudest, dB between two nuclei, s of a pause


def load_praat() -> PraatFeatures:
    """The features as an encoder. Raises MissingEncoder without praat-parselmouth (GPL-3.0, so an extra)."""
    try:
        return PraatFeatures(import_module("parselmouth"))
    except ImportError:
        found, action = "praat-parselmouth is not installed", "Run pip install 'emotionrankclap[acoustic]'."
        raise MissingEncoder("captions.styles: acoustic", found, "the extra acoustic", action) from None


class PraatFeatures(AudioEncoder):
    """An `AudioEncoder` whose vector is `NAMES`.

    Threads may share it, but take turns: parselmouth holds the interpreter's lock through every call of Praat.
    """

    dim = len(NAMES)
    sample_rate = 16_000

    def __init__(self, parselmouth: Any) -> None:
        self._praat = parselmouth
        self._call = parselmouth.praat.call

    def fingerprint(self) -> dict[str, Any]:
        """Praat's version and every setting."""
        return {
            "encoder": "praat",
            "format": FORMAT,
            "features": list(NAMES),
            "pitch_hz": [PITCH_FLOOR, PITCH_CEILING],
            "intensity_floor_hz": INTENSITY_FLOOR,
            "periods": [*_PERIODS, _AMPLITUDES],
            "nuclei": {"silence_db": _SILENCE, "dip_db": _DIP, "pause_seconds": _PAUSE},
            "parselmouth": self._praat.VERSION,
            "praat": self._praat.PRAAT_VERSION,
        }

    def prepare(self, inputs: Sequence[NDArray[np.float32]]) -> Sequence[NDArray[np.float32]]:
        """(B,) waveforms at 16 kHz of any lengths, as they are."""
        return inputs

    def compute(self, prepared: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        """-> (B, 7) float32, finite. A clip short of 128 ms has zeros appended."""
        vectors = np.array([self._measure(wave) for wave in prepared], dtype=np.float32)  # (B, 7)
        return torch.from_numpy(vectors.reshape(-1, self.dim))

    def _measure(self, wave: NDArray[np.float32]) -> list[float]:
        shortest = int(np.ceil(6.4 / INTENSITY_FLOOR * self.sample_rate))  # samples of Praat's window
        samples = np.pad(wave.astype(np.float64), (0, max(0, shortest - len(wave))))
        sound = self._praat.Sound(samples, sampling_frequency=self.sample_rate)
        pitch = sound.to_pitch_ac(pitch_floor=PITCH_FLOOR, pitch_ceiling=PITCH_CEILING)
        intensity = sound.to_intensity(minimum_pitch=INTENSITY_FLOOR)
        pulses = self._call([sound, pitch], "To PointProcess (cc)")
        measured = [
            self._call(pitch, "Get mean", 0, 0, "Hertz"),
            self._call(pitch, "Get standard deviation", 0, 0, "semitones"),
            max(0.0, self._call(intensity, "Get mean", 0, 0, "energy")),  # digital silence is -300 dB for Praat
            self._call(pulses, "Get jitter (local)", *_PERIODS),
            self._call([sound, pulses], "Get shimmer (local)", *_PERIODS, _AMPLITUDES),
            articulation_rate(intensity, pitch),
            len(wave) / self.sample_rate,
        ]
        return [value if np.isfinite(value) else 0.0 for value in measured]


def articulation_rate(intensity: Any, pitch: Any) -> float:
    """Syllable nuclei per second of speaking time, as de Jong and Wempe (2009) find them, from Praat's two contours.

    A nucleus is a voiced peak of the intensity within 25 dB of the loudest (its 99th percentile), with a dip of 2 dB
    before the next. Speaking time is what lies within those 25 dB, and the pauses under 0.3 s inside it. Theirs asks
    for a dip after every peak, and so leaves out the last; here the clip's end is a dip.
    """
    loudness = intensity.values[0]  # (T,) dB
    threshold = np.quantile(loudness, 0.99) - _SILENCE
    speaking = np.flatnonzero(loudness >= threshold)
    pauses = np.diff(speaking) - 1  # frames
    frames = len(speaking) + pauses[pauses * intensity.dx < _PAUSE].sum()
    edge = intensity.x1 - intensity.xmin - intensity.dx / 2  # s before the first frame; as many follow the last
    seconds = frames * intensity.dx + (loudness[[0, -1]] >= threshold).sum() * edge
    times = [intensity.x1 + peak * intensity.dx for peak in _peaks(loudness.tolist()) if loudness[peak] >= threshold]
    return float(np.isfinite([pitch.get_value_at_time(time) for time in times]).sum() / seconds)


def _peaks(loudness: list[float]) -> list[int]:
    """Frames of the highest points between which the contour falls and rises again by 2 dB."""
    peaks = []
    turn, rising = 0, True  # the highest frame since the last dip, or the lowest since the last peak
    for frame, level in enumerate(loudness):
        change = level - loudness[turn] if rising else loudness[turn] - level
        if change > 0:
            turn = frame
        elif change <= -_DIP:
            if rising:
                peaks.append(turn)
            turn, rising = frame, not rising
    if rising:
        peaks.append(turn)
    return peaks
