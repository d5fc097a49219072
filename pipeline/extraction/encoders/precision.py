"""How exactly an encoder computes: chosen before it is loaded, and what the choice costs, measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.core.config import AudioConfig
from pipeline.extraction.encoders.base import AudioEncoder, Waveform


def with_precision(config: AudioConfig, device: torch.device) -> AudioConfig:
    """`config` with `auto` decided: bfloat16 for a WavLM on an accelerator, float32 for all else.

    Raises UsageError for a model that cannot be found.
    """
    if config.precision != "auto":
        return config
    low = device.type != "cpu" and _has_own_forward(config)
    return config.model_copy(update={"precision": "bfloat16" if low else "float32"})


def deviation(encoder: AudioEncoder, exact: AudioEncoder, waves: Sequence[Waveform]) -> dict[str, Any]:
    """How far `encoder`'s vectors of `waves` are from those of `exact`, the same in float32."""
    low = torch.cat([encoder.encode([wave]) for wave in waves])
    high = torch.cat([exact.encode([wave]) for wave in waves])
    return {
        "clips": len(waves),
        "least_cosine": float(torch.cosine_similarity(low.double(), high.double()).min()),
        "largest_difference": float((low - high).abs().max()),
        "largest_value": float(high.abs().max()),
    }


def _has_own_forward(config: AudioConfig) -> bool:
    if config.encoder == "wavlm_ser":
        return True
    if config.encoder != "transformers":
        return False
    from pipeline.extraction.encoders.model_files import find_folder, read_config
    from pipeline.extraction.encoders.wavlm import supports

    return supports(read_config(find_folder(config.model, config.revision)))
