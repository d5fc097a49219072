"""The WavLM behind a published SER checkpoint, read off its weights' shapes: its config.json only names `ssl_type`."""

from __future__ import annotations

import difflib
from typing import Any

from pipeline.encoders.skeleton import skeleton
from pipeline.encoders.weights import State
from pipeline.errors import UsageError

# the feature extractor's norm; with `layer` the transformer normalises before its sublayers, with `group` after
_NORMS = {"microsoft/wavlm-large": "layer", "microsoft/wavlm-base": "group", "microsoft/wavlm-base-plus": "group"}
_STRIDES = (5, 2, 2, 2, 2, 2, 2)  # no weight shows a stride; all published WavLMs have these


def wavlm_of(ssl_type: str, state: State, subject: object) -> Any:
    """An empty WavLMModel that fits `state` (names without `ssl_model.`).

    Raises UsageError for an unknown `ssl_type`, or a weight without which the shape cannot be told.
    """
    from transformers import WavLMConfig, WavLMModel

    if ssl_type not in _NORMS:
        close = difflib.get_close_matches(ssl_type, _NORMS, n=1, cutoff=0.3)
        hint = f"Did you mean {close[0]}?" if close else "Use a WavLM."
        raise UsageError(subject, f"ssl_type {ssl_type!r:.40}", f"one of {', '.join(_NORMS)}", hint)
    fields = _convolutions(state, subject) | _transformer(state, subject)
    if fields["feat_extract_norm"] != _NORMS[ssl_type]:
        found = f"weights of a {fields['feat_extract_norm']}-normalised extractor"
        raise UsageError(subject, found, f"{_NORMS[ssl_type]} norm, as in {ssl_type}", "Correct ssl_type.")
    stable = _NORMS[ssl_type] == "layer"
    return skeleton(lambda: WavLMModel(WavLMConfig(**fields, do_stable_layer_norm=stable)), subject)


def _convolutions(state: State, subject: object) -> dict[str, Any]:
    layers = _count(state, "feature_extractor.conv_layers.")
    if not 2 <= layers <= len(_STRIDES):
        raise UsageError(subject, f"{layers} convolutional layers", "the seven of WavLM", "Choose another model.")
    shapes = [_shape(state, f"feature_extractor.conv_layers.{i}.conv.weight", 3, subject) for i in range(layers)]
    normed = {i for i in range(layers) if f"feature_extractor.conv_layers.{i}.layer_norm.weight" in state}
    return {
        "conv_dim": tuple(shape[0] for shape in shapes),
        "conv_kernel": tuple(shape[2] for shape in shapes),
        "conv_stride": _STRIDES[:layers],
        "num_feat_extract_layers": layers,
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in state,
        "feat_extract_norm": "layer" if normed & set(range(1, layers)) else "group",
    }


def _transformer(state: State, subject: object) -> dict[str, Any]:
    hidden = _shape(state, "feature_projection.projection.weight", 2, subject)[0]
    buckets, heads = _shape(state, "encoder.layers.0.attention.rel_attn_embed.weight", 2, subject)
    positions = _shape(state, "encoder.pos_conv_embed.conv.parametrizations.weight.original1", 3, subject)
    if hidden % heads or hidden % positions[1]:
        found = f"hidden width {hidden}, {heads} heads, {positions[1]} channels in a positional group"
        raise UsageError(subject, found, "a width that both divide", "Use the published weights.")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": _count(state, "encoder.layers."),
        "num_attention_heads": heads,
        "num_buckets": buckets,
        "intermediate_size": _shape(state, "encoder.layers.0.feed_forward.intermediate_dense.weight", 2, subject)[0],
        "num_conv_pos_embeddings": positions[2],
        "num_conv_pos_embedding_groups": hidden // positions[1],
    }


def _count(state: State, prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)})


def _shape(state: State, name: str, rank: int, subject: object) -> tuple[int, ...]:
    if name in state and state[name].dim() == rank and 0 not in state[name].shape:
        return tuple(state[name].shape)
    if name in state:
        found, hint = f"weight `{name}` has shape {tuple(state[name].shape)}", "Use the published weights."
        raise UsageError(subject, found, f"{rank} dimensions", hint)
    close = difflib.get_close_matches(name, state, n=1)
    hint = f"Was it renamed to `{close[0]}`?" if close else "Use the published weights of a WavLM."
    raise UsageError(subject, f"weight `{name}` is missing", "every weight of a WavLM", hint)
