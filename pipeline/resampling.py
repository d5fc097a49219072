"""Resampling a clip to the encoder's rate: torchaudio's windowed sinc, whatever the ratio of the rates.

torchaudio lays out one filter for each phase of the reduced ratio, which for rates without a common divisor (16,001 Hz
to 16 kHz, as a damaged header may say) takes gigabytes. There the same filter is made for each sample alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torchaudio.functional
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
_ZEROS = 6  # crossings of the sinc on either side: torchaudio's default
_ROLLOFF = 0.99  # of the lower rate's Nyquist frequency, likewise
_KERNEL_VALUES = 1 << 24  # of torchaudio's filters, at most: 44.1 kHz takes 70 thousand, 22,255 Hz 14 million
_BLOCK_VALUES = 1 << 18  # of the filters held at once here


def resampled_length(frames: int, rate: int, new_rate: int) -> int:
    """Samples that `frames` at `rate` are at `new_rate`."""
    return -(-frames * new_rate // rate)


def resample(wave: Waveform, rate: int, new_rate: int) -> Waveform:
    """(frames,) at `rate` -> (resampled_length,) at `new_rate`."""
    if rate == new_rate:
        return wave
    common = math.gcd(rate, new_rate)
    orig, new = rate // common, new_rate // common
    if orig * new > _KERNEL_VALUES:
        return one_by_one(wave, orig, new)
    result: Waveform = torchaudio.functional.resample(torch.tensor(wave), orig, new).numpy()
    return result


def one_by_one(wave: Waveform, orig: int, new: int) -> Waveform:
    """torchaudio's resampling by the formula: each sample is a sum over the frames around its own time."""
    band = min(orig, new) * _ROLLOFF / orig
    width = math.ceil(_ZEROS / band)
    taps = np.arange(-width, width + 2)
    padded = np.pad(wave, (width, width + 2)).astype(np.float64)
    result = np.empty(resampled_length(len(wave), orig, new), np.float32)
    step = max(1, _BLOCK_VALUES // len(taps))
    for start in range(0, len(result), step):
        frame, phase = np.divmod(np.arange(start, min(start + step, len(result)), dtype=np.int64) * orig, new)
        t = np.clip((taps - phase[:, None] / new) * band, -_ZEROS, _ZEROS)
        kernels = np.sinc(t) * np.cos(t * (math.pi / _ZEROS / 2)) ** 2 * band
        around = padded[frame[:, None] + taps + width]
        with np.errstate(over="ignore", invalid="ignore"):  # told of by what comes out
            result[start : start + step] = (kernels * around).sum(axis=1)
    return result
