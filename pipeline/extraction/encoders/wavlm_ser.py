"""The WavLM behind a published SER checkpoint, read off its weights' shapes: its config.json only names `ssl_type`."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import model_files, speech
from pipeline.extraction.encoders.base import (
    AttentivePooling,
    Padding,
    Pool,
    layer_axes,
    layer_number,
    layers_declared,
    mean,
    mean_std,
)

# the feature extractor's norm; with `layer` the transformer normalises before its sublayers, with `group` after
_NORMS = {"microsoft/wavlm-large": "layer", "microsoft/wavlm-base": "group", "microsoft/wavlm-base-plus": "group"}
_HEADS = ("ser_model.fc.0.0.weight", "ser_model.out.0.weight")
_STRIDES = (5, 2, 2, 2, 2, 2, 2)  # no weight shows a stride; all published WavLMs have these


def wavlm_of(ssl_type: str, state: model_files.State, subject: object) -> Any:
    """An empty WavLMModel that fits `state` (names without `ssl_model.`).

    Raises UsageError for an unknown `ssl_type`, or a weight without which the shape cannot be told.
    """
    from transformers import WavLMConfig, WavLMModel

    if ssl_type not in _NORMS:
        close = difflib.get_close_matches(ssl_type, _NORMS, n=1, cutoff=0.3)
        hint = f"Did you mean {close[0]}?" if close else "Use a WavLM."
        raise UsageError(subject, f"ssl_type {ssl_type!r:.40}", f"one of {', '.join(_NORMS)}", hint)
    fields = _shape_fields(state, subject)
    if fields["feat_extract_norm"] != _NORMS[ssl_type]:
        found = f"weights of a {fields['feat_extract_norm']}-normalised extractor"
        raise UsageError(subject, found, f"{_NORMS[ssl_type]} norm, as in {ssl_type}", "Correct ssl_type.")
    stable = _NORMS[ssl_type] == "layer"
    return model_files.without_weights(lambda: WavLMModel(WavLMConfig(**fields, do_stable_layer_norm=stable)), subject)


def _shape_fields(state: model_files.State, subject: object) -> dict[str, Any]:
    """The fields of a WavLMConfig that the shapes show."""

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)})

    extractor = "feature_extractor.conv_layers."
    layers = count(extractor)
    if not 2 <= layers <= len(_STRIDES):
        raise UsageError(subject, f"{layers} convolutional layers", "the seven of WavLM", "Choose another model.")
    convolutions = [_shape(state, f"{extractor}{i}.conv.weight", 3, subject) for i in range(layers)]
    layer_normed = any(f"{extractor}{i}.layer_norm.weight" in state for i in range(1, layers))
    hidden = _shape(state, "feature_projection.projection.weight", 2, subject)[0]
    buckets, heads = _shape(state, "encoder.layers.0.attention.rel_attn_embed.weight", 2, subject)
    positions = _shape(state, "encoder.pos_conv_embed.conv.parametrizations.weight.original1", 3, subject)
    if hidden % heads or hidden % positions[1]:
        found = f"hidden width {hidden}, {heads} heads, {positions[1]} channels in a positional group"
        raise UsageError(subject, found, "a width that both divide", "Use the published weights.")
    return {
        "conv_dim": tuple(shape[0] for shape in convolutions),
        "conv_kernel": tuple(shape[2] for shape in convolutions),
        "conv_stride": _STRIDES[:layers],
        "num_feat_extract_layers": layers,
        "conv_bias": f"{extractor}0.conv.bias" in state,
        "feat_extract_norm": "layer" if layer_normed else "group",
        "hidden_size": hidden,
        "num_hidden_layers": count("encoder.layers."),
        "num_attention_heads": heads,
        "num_buckets": buckets,
        "intermediate_size": _shape(state, "encoder.layers.0.feed_forward.intermediate_dense.weight", 2, subject)[0],
        "num_conv_pos_embeddings": positions[2],
        "num_conv_pos_embedding_groups": hidden // positions[1],
    }


def _shape(state: model_files.State, name: str, rank: int, subject: object) -> tuple[int, ...]:
    if name in state and state[name].dim() == rank and 0 not in state[name].shape:
        return tuple(state[name].shape)
    if name in state:
        found, hint = f"weight `{name}` has shape {tuple(state[name].shape)}", "Use the published weights."
        raise UsageError(subject, found, f"{rank} dimensions", hint)
    close = difflib.get_close_matches(name, state, n=1)
    hint = f"Was it renamed to `{close[0]}`?" if close else "Use the published weights of a WavLM."
    raise UsageError(subject, f"weight `{name}` is missing", "every weight of a WavLM", hint)


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
        tree = model_files.read_json(path)
        for name, kind in (("mean", float), ("std", float), ("ssl_type", str), ("sampling_rate", int)):
            if not isinstance(tree.get(name), kind) or not math.isfinite(tree[name] if kind is float else 0):
                found = f"`{name}` is {tree[name]!r:.40}" if name in tree else f"no `{name}`"
                raise UsageError(path, found, f"a {kind.__name__}", "Use the published config.json.")
        return cls(tree["mean"], tree["std"], tree["ssl_type"], model_files.sampling_rate(tree, path))

    def normalise(self, wave: Tensor) -> Tensor:
        """(samples,) -> (samples,), by the training corpus's mean and deviation (F18)."""
        return (wave - self.mean) / (self.std + 1e-6)


