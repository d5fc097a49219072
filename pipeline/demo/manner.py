"""How a point of the valence-arousal plane sounds here, and what five raters would say of it.

Arousal drives rate, volume, pitch and pitch range; valence drives pitch, the formants (smiling shortens the vocal
tract, frowning lengthens it) and the brightness of the spectrum. The mapping is this project's own (F38).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, resample

from pipeline.demo.voice import Manner

GRID = tuple(0.5 * step for step in range(2, 15))  # 1.0, 1.5 ... 7.0
SAMPLE_RATE = 16_000
RATERS = 5
RATER_NOISE = 0.8  # standard deviation of one rater, in points of the scale
RENDITION_NOISE = 0.05  # relative standard deviation of every setting: nobody says a thing twice alike
_LIMITS = {"rate": (80, 450), "pitch": (0, 99), "range": (0, 99), "volume": (5, 100)}


def manner_of(voice: str, valence: float, arousal: float, draw: np.random.Generator) -> Manner:
    """The engine's settings for (valence, arousal) on 1-7."""
    v, a = _centred(valence), _centred(arousal)
    settings = {
        "rate": 175 * 1.5**a / smile(valence),  # words per minute; `colour` plays the sentence `smile` times faster
        "pitch": 46 + 14 * a + 12 * v,
        "range": 50 + 30 * a,
        "volume": 50 * 1.6**a,
    }
    varied = {name: value * draw.normal(1, RENDITION_NOISE) for name, value in settings.items()}
    return Manner(voice, **{name: round(float(np.clip(value, *_LIMITS[name]))) for name, value in varied.items()})


def smile(valence: float) -> float:
    """The factor on the formants: 0.91 for a frown, 1.1 for a smile."""
    return float(1.1 ** _centred(valence))


def colour(wave: NDArray[np.float32], rate: int, valence: float) -> NDArray[np.float32]:
    """`wave` (samples,) at `rate` -> (samples,) at 16 kHz, formants moved by `smile`, spectrum tilted, RMS kept."""
    moved = resample(wave, round(len(wave) * SAMPLE_RATE / (rate * smile(valence))))
    tilt = 0.5 * _centred(valence)
    tilted = np.asarray(lfilter([1.0, -tilt], [1.0], moved) if tilt > 0 else lfilter([1.0], [1.0, tilt], moved))
    scaled = np.asarray(tilted * (_rms(wave) / max(_rms(tilted), 1e-9)), dtype=np.float32)
    return scaled.clip(-1, 1)


def rated(truth: float, draw: np.random.Generator) -> float:
    """The mean of five raters' whole numbers on 1-7: 4.2 and the like (F6, F10)."""
    ratings = np.clip(np.rint(truth + draw.normal(0, RATER_NOISE, RATERS)), 1, 7)
    return round(float(ratings.mean()), 1)


def _centred(label: float) -> float:
    return (label - 4) / 3  # -1 .. 1


def _rms(wave: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(wave))))
