"""Whisper's log-mel spectrogram of a whole batch at native length, one STFT for all clips (F35)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, pad, scaled_dot_product_attention

from cache.layers import Axes
from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import base, model_files
from pipeline.extraction.encoders.base import AudioEncoder, Padding, Pool, Waveform, frame_mask
from pipeline.extraction.encoders.speech import require_float32


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
        mirrored = [pad(row[None], (edge, edge), mode="reflect")[0] for row in rows]
        samples = base.padded_batch(mirrored, max(len(row) for row in mirrored)).to(self.window.device)
        counts = torch.tensor([len(row) // self.hop for row in rows], device=samples.device)  # (B,)
        size, window = self.window_size, self.window
        spectrum = torch.stft(samples, size, self.hop, window=window, center=False, return_complex=True)
        spectrum = spectrum[..., : int(counts.max())]
        power = spectrum.real.square() + spectrum.imag.square()  # (B, frequencies, M)
        mel = (self.filters @ power).clamp_min(1e-10).log10()
        own = torch.arange(mel.shape[-1], device=samples.device) < counts[:, None, None]  # (B, 1, M)
        loudest = mel.masked_fill(~own, -torch.inf).amax((1, 2), keepdim=True)
        return ((torch.maximum(mel, loudest - 8.0) + 4.0) / 4.0).masked_fill(~own, 0.0), counts


@dataclass(frozen=True)
class WhisperSpeech(AudioEncoder):
    """An AudioEncoder around a WhisperEncoder of transformers."""

    model: Any  # WhisperEncoder
    mel: LogMel
    pool: Pool
    padding: Padding
    dim: int
    sample_rate: int
    declared: dict[str, Any]
    axes: Axes | None = None

    def prepare(self, inputs: Sequence[Waveform]) -> list[Tensor]:
        """(B,) waveforms; a clip under 400 samples is zero-padded to 400."""
        return base.clip_tensors(inputs, self.mel.window_size)

    def compute(self, prepared: list[Tensor]) -> Tensor:
        if not prepared:
            return torch.empty(0, self.dim)
        with base.exact_inference():
            length = self.padding.length(max(len(clip) for clip in prepared))
            fixed = self.padding.kind == "fixed"
            mel, counts = self.mel(list(base.padded_batch(prepared, length)) if fixed else prepared)
            mel = pad(mel, (0, length // self.mel.hop - mel.shape[-1]))
            mask = frame_mask((counts + 1) // 2, (mel.shape[-1] + 1) // 2)
            states = hidden_states(self.model, mel, counts)
            return base.pool_states(states, mask, self.pool, self.axes).cpu()


def hidden_states(model: Any, mel: Tensor, counts: Tensor) -> Iterator[Tensor]:
    """The hidden states of a WhisperEncoder, 0 first: mel (B, bins, M), (B,) own mel frames -> (B, ceil(M / 2), D).

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
    last = model.config.encoder_layers
    yield x if last else model.layer_norm(x)
    for number, block in enumerate(model.layers, 1):
        attention, normed = block.self_attn, block.self_attn_layer_norm(x)
        query, key, value = (
            projection(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # (B, H, T, D / H)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=keys)
        x = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(x))))
        yield model.layer_norm(x) if number == last else x


def load_whisper(folder: Path, shape: Any, config: AudioConfig, device: str) -> WhisperSpeech:
    """A Whisper checkpoint of transformers; only its encoder is used. Raises UsageError for weights that do not fit."""
    files = model_files.weight_files(folder)
    features = model_files.feature_settings(folder)
    state, part = model_files.read_state(files), model_files.without_prefix
    weights = part(state, "model.encoder.") or part(state, "encoder.")  # with a decoder, or alone
    if not weights:
        expected = "names under model.encoder."
        raise UsageError(folder, "no weights of an encoder", expected, "Download the model again.")
    digest = model_files.sha256(files)
    return assemble(weights, shape, config, device, features=features, weights_sha256=digest, subject=folder)


def assemble(
    state: model_files.State,
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
    model = model_files.without_weights(lambda: WhisperEncoder(shape), subject)
    model_files.load_strictly(model, state, subject)
    layer, axes = base.chosen_states(config, count=shape.encoder_layers, dim=shape.d_model, subject=subject)
    model.layers = model.layers[: max(axes.layers) if axes else layer]
    rate = int(extractor.sampling_rate)
    fields = ("model_type", "d_model", "encoder_layers", "encoder_attention_heads", "activation_function")
    declared = {
        "encoder": config.encoder,
        "weights_sha256": weights_sha256,
        "architecture": {name: getattr(shape, name) for name in fields},
        **base.layers_declared(axes, {"layer": layer, "pooling": config.pooling}),
        "padding": config.padding,
        "mel": [extractor.feature_size, extractor.n_fft, extractor.hop_length],
        "sample_rate": rate,
    }
    pool = base.plain_pooling(config.pooling, subject)
    padding = Padding(config.padding, round(config.max_seconds * rate))
    dim = sum(axes.sizes) if axes else shape.d_model * (2 if config.pooling == "mean_std" else 1)
    mel = LogMel(extractor, device)
    return WhisperSpeech(model.to(device), mel, pool, padding, dim, rate, declared, axes)


def _extractor(features: dict[str, Any], bins: int, subject: object) -> Any:
    """The mel filters of a preprocessor_config.json. Raises UsageError for settings that give none."""
    import transformers

    sizes = {name: features[name] for name in ("feature_size", "hop_length", "n_fft") if name in features}
    rate = model_files.sampling_rate(features, subject)
    make: Any = transformers.WhisperFeatureExtractor
    try:
        if wrong := [name for name, size in sizes.items() if type(size) is not int or not 1 <= size <= rate]:
            raise ValueError(f"{wrong[0]} {sizes[wrong[0]]!r:.40}")
        with model_files.quietly(), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a filter of zeros is only warned of
            extractor = make(sampling_rate=rate, **sizes)
        if extractor.feature_size != bins:
            raise ValueError(f"{extractor.feature_size} bins, the model has {bins}")
    except (ValueError, UserWarning) as error:
        found = f"no mel spectrogram ({model_files.first_line(error)})"
        raise UsageError(subject, found, "a sound preprocessor_config.json", "Download the model again.") from None
    return extractor
