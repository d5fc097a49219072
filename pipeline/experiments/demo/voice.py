"""A synthetic voice: espeak-ng through ctypes, from the GPL-3.0 extra `demo` (F38).

espeak-ng is one engine per process, and it carries oscillator phase, flutter and echo from one sentence into the next.
So every sentence loads the library afresh (4 ms): its samples then depend on the text and the prosody alone, and a
corpus that was interrupted is finished with the same bytes. Variants with breath (f2, f3, f5, whisper) add true noise
and stay outside this promise.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, resample

from pipeline.core.errors import UsageError, required_library

if sys.platform == "win32":
    from _ctypes import FreeLibrary

    _unload = FreeLibrary
else:
    from _ctypes import dlclose

    _unload = dlclose
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: espeak_Synth returns when the callback has had every sample
_NO_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report a missing data folder, do not end the process
_UTF8 = 1
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}  # espeak_PARAMETER
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Prosody:
    """How a sentence is spoken. `voice` is a language and a variant, as `en-us+m3`."""

    voice: str
    rate: int = 175  # words per minute, 80-450
    pitch: int = 50  # 0-99
    range: int = 50  # of the pitch, 0-99; 0 is monotone
    volume: int = 100  # per cent; above 100 some variants clip


class Voice:
    """The engine. Raises UsageError where the `demo` extra is missing or does not start."""

    def __init__(self) -> None:
        self._library, self._data = _installed()
        with self._engine() as (_, rate):
            self.sample_rate = rate

    def synthesize(self, text: str, prosody: Prosody) -> NDArray[np.float32]:
        """`text` -> (samples,) in [-1, 1] at `sample_rate`. Raises UsageError for a voice that does not exist."""
        chunks: list[NDArray[np.int16]] = []

        def keep(samples: Any, count: int, _events: object) -> int:
            if samples and count > 0:
                chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0  # go on

        callback = _Callback(keep)
        with self._engine() as (engine, _):
            engine.espeak_SetSynthCallback(callback)
            if engine.espeak_SetVoiceByName(prosody.voice.encode()) != 0:
                action = "See the folders lang and voices of its data."
                raise UsageError(f"voice {prosody.voice}", "unknown", "a voice of espeak-ng", action)
            for name, number in _PARAMETERS.items():
                engine.espeak_SetParameter(number, getattr(prosody, name), 0)
            data = text.encode()
            engine.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None)
        samples = np.concatenate(chunks or [np.empty(0, np.int16)])
        return np.multiply(samples, np.float32(1 / 32768), dtype=np.float32)

    @contextmanager
    def _engine(self) -> Iterator[tuple[Any, int]]:
        with _one_at_a_time:
            engine = ctypes.CDLL(self._library)
            try:
                rate = int(engine.espeak_Initialize(_SYNCHRONOUS, 0, self._data.encode(), _NO_EXIT))
                if rate <= 0:
                    action = "Run pip install --force-reinstall 'emotionrankclap[demo]'."
                    raise UsageError(self._data, "espeak-ng does not start with this folder", "its data", action)
                yield engine, rate
            finally:
                engine.espeak_Terminate()
                _unload(engine._handle)


def _installed() -> tuple[str, str]:
    espeakng_loader = required_library("espeakng_loader", "demo", "run-demo")
    library: Callable[[], str] = espeakng_loader.get_library_path
    return library(), str(espeakng_loader.get_data_path())


GRID = tuple(0.5 * step for step in range(2, 15))  # 1.0, 1.5 ... 7.0
SAMPLE_RATE = 16_000
RATERS = 5
RATER_NOISE = 0.8  # standard deviation of one rater, in points of the scale
RENDITION_NOISE = 0.05  # relative standard deviation of every setting: no two utterances are alike
_LIMITS = {"rate": (80, 450), "pitch": (0, 99), "range": (0, 99), "volume": (5, 100)}


def prosody_of(voice: str, valence: float, arousal: float, rng: np.random.Generator) -> Prosody:
    """The engine's settings for (valence, arousal) on 1-7."""
    v, a = _normalised(valence), _normalised(arousal)
    settings = {
        "rate": 175 * 1.5**a / formant_shift(valence),  # words per minute; shape_timbre speeds it up by formant_shift
        "pitch": 46 + 14 * a + 12 * v,
        "range": 50 + 30 * a,
        "volume": 50 * 1.6**a,
    }
    varied = {name: value * rng.normal(1, RENDITION_NOISE) for name, value in settings.items()}
    return Prosody(voice, **{name: round(float(np.clip(value, *_LIMITS[name]))) for name, value in varied.items()})


def formant_shift(valence: float) -> float:
    """The factor on the formants: 0.91 for a frown, 1.1 for a smile."""
    return float(1.1 ** _normalised(valence))


def shape_timbre(wave: NDArray[np.float32], rate: int, valence: float) -> NDArray[np.float32]:
    """`wave` (samples,) at `rate` -> (samples,) at 16 kHz, formants moved, spectrum tilted, RMS kept."""
    moved = resample(wave, round(len(wave) * SAMPLE_RATE / (rate * formant_shift(valence))))
    tilt = 0.5 * _normalised(valence)
    tilted = np.asarray(lfilter([1.0, -tilt], [1.0], moved) if tilt > 0 else lfilter([1.0], [1.0, tilt], moved))
    scaled = np.asarray(tilted * (_rms(wave) / max(_rms(tilted), 1e-9)), dtype=np.float32)
    return scaled.clip(-1, 1)


def mean_rating(truth: float, rng: np.random.Generator) -> float:
    """The mean of five raters' whole numbers on 1-7: 4.2 and the like (F6, F10)."""
    ratings = np.clip(np.rint(truth + rng.normal(0, RATER_NOISE, RATERS)), 1, 7)
    return round(float(ratings.mean()), 1)


def _normalised(label: float) -> float:
    return (label - 4) / 3  # -1 .. 1


def _rms(wave: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(wave))))
