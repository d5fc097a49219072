"""Whisper's log-mel spectrogram of a whole batch at native length, one STFT for all clips (F35)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders.base import (
    Padding,
    TwoSteps,
    Waveform,
    at_least,
    exact_inference,
    padded_batch,
    tensors,
)
from pipeline.extraction.encoders.model_files import (
    State,
    feature_settings,
    first_line,
    load_strictly,
    quietly,
    read_state,
    sampling_rate,
    sha256,
    weight_files,
    without_prefix,
    without_weights,
)
from pipeline.extraction.encoders.pooling import Pool, frame_mask, plain_pooling
from pipeline.extraction.encoders.speech import layer_number, require_float32


class LogMel:
    """What `WhisperFeatureExtractor(padding=False)` gives clip by clip (1.7 ms each), computed together.

    Each clip keeps its own reflected edges and its own loudest bin, so that its mel does not depend on the others.
    """

    def __init__(self, extractor: Any, device: str) -> None:
        self.window_size, self.hop = int(extractor.n_fft), int(extractor.hop_length)
        self.window = torch.hann_window(self.window_size, device=device)
        self.filters = torch.tensor(extractor.mel_filters, dtype=torch.float32, device=device).T.contiguous()

    def __call__(self, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B,) waveforms of at least `window_size` samples -> mel (B, bins, M), zero beyond each; (B,) its length."""
        edge = self.window_size // 2
        mirrored = [torch.nn.functional.pad(row[None], (edge, edge), mode="reflect")[0] for row in rows]
        samples = padded_batch(mirrored, max(len(row) for row in mirrored)).to(self.window.device)
        counts = torch.tensor([len(row) // self.hop for row in rows], device=samples.device)  # (B,)
        spectrum = torch.stft(
            samples, self.window_size, self.hop, window=self.window, center=False, return_complex=True
        )[..., : int(counts.max())]
        power = spectrum.real.square() + spectrum.imag.square()  # (B, frequencies, M)
        mel = (self.filters @ power).clamp_min(1e-10).log10()
        own = torch.arange(mel.shape[-1], device=samples.device) < counts[:, None, None]  # (B, 1, M)
        loudest = mel.masked_fill(~own, -torch.inf).amax((1, 2), keepdim=True)
        return ((torch.maximum(mel, loudest - 8.0) + 4.0) / 4.0).masked_fill(~own, 0.0), counts


_SHAPING = ("model_type", "d_model", "encoder_layers", "encoder_attention_heads", "activation_function")


@dataclass(frozen=True)
class WhisperSpeech(TwoSteps):
    """An AudioEncoder around a WhisperEncoder of transformers."""

    model: Any  # WhisperEncoder
    mel: LogMel
    layer: int
    pool: Pool
    padding: Padding
    dim: int
    sample_rate: int
    declared: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """What was declared at load."""
        return dict(self.declared)

    def prepare(self, inputs: Sequence[Waveform]) -> list[Tensor]:
        """(B,) waveforms; a clip under 400 samples is zero-padded to 400."""
        return [at_least(wave, self.mel.window_size) for wave in tensors(inputs)]

    def compute(self, prepared: list[Tensor]) -> Tensor:
        """-> (B, dim) float32 on the CPU."""
        if not prepared:
            return torch.empty(0, self.dim)
        rows = prepared
        with exact_inference():
            length = self.padding.length(max(len(row) for row in rows))
            if self.padding.kind == "fixed":
                rows = list(padded_batch(rows, length))
            mel, counts = self.mel(rows)
            mel = torch.nn.functional.pad(mel, (0, length // self.mel.hop - mel.shape[-1]))
            frames = hidden_state(self.model, mel, counts, self.layer)
            return self.pool(frames, frame_mask((counts + 1) // 2, frames.shape[1])).cpu()


def hidden_state(model: Any, mel: Tensor, counts: Tensor, layer: int) -> Tensor:
    """Hidden state `layer` of a WhisperEncoder: mel (B, bins, M), (B,) own mel frames -> (B, ceil(M / 2), D).

    0 is the input of the first layer; the last is taken after the final LayerNorm. What lies beyond a clip is zero
    before either convolution, as if the clip ended there. Raises UsageError beyond the positions (30 s).
    """
    x = gelu(model.conv1(mel))  # (B, D, M)
    x = gelu(model.conv2(x * frame_mask(counts, mel.shape[-1])[:, None])).transpose(1, 2)  # (B, T, D)
    positions = model.embed_positions.weight
    if x.shape[1] > len(positions):
        raise UsageError("clip", f"{x.shape[1]} frames", f"at most {len(positions)} (30 s)", "Lower max_seconds.")
    x = x + positions[: x.shape[1]]
    mask = frame_mask((counts + 1) // 2, x.shape[1])  # (B, T)
    keys = None if mask.all() else mask[:, None, None]
    for block in model.layers[:layer]:
        x = _block(block, x, keys)
    last: Tensor = model.layer_norm(x) if layer == model.config.encoder_layers else x
    return last


def _block(block: Any, x: Tensor, keys: Tensor | None) -> Tensor:
    attention = block.self_attn
    normed = block.self_attn_layer_norm(x)
    query, key, value = (
        projection(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # (B, H, T, D / H)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=keys)
    x = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    step: Tensor = block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(x))))
    return x + step


def load_whisper(folder: Path, shape: Any, config: AudioConfig, device: str) -> WhisperSpeech:
    """A Whisper checkpoint of transformers; only its encoder is used. Raises UsageError for weights that do not fit."""
    files = weight_files(folder)
    features = feature_settings(folder)
    state = read_state(files)
    weights = without_prefix(state, "model.encoder.") or without_prefix(state, "encoder.")  # with a decoder, or alone
    if not weights:
        found, expected = "no weights of an encoder", "names under model.encoder."
        raise UsageError(folder, found, expected, "Download the model again.")
    return assemble(weights, shape, config, device, features=features, weights_sha256=sha256(files), subject=folder)


def assemble(
    state: State,
    shape: Any,
    config: AudioConfig,
    device: str,
    *,
    features: dict[str, Any],
    weights_sha256: str,
    subject: object,
) -> WhisperSpeech:
    """A WhisperSpeech from encoder weights under transformers' names, a WhisperConfig and preprocessor settings."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    require_float32(config.precision, "whisper", subject)
    extractor = _extractor(features, shape.num_mel_bins, subject)
    model = without_weights(lambda: WhisperEncoder(shape), subject)
    load_strictly(model, state, subject)
    layer = layer_number(config.layer, shape.encoder_layers, subject)
    model.layers = model.layers[:layer]
    rate = int(extractor.sampling_rate)
    declared = {
        "encoder": config.encoder,
        "weights_sha256": weights_sha256,
        "architecture": {name: getattr(shape, name) for name in _SHAPING},
        "layer": layer,
        "pooling": config.pooling,
        "padding": config.padding,
        "mel": [extractor.feature_size, extractor.n_fft, extractor.hop_length],
        "sample_rate": rate,
    }
    return WhisperSpeech(
        model.to(device),
        LogMel(extractor, device),
        layer,
        plain_pooling(config.pooling, subject),
        Padding.of(config, rate),
        shape.d_model * (2 if config.pooling == "mean_std" else 1),
        rate,
        declared,
    )


def _extractor(features: dict[str, Any], bins: int, subject: object) -> Any:
    """The mel filters of a preprocessor_config.json. Raises UsageError for settings that give none."""
    import transformers

    sizes = {name: features[name] for name in ("feature_size", "hop_length", "n_fft") if name in features}
    rate = sampling_rate(features, subject)
    make: Any = transformers.WhisperFeatureExtractor
    try:
        if wrong := [name for name, size in sizes.items() if type(size) is not int or not 1 <= size <= rate]:
            raise ValueError(f"{wrong[0]} {sizes[wrong[0]]!r:.40}")
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a filter of zeros is only warned of
            extractor = make(sampling_rate=rate, **sizes)
        if extractor.feature_size != bins:
            raise ValueError(f"{extractor.feature_size} bins, the model has {bins}")
    except (ValueError, UserWarning) as error:
        found = f"no mel spectrogram ({first_line(error)})"
        raise UsageError(subject, found, "a sound preprocessor_config.json", "Download the model again.") from None
    return extractor
