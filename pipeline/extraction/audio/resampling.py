"""From a recording's rate to the encoder's: by torchaudio, or by the same filters here where it cannot be loaded.

A sample is the sum of the frames around its time, each weighted by a windowed sinc (Smith, Digital Audio Resampling,
ccrma.stanford.edu/~jos/resample). torchaudio lays out one filter for each phase of the reduced ratio; `by_phase` does
the same in the same order, so that its bits are torchaudio's. Rates without a common divisor (16,001 Hz to 16 kHz, as a
corrupt header may say) have very many phases, gigabytes: `resample_by_sample` computes each sample's filter alone.
"""

# `by_phase` follows torchaudio/functional/functional.py (github.com/pytorch/audio), which is under this licence:
#
# BSD 2-Clause License. Copyright (c) 2017 Facebook Inc. (Soumith Chintala), All rights reserved.
#
# Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
# following conditions are met:
# * Redistributions of source code must retain the above copyright notice, this list of conditions and the following
#   disclaimer.
# * Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
#   disclaimer in the documentation and/or other materials provided with the distribution.
# THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
# INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
# DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
# SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
# WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
# OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pipeline.extraction.encoders.base import Waveform

log = logging.getLogger(__name__)

ZERO_CROSSINGS = 6  # of the sinc on either side: torchaudio's default
ROLLOFF = 0.99  # of the lower rate's Nyquist frequency, likewise
MAX_KERNEL_VALUES = 1 << 24  # of torchaudio's filters: 44.1 kHz takes 70 thousand, 22,255 Hz 14 million
BLOCK_VALUES = 1 << 18  # of the filters held at once by `resample_by_sample`
_CHOOSING = threading.Lock()  # clips are decoded by many threads, and one of them loads torchaudio


def resampled_length(frames: int, rate: int, new_rate: int) -> int:
    """Samples that `frames` at `rate` are at `new_rate`."""
    return -(-frames * new_rate // rate)


def resample(wave: Waveform, rate: int, new_rate: int) -> Waveform:
    """(frames,) at `rate` -> (resampled_length,) at another `new_rate`."""
    common = math.gcd(rate, new_rate)
    old, new = rate // common, new_rate // common
    if old * new > MAX_KERNEL_VALUES:
        return resample_by_sample(wave, old, new)
    result: Waveform = choose_resampling()(torch.tensor(wave), old, new).numpy()
    return result


def choose_resampling() -> Callable[[Tensor, int, int], Tensor]:
    """torchaudio's function; where its binary does not fit this torch, `by_phase`, and a note that says so once.

    A torchaudio that does not load counts as absent from then on, for transformers too: it imports whatever of it is
    installed before any model, and would take every encoder with it.
    """
    with _CHOOSING:
        return _load_torchaudio()


@cache
def _load_torchaudio() -> Callable[[Tensor, int, int], Tensor]:
    try:
        from torchaudio.functional import resample as function
    except (ImportError, OSError, RuntimeError) as error:  # absent; beside a CPU-only torch; beside another CUDA
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
        reason = " ".join(str(error.__cause__ or error).split())[:160]  # torch says which library, its cause why
        log.info(f"torchaudio cannot be loaded ({reason}): resampling by its filters in torch, the same bits")
        return by_phase
    by_torchaudio: Callable[[Tensor, int, int], Tensor] = function
    return by_torchaudio


def by_phase(wave: Tensor, old: int, new: int) -> Tensor:
    """(frames,) -> (frames * new / old,), for `old` and `new` without a common divisor: torchaudio's bits.

    Sample j lies at frame j * old / new: every new-th has the same filter, `old` frames on. So all samples are one
    convolution with `new` filters and a stride of `old`.
    """
    band = min(old, new) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * old / band)  # frames on either side
    frame = torch.arange(-width, width + old, dtype=wave.dtype)[None, None] / old
    phase = torch.arange(0, -new, -1, dtype=wave.dtype)[:, None, None] / new
    t = ((phase + frame) * band).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)  # (new, 1, 2 * width + old) zero crossings
    window = torch.cos(t * math.pi / ZERO_CROSSINGS / 2) ** 2
    t = t * math.pi
    filters = torch.where(t == 0, 1.0, t.sin() / t) * (window * (band / old))
    padded = torch.nn.functional.pad(wave, (width, width + old))
    samples = torch.nn.functional.conv1d(padded[None, None], filters, stride=old)[0].T.reshape(-1)
    return samples[: math.ceil(torch.tensor(new * len(wave) / old))]  # torchaudio's length, in float32


def resample_by_sample(wave: Waveform, old: int, new: int) -> Waveform:
    """The same by the formula: each sample is a sum over the frames around its own time."""
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