class Published(nn.Module):
    """All weights of the checkpoint under their published names (F20). The outputs are loaded, and not used."""

    def __init__(self, ssl_model: Any, hidden: int, outputs: int) -> None:
        super().__init__()
        dim = ssl_model.config.hidden_size
        self.ssl_model = ssl_model
        self.pool_model = AttentivePooling(dim)
        head = nn.Sequential(nn.Linear(2 * dim, hidden), nn.LayerNorm(hidden), nn.ReLU())
        self.ser_model = nn.ModuleDict({"fc": nn.Sequential(head), "out": nn.Sequential(nn.Linear(hidden, outputs))})


def load_wavlm_ser(folder: Path, config: AudioConfig, device: str) -> speech.SpeechEncoder:
    """The published checkpoint as an AudioEncoder; its pooling decides the vector's size (1024, 1024 or 2048; F19).

    Raises UsageError for a folder of another layout, or a weight missing, renamed, left over or of another shape.
    """
    settings = Settings.read(folder / "config.json")
    files = model_files.weight_files(folder)
    state = model_files.renamed(model_files.read_state(files), speech.POSITIONS, folder)
    ssl_model = wavlm_of(settings.ssl_type, model_files.base_weights(state, "ssl_model"), folder)
    # absent or a scalar: 1, and the strict load names it
    sizes = [len(state[name]) if name in state and state[name].dim() else 1 for name in _HEADS]
    model: Published = model_files.without_weights(lambda: Published(ssl_model, *sizes), folder)
    model_files.load_strictly(model, state, folder, optional="ssl_model.masked_spec_embed")
    speech.fold_weight_norm(ssl_model)
    layers = len(ssl_model.encoder.layers)
    if layer_number(config.layer, layers, folder) != layers:
        expected = "the last, which its pooling was trained on"
        raise UsageError(folder, f"layer {config.layer}", expected, "Leave audio.layer out.")
    model.to(device)
    dim, pool = _pooling(model, config.pooling)
    axes = None
    if config.layers is not None:
        channels = ssl_model.config.hidden_size
        axes = layer_axes(config.layers, config.poolings, count=layers, dim=channels, own=dim, subject=folder)
        dim = sum(axes.sizes)
    shape, rate = ssl_model.config, settings.sampling_rate
    forward = speech.forward_of(ssl_model, config.precision, torch.device(device), folder)
    del model.ssl_model  # the pooling keeps `model`; the forward has the weights as it wants them
    declared = {
        "encoder": config.encoder,
        "weights_sha256": model_files.sha256(files),
        "architecture": model_files.architecture(shape),
        "pooling": config.pooling,
        "padding": config.padding,
        "mean": settings.mean,
        "std": settings.std,
        "sample_rate": rate,
        **layers_declared(axes, {}),
        **speech.in_precision(config.precision),
    }
    padding, place = Padding(config.padding, round(config.max_seconds * rate)), torch.device(device)
    return speech.SpeechEncoder(forward, shape, place, settings.normalise, pool, padding, dim, rate, declared, axes)


def _pooling(model: Published, kind: str) -> tuple[int, Pool]:
    """Size of the vector and pooling of F19: `mean` is mu, `mean_std` mu || sigma, `hidden` the layer after pooling."""
    dim = model.ssl_model.config.hidden_size
    head: Any = model.ser_model["fc"]
    if kind == "mean":
        return dim, lambda frames, mask: mean(frames, model.pool_model(frames, mask))
    if kind == "mean_std":
        return 2 * dim, lambda frames, mask: mean_std(frames, model.pool_model(frames, mask))
    return head[0][0].out_features, lambda frames, mask: head(mean_std(frames, model.pool_model(frames, mask)))
