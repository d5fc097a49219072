"""What stage one asks of an encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Waveform = NDArray[np.float32]  # (samples,) mono, at the encoder's sample rate, as decoded
T = TypeVar("T", contravariant=True)


class Encoder(Protocol[T]):
    """A frozen encoder. Threads may share it.

    The vector of an input does not depend on the other inputs of its batch beyond 1e-5 (F32), and is bit-equal for an
    equal batch on one machine at one thread count.
    """

    @property
    def width(self) -> int:
        """Numbers in one vector."""

    def fingerprint(self) -> dict[str, Any]:
        """Everything of the encoder that changes a vector (weights' hash, layer, pooling, normalisation)."""

    def prepare(self, inputs: Sequence[T]) -> Any:
        """(B,) inputs -> what `compute` takes. Done by many threads, beside the device's work."""

    def compute(self, prepared: Any) -> torch.Tensor:
        """-> (B, width) float32 on the CPU. Done by one thread at a time on an accelerator."""

    def encode(self, inputs: Sequence[T]) -> torch.Tensor:
        """Both steps: (B,) inputs -> (B, width) float32 on the CPU."""


class AudioEncoder(Encoder[Waveform], Protocol):
    """A frozen speech encoder: waveforms of any lengths, already cropped.

    A clip too short for one frame is zero-padded to one.
    """

    @property
    def sample_rate(self) -> int:
        """Hz."""


TextEncoder: TypeAlias = Encoder[str]


class TwoSteps(ABC):
    """Makes an encoder's two steps one."""

    @abstractmethod
    def prepare(self, inputs: Any) -> Any:
        """See `Encoder`."""

    @abstractmethod
    def compute(self, prepared: Any) -> torch.Tensor:
        """See `Encoder`."""

    def encode(self, inputs: Any) -> torch.Tensor:
        """(B,) inputs -> (B, width) float32 on the CPU."""
        return self.compute(self.prepare(inputs))
