"""The interface of an encoder, and waveforms of any lengths as one zero-padded batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError

Waveform = NDArray[np.float32]  # (samples,) mono, at the encoder's sample rate, as decoded
T = TypeVar("T", contravariant=True)


class Encoder(Protocol[T]):
    """A frozen encoder. Threads may share it.

    The vector of an input does not depend on the other inputs of its batch beyond 1e-5 (F32), and is bit-equal for an
    equal batch on one machine at one thread count.
    """

    @property
    def dim(self) -> int:
        """Numbers in one vector."""

    def fingerprint(self) -> dict[str, Any]:
        """Everything of the encoder that changes a vector (weights' hash, layer, pooling, normalisation)."""

    def prepare(self, inputs: Sequence[T]) -> Any:
        """(B,) inputs -> what `compute` takes. Done by many threads, beside the device's work."""

    def compute(self, prepared: Any) -> torch.Tensor:
        """-> (B, dim) float32 on the CPU. Done by one thread at a time on an accelerator."""

    def encode(self, inputs: Sequence[T]) -> torch.Tensor:
        """Both steps: (B,) inputs -> (B, dim) float32 on the CPU."""


class AudioEncoder(Encoder[Waveform], Protocol):
    """A frozen speech encoder: waveforms of any lengths, already cropped.

    A clip too short for one frame is zero-padded to one.
    """

    @property
    def sample_rate(self) -> int:
        """Hz."""


TextEncoder: TypeAlias = Encoder[str]


class TwoSteps(ABC):
    """An encoder whose `encode` is `compute` of `prepare`."""

    @abstractmethod
    def prepare(self, inputs: Any) -> Any:
        """See `Encoder`."""

    @abstractmethod
    def compute(self, prepared: Any) -> torch.Tensor:
        """See `Encoder`."""

    def encode(self, inputs: Any) -> torch.Tensor:
        """(B,) inputs -> (B, dim) float32 on the CPU."""
        return self.compute(self.prepare(inputs))


@dataclass(frozen=True)
class Padding:
    """How the clips of a batch become one tensor.

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
        """Samples of the padded batch. Raises UsageError if a clip is longer than a fixed length."""
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


def padded_batch(rows: Sequence[Tensor], length: int) -> Tensor:
    """Rows of samples -> (B, length), zero beyond each."""
    batch = torch.zeros(len(rows), length)
    for row, samples in zip(batch, rows, strict=True):
        row[: len(samples)] = samples
    return batch


@contextmanager
def exact_inference() -> Iterator[None]:
    """No gradients, deterministic kernels, and float32 as float32: no TF32 (it keeps 1e-3), no caller's autocast."""
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    no_autocast = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with torch.inference_mode(), cudnn, no_autocast[0], no_autocast[1]:
        yield
