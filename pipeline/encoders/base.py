"""What stage one asks of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Waveform = NDArray[np.float32]  # (samples,) mono, at the encoder's sample rate, as decoded


class AudioEncoder(Protocol):
    """A frozen speech encoder.

    The vector of a clip does not depend on the other clips of its batch beyond 1e-5 (F32), and is bit-equal for an
    equal batch on one machine at one thread count. A clip too short for one frame is zero-padded to one.
    """

    @property
    def width(self) -> int:
        """Numbers in one vector."""

    @property
    def sample_rate(self) -> int:
        """Hz."""

    def fingerprint(self) -> dict[str, Any]:
        """Everything of the encoder that changes a vector (weights' hash, layer, pooling, normalisation)."""

    def encode(self, waves: Sequence[Waveform]) -> torch.Tensor:
        """(B,) waveforms of any lengths (already cropped) -> (B, width) float32 on the CPU."""


class TextEncoder(Protocol):
    """A frozen text encoder, with the same promises."""

    @property
    def width(self) -> int:
        """Numbers in one vector."""

    def fingerprint(self) -> dict[str, Any]:
        """Everything of the encoder that changes a vector."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """(B,) sentences -> (B, width) float32 on the CPU."""
