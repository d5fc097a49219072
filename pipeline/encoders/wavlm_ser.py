"""The paper's speech encoder: WavLM-large fine-tuned for attributes on MSP-Podcast, by a plain module (F2, F17-F21).

hf download 3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes
extract-features msp_podcast encoders/paper
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import AudioConfig
from pipeline.encoders.batches import Padding
from pipeline.encoders.folders import find_folder, read_json, sampling_rate
from pipeline.encoders.pooling import AttentivePooling, Pool, mean, statistics
from pipeline.encoders.skeleton import architecture, skeleton
from pipeline.encoders.speech import (
    POSITIONS,
    SpeechEncoder,
    fold_weight_norm,
    forward_of,
    in_precision,
    layer_number,
)
from pipeline.encoders.wavlm_shapes import wavlm_of
from pipeline.encoders.weights import State, base_weights, load_strictly, read_state, renamed, sha256, weight_files
from pipeline.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """The fields of the published config.json that this encoder needs (F17)."""

    mean: float
    std: float
    ssl_type: str
    sampling_rate: int

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Raises UsageError that names a field which is missing or of another type."""
        tree = read_json(path)
        for name, kind in (("mean", float), ("std", float), ("ssl_type", str), ("sampling_rate", int)):
            if not isinstance(tree.get(name), kind) or not math.isfinite(tree[name] if kind is float else 0):
                found = f"`{name}` is {tree[name]!r:.40}" if name in tree else f"no `{name}`"
                raise UsageError(path, found, f"a {kind.__name__}", "Use the published config.json.")
        return cls(tree["mean"], tree["std"], tree["ssl_type"], sampling_rate(tree, path))

    def normalise(self, wave: Tensor) -> Tensor:
        """(samples,) -> (samples,), by the training corpus's mean and deviation (F18)."""
        return (wave - self.mean) / (self.std + 1e-6)


class Published(nn.Module):
    """All weights of the checkpoint under their published names (F20). The outputs are loaded, and not used."""

    def __init__(self, ssl_model: Any, hidden: int, outputs: int) -> None:
        super().__init__()
        width = ssl_model.config.hidden_size
        self.ssl_model = ssl_model
        self.pool_model = AttentivePooling(width)
        head = nn.Sequential(nn.Linear(2 * width, hidden), nn.LayerNorm(hidden), nn.ReLU())
        self.ser_model = nn.ModuleDict({"fc": nn.Sequential(head), "out": nn.Sequential(nn.Linear(hidden, outputs))})


def load(config: AudioConfig, device: str) -> SpeechEncoder:
    """The published checkpoint as an AudioEncoder; its pooling decides the width (1024, 1024 or 2048; F19).

    Raises UsageError for a folder of another layout, or a weight missing, renamed, left over or of another shape.
    """
    folder = find_folder(config.model, config.revision)
    settings = Settings.read(folder / "config.json")
    files = weight_files(folder)
    model = _published(settings, read_state(files), folder)
    _last_layer_only(config, len(model.ssl_model.encoder.layers), folder)
    model.to(device)
    width, pool = _pooling(model, config.pooling)
    shape = model.ssl_model.config
    forward = forward_of(model.ssl_model, config.precision, torch.device(device), folder)
    del model.ssl_model  # the pooling keeps `model`; the forward has the weights as it wants them
    declared = {
        "encoder": "wavlm_ser",
        "weights_sha256": sha256(files),
        "architecture": architecture(shape),
        "pooling": config.pooling,
        "padding": config.padding,
        "mean": settings.mean,
        "std": settings.std,
        "sample_rate": settings.sampling_rate,
        **in_precision(config.precision),
    }
    return SpeechEncoder(
        forward,
        shape,
        torch.device(device),
        settings.normalise,
        pool,
        Padding.of(config, settings.sampling_rate),
        width,
        settings.sampling_rate,
        declared,
    )


def _published(settings: Settings, state: State, subject: object) -> Published:
    state = renamed(state, POSITIONS, subject)
    ssl_model = wavlm_of(settings.ssl_type, base_weights(state, "ssl_model"), subject)
    hidden, outputs = (_rows(state, name) for name in ("ser_model.fc.0.0.weight", "ser_model.out.0.weight"))
    model: Published = skeleton(lambda: Published(ssl_model, hidden, outputs), subject)
    load_strictly(model, state, subject, may_lack=["ssl_model.masked_spec_embed"])
    fold_weight_norm(model.ssl_model)
    return model


def _rows(state: State, name: str) -> int:
    return len(state[name]) if name in state and state[name].dim() else 1  # absent: the strict load names it


def _last_layer_only(config: AudioConfig, count: int, subject: object) -> None:
    if layer_number(config.layer, count, subject) != count:
        found = f"layer {config.layer}"
        raise UsageError(subject, found, "the last, which its pooling was trained on", "Leave audio.layer out.")


def _pooling(model: Published, kind: str) -> tuple[int, Pool]:
    """Width and pooling of F19: `mean` is mu, `mean_std` mu || sigma, `hidden` the layer after pooling."""
    width = model.ssl_model.config.hidden_size
    head: Any = model.ser_model["fc"]
    if kind == "mean":
        return width, lambda frames, mask: mean(frames, model.pool_model(frames, mask))

    def both(frames: Tensor, mask: Tensor) -> Tensor:
        return torch.cat(statistics(frames, model.pool_model(frames, mask)), 1)

    if kind == "mean_std":
        return 2 * width, both
    return head[0][0].out_features, lambda frames, mask: head(both(frames, mask))
