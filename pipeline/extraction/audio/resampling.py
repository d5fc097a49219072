"""Resampling to the encoder's rate: torchaudio's windowed sinc, whatever the ratio of the rates.

By hand only where torchaudio would take gigabytes: it lays out one filter for each phase of the reduced ratio, and
rates without a common divisor (16,001 Hz to 16 kHz, as a corrupt header may say) have very many. There the same filter
is computed for each sample alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pipeline.extraction.encoders.base import Waveform

ZERO_CROSSINGS = 6  # of the sinc on either side: torchaudio's default
ROLLOFF = 0.99  # of the lower rate's Nyquist frequency, likewise
MAX_KERNEL_VALUES = 1 << 24  # of torchaudio's filters: 44.1 kHz takes 70 thousand, 22,255 Hz 14 million
BLOCK_VALUES = 1 << 18  # of the filters held at once by `resample_by_sample`


def resampled_length(frames: int, rate: int, new_rate: int) -> int:
    """Samples that `frames` at `rate` are at `new_rate`."""
    return -(-frames * new_rate // rate)


def resample(wave: Waveform, rate: int, new_rate: int) -> Waveform:
    """(frames,) at `rate` -> (resampled_length,) at another `new_rate`."""
    common = math.gcd(rate, new_rate)
    old, new = rate // common, new_rate // common
    if old * new > MAX_KERNEL_VALUES:
        return resample_by_sample(wave, old, new)
    from torchaudio.functional import resample as resample_by_phase

    result: Waveform = resample_by_phase(torch.tensor(wave), old, new).numpy()
    return result


def resample_by_sample(wave: Waveform, old: int, new: int) -> Waveform:
    """torchaudio's resampling by the formula: each sample is a sum over the frames around its own time."""
    band = min(old, new) * ROLLOFF / old
    width = math.ceil(ZERO_CROSSINGS / band)
    taps = np.arange(-width, width + 2)
    padded = np.pad(wave, (width, width + 2)).astype(np.float64)
    result = np.empty(resampled_length(len(wave), old, new), np.float32)
    step = max(1, BLOCK_VALUES // len(taps))
    for start in range(0, len(result), step):
        frame, phase = np.divmod(np.arange(start, min(start + step, len(result)), dtype=np.int64) * old, new)
        t = np.clip((taps - phase[:, None] / new) * band, -ZERO_CROSSINGS, ZERO_CROSSINGS)
        kernels = np.sinc(t) * np.cos(t * (math.pi / ZERO_CROSSINGS / 2)) ** 2 * band
        around = padded[frame[:, None] + taps + width]
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked where it is used
            result[start : start + step] = (kernels * around).sum(axis=1)
    return result
