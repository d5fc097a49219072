"""Any WavLM, HuBERT, wav2vec 2.0 or Whisper of transformers, by folder or hub name; heads are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import whisper
from pipeline.extraction.encoders.base import AudioEncoder, Padding
from pipeline.extraction.encoders.model_files import (
    architecture,
    bare_model,
    feature_settings,
    find_folder,
    read_config,
    sampling_rate,
)
from pipeline.extraction.encoders.pooling import plain_pooling
from pipeline.extraction.encoders.speech import (
    SpeechEncoder,
    forward_of,
    in_precision,
    load_speech,
    receptive_field,
    stop_after,
)
from pipeline.extraction.encoders.weights import base_weights, read_state, sha256, weight_files

_FAMILIES = ("wavlm", "hubert", "wav2vec2")


def load(config: AudioConfig, device: str) -> AudioEncoder:
    """The model as an AudioEncoder: hidden state `layer` (None: the last), pooled over a clip's own frames.

    Raises UsageError for another kind of model, or weights that do not fit it exactly.
    """
    folder = find_folder(config.model, config.revision)
    shape = read_config(folder)
    if shape.model_type == "whisper":
        return whisper.load(config, device, folder, shape)
    if shape.model_type not in _FAMILIES or getattr(shape, "add_adapter", False):
        adapter = " with an adapter" if shape.model_type in _FAMILIES else ""
        known = ", ".join((*_FAMILIES, "whisper"))
        raise UsageError(folder, f"model_type {shape.model_type}{adapter}", known, "Choose another model.")
    return _family(config, device, folder, shape)


def _family(config: AudioConfig, device: str, folder: Path, shape: Any) -> SpeechEncoder:
    model = bare_model(shape, folder)
    files = weight_files(folder)
    load_speech(model, base_weights(read_state(files), model.base_model_prefix), folder)
    layer = stop_after(model, config.layer, folder)
    forward = forward_of(model, config.precision, torch.device(device), folder)
    features = feature_settings(folder)
    rate, normalised = sampling_rate(features, folder), bool(features.get("do_normalize", True))
    _frames_are_short(shape, rate, folder)
    declared = {
        "encoder": "transformers",
        "weights_sha256": sha256(files),
        "architecture": architecture(shape),
        "layer": layer,
        "pooling": config.pooling,
        "padding": config.padding,
        "do_normalize": normalised,
        "sample_rate": rate,
        **in_precision(config.precision),
    }
    width = shape.hidden_size * (2 if config.pooling == "mean_std" else 1)
    prepare = standardise if normalised else _as_is
    pool = plain_pooling(config.pooling, folder)
    padding = Padding.of(config, rate)
    return SpeechEncoder(forward, shape, torch.device(device), prepare, pool, padding, width, rate, declared)


def _frames_are_short(shape: Any, rate: int, subject: object) -> None:
    """Raises UsageError for strides that cannot be meant: they show in no weight, so that no strict load sees them."""
    if min(shape.conv_stride) < 1 or receptive_field(shape) > rate:
        found = f"strides {list(shape.conv_stride)!r:.80}"
        raise UsageError(subject, found, "frames of less than a second", "Use the published config.json.")


def standardise(wave: Tensor) -> Tensor:
    """(samples,) -> zero mean and unit variance over the clip's own samples, as the published preprocessing does."""
    return (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)


def _as_is(wave: Tensor) -> Tensor:
    return wave
