"""What Praat measures: voices made to known numbers, and Praat's own script as the oracle."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import UsageError
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.audio.praat import NAMES, PraatFeatures, load_praat
from pipeline.extraction.encoders.base import AudioEncoder

ROOT = Path(__file__).resolve().parents[3]
RAVDESS = ROOT.parent / "shared" / "corpora" / "ravdess" / "audio"
RATE = 16_000
SCRIPT = """
sound = selected("Sound")
To Pitch: 0, 75, 600
pitch_mean = Get mean: 0, 0, "Hertz"
pitch_variation = Get standard deviation: 0, 0, "semitones"
selectObject: sound
To Intensity: 50, 0, "yes"
intensity_mean = Get mean: 0, 0, "energy"
selectObject: sound
points = To PointProcess (periodic, cc): 75, 600
jitter_local = Get jitter (local): 0, 0, 0.0001, 0.02, 1.3
plusObject: sound
shimmer_local = Get shimmer (local): 0, 0, 0.0001, 0.02, 1.3, 1.6
"""


@pytest.fixture(scope="module")
def praat() -> AudioEncoder:
    pytest.importorskip("parselmouth")
    return load_praat()


def measure(praat: PraatFeatures, wave: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, praat.encode([wave.astype(np.float32)])[0].tolist(), strict=True))


def voice(pitch: float | np.ndarray, seconds: float = 1.0) -> np.ndarray:
    """A harmonic complex below 4 kHz; `pitch` in Hz, one or one a sample."""
    phase = 2 * np.pi * np.cumsum(np.full(int(seconds * RATE), pitch)) / RATE
    count = int(4000 / np.max(pitch))
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, count + 1))


def pulses(times: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """A smooth pulse of 0.3 ms at each of `times` (s), so that it may fall between two samples."""
    clock = np.arange(int((times[-1] + 0.01) * RATE)) / RATE
    return 0.3 * (heights * np.exp(-0.5 * ((clock[:, None] - times) / 3e-4) ** 2)).sum(1)


def syllables(count: int, carrier: np.ndarray, *, long: float = 0.15, gap: float = 0.1) -> np.ndarray:
    """`count` raised-cosine bursts of `carrier`, `long` s each, `gap` s of silence around them."""
    burst = np.hanning(int(long * RATE)) * carrier[: int(long * RATE)]
    silence = np.zeros(int(gap * RATE))
    return np.concatenate([silence, *[np.concatenate([burst, silence])] * count])


@pytest.mark.parametrize("pitch", [90.0, 133.0, 220.0, 410.0, 560.0])
def test_pitch_is_what_the_voice_was_made_with(praat, pitch):
    found = measure(praat, voice(pitch))
    assert found["pitch_mean"] == pytest.approx(pitch, rel=2e-3)
    assert found["pitch_variation"] < 0.05


@pytest.mark.parametrize("depth", [0.5, 1.0, 2.0])
def test_vibrato_is_measured_in_semitones(praat, depth):
    swing = np.sin(2 * np.pi * 3 * np.arange(2 * RATE) / RATE)
    found = measure(praat, voice(200 * 2 ** (depth * swing / 12), 2.0))
    assert found["pitch_variation"] == pytest.approx(depth / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("decibels", [-20.0, -6.0, 6.0])
def test_intensity_rises_by_the_decibels_of_the_gain_and_nothing_else_does(praat, decibels):
    quiet = measure(praat, voice(150))
    loud = measure(praat, voice(150) * 10 ** (decibels / 20))
    assert loud["intensity_mean"] - quiet["intensity_mean"] == pytest.approx(decibels, abs=0.01)
    for name in set(NAMES) - {"intensity_mean"}:
        assert loud[name] == pytest.approx(quiet[name], rel=1e-3, abs=1e-4), name


def test_intensity_is_above_20_micropascals_at_full_scale_one_pascal(praat):
    tone = np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE)  # 1 / sqrt(2) RMS
    assert measure(praat, tone)["intensity_mean"] == pytest.approx(20 * np.log10(0.5**0.5 / 2e-5), abs=0.05)


def test_the_mean_intensity_is_that_of_the_energy(praat):
    whole = voice(150, 2.0)
    half = np.where(np.arange(len(whole)) < RATE, whole, 0)
    fall = measure(praat, whole)["intensity_mean"] - measure(praat, half)["intensity_mean"]
    assert fall == pytest.approx(10 * np.log10(2), abs=0.1)


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_jitter_is_that_of_the_pulses_and_shimmer_stays(praat, spread):
    periods = (1 + spread * np.random.default_rng(0).uniform(-1, 1, 150)) / 120
    found = measure(praat, pulses(0.02 + np.cumsum(periods), np.ones(150)))
    assert found["jitter_local"] == pytest.approx(np.abs(np.diff(periods)).mean() / periods.mean(), rel=0.02)
    assert found["shimmer_local"] < 0.02


@pytest.mark.parametrize("spread", [0.05, 0.15])
def test_shimmer_is_that_of_the_pulses_and_jitter_stays(praat, spread):
    heights = 1 + spread * np.random.default_rng(0).uniform(-1, 1, 150)
    found = measure(praat, pulses(0.02 + np.arange(150) / 120, heights))
    assert found["shimmer_local"] == pytest.approx(np.abs(np.diff(heights)).mean() / heights.mean(), rel=0.05)
    assert found["jitter_local"] < 0.002


@pytest.mark.parametrize("count", [1, 4, 9])
def test_syllables_are_counted_per_second_of_speaking(praat, count):
    wave = syllables(count, voice(180))
    spoken = count * 0.15 + (count - 1) * 0.1  # the silence at both ends is none of it
    assert measure(praat, wave)["articulation_rate"] == pytest.approx(count / spoken, rel=0.08)


def test_a_pause_takes_no_speaking_time(praat):
    part = syllables(4, voice(180))
    apart = np.concatenate([part, np.zeros(RATE), part])
    once, twice = (measure(praat, wave)["articulation_rate"] for wave in (part, apart))
    assert twice == pytest.approx(once, rel=0.02)


def test_noise_has_no_syllables_and_a_held_vowel_has_one(praat):
    noise = np.random.default_rng(0).standard_normal(RATE)
    assert measure(praat, syllables(4, noise))["articulation_rate"] == 0
    assert measure(praat, voice(180, 2.0))["articulation_rate"] == pytest.approx(0.5)


def test_duration_is_the_clips_own_however_short(praat):
    for count in (1, 200, 2047, 2048, 2049, 40_000):
        assert measure(praat, np.full(count, 0.1))["duration"] == pytest.approx(count / RATE)


def _degenerate() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {
        "empty": np.zeros(0),
        "silence": np.zeros(RATE),
        "offset": np.ones(RATE),
        "click": np.eye(1, RATE, RATE // 2)[0],
        "below hearing": draw.standard_normal(RATE) * 1e-7,
        "clipped": np.sign(voice(150)),
        "noise": draw.standard_normal(RATE),
        **{f"{n} samples of noise": draw.standard_normal(n) for n in (1, 2, 200, 641, 2047, 2048, 2049)},
        **{f"{n} samples of voice": voice(200)[:n] for n in (1, 200, 641, 2047, 2049)},
    }


@pytest.mark.parametrize("name", _degenerate())
def test_every_clip_has_finite_numbers(praat, name):
    vector = praat.encode([_degenerate()[name].astype(np.float32)])
    assert torch.isfinite(vector).all()
    assert (vector >= 0).all()


def test_what_is_undefined_is_zero(praat):
    found = measure(praat, np.random.default_rng(0).standard_normal(RATE))
    assert [found[name] for name in ("pitch_mean", "pitch_variation", "jitter_local", "shimmer_local")] == [0] * 4
    assert measure(praat, np.zeros(RATE)) == dict.fromkeys(NAMES, 0.0) | {"duration": 1.0}


def _clips(count: int) -> list[np.ndarray]:
    found = sorted(RAVDESS.glob("*.flac"))
    if not found:
        pytest.skip("the shared corpora are not here")
    decoding = Decoding(RATE, 10.0, "start")
    return [decoding.load(path).wave for path in found[5 :: len(found) // count][:count]]


def test_ravdess_clips_measure_as_a_praat_script_measures_them(praat):
    import parselmouth

    for wave in _clips(8):
        ours = measure(praat, wave)
        sound = parselmouth.Sound(wave.astype(np.float64), RATE)
        theirs = parselmouth.praat.run(sound, SCRIPT, return_variables=True)[1]
        for name in ("pitch_mean", "pitch_variation", "intensity_mean", "jitter_local", "shimmer_local"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), name
            assert ours[name] > 0


def test_ravdess_actors_speak_as_fast_as_people_do(praat):
    rates = praat.encode(_clips(24))[:, NAMES.index("articulation_rate")]
    assert 3.5 < rates.median() < 6.5  # both sentences have seven or eight syllables in about 1.5 s
    assert 1.5 < rates.min() < rates.max() < 9


def test_threads_and_batches_give_the_same_bits(praat):
    draw = np.random.default_rng(2)
    waves = [
        (voice(pitch, seconds) + 0.01 * draw.standard_normal(int(seconds * RATE))).astype(np.float32)
        for pitch, seconds in zip(draw.uniform(90, 400, 24), draw.uniform(0.3, 1.5, 24), strict=True)
    ]
    serial = praat.encode(waves)
    with ThreadPoolExecutor(6) as pool:
        threaded = torch.cat(list(pool.map(lambda wave: praat.encode([wave]), waves)))
    assert serial.dtype == torch.float32
    assert serial.shape == (24, praat.dim) == (24, len(NAMES))
    assert torch.equal(serial, threaded)


def test_the_fingerprint_declares_praat_and_its_settings(praat):
    import parselmouth

    declared = praat.fingerprint()
    assert declared["parselmouth"] == parselmouth.__version__
    assert declared["praat"] == parselmouth.PRAAT_VERSION
    assert declared["pitch_hz"] == [75.0, 600.0]
    assert declared["features"] == list(NAMES)
    assert isinstance(declared["format"], int)


def test_without_parselmouth_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "parselmouth", None)
    with pytest.raises(UsageError, match=r"pip install 'emotionrankclap\[acoustic\]'"):
        load_praat()


def test_parselmouth_is_loaded_only_when_asked_for():
    program = "import pipeline.extraction.audio.praat, sys; print('parselmouth' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "False"
