"""Waveforms of any lengths -> one zero-padded tensor, and the arithmetic it is computed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config import AudioConfig
from pipeline.encoders.base import Waveform
from pipeline.errors import UsageError


@dataclass(frozen=True)
class Padding:
    """How a batch becomes a rectangle.

    `masked`: to the batch's longest clip, padding masked. `fixed_masked`: to `samples`, padding masked.
    `fixed`: to `samples`, and the zeros count as the clip's own (F9).
    """

    kind: str
    samples: int

    @classmethod
    def of(cls, config: AudioConfig, sample_rate: int) -> Padding:
        """The config's padding; max_seconds is rounded to whole samples."""
        return cls(config.padding, round(config.max_seconds * sample_rate))

    def length(self, longest: int) -> int:
        """Samples of the rectangle. Raises UsageError if a clip is longer than a fixed one."""
        if self.kind == "masked":
            return longest
        if longest > self.samples:
            raise UsageError(
                "clip", f"{longest} samples", f"at most {self.samples} with padding {self.kind}", "Crop it first."
            )
        return self.samples


def tensors(waves: Sequence[Waveform]) -> list[Tensor]:
    """Waveforms in torch's own memory: it is aligned, numpy's need not be, and kernels round differently by that."""
    return [torch.tensor(np.ascontiguousarray(wave, dtype=np.float32)) for wave in waves]


def at_least(samples: Tensor, minimum: int) -> Tensor:
    """A clip shorter than `minimum`, the samples behind one frame, zero-padded to it: so every clip has a frame."""
    return torch.nn.functional.pad(samples, (0, max(0, minimum - len(samples))))


def rectangle(rows: Sequence[Tensor], length: int) -> Tensor:
    """Rows of samples -> (B, length), zero beyond each."""
    batch = torch.zeros(len(rows), length)
    for row, samples in zip(batch, rows, strict=True):
        row[: len(samples)] = samples
    return batch


@contextmanager
def exact_inference() -> Iterator[None]:
    """No gradients, deterministic kernels, and float32 as float32 on a GPU too: TF32 convolutions keep 1e-3."""
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), cudnn:
        yield
