"""Any WavLM, HuBERT or wav2vec 2.0 of transformers, its heads left out: waveforms -> frames -> one vector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cache.layers import Axes
from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import base, model_files, wavlm
from pipeline.extraction.encoders.base import AudioEncoder, Padding, Pool, Waveform, frame_mask

# transformers hands WavLM's attention a boolean padding mask beside a float bias, which torch means to refuse one day.
# Set here once: a filter set and restored around each batch would race between the threads that encode.
warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask and attn_mask")
FAMILIES = ("wavlm", "hubert", "wav2vec2")
# torch renamed the two halves of a normalised weight; files carry either (F20)
POSITIONS = (
    ("pos_conv_embed.conv.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    ("pos_conv_embed.conv.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
)


class Stock:
    """transformers' own forward of a model of the family, called as `wavlm.WavLM` is.

    It gives each hidden state where the model's config has `output_hidden_states`, else the last alone.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, samples: Tensor, own: Tensor, *, padded: bool) -> Iterator[Tensor]:  # noqa: ARG002 - all count
        """A group-normalised extractor always takes its statistics over all samples."""
        mask = frame_mask(own, samples.shape[1])  # (B, S)
        return base.hidden_states_of(self.model(samples, attention_mask=None if mask.all() else mask.long()))


Forward = wavlm.WavLM | Stock


class PaddedBatch(NamedTuple):
    """Clips that are computed together."""

    rows: list[int]
    samples: Tensor  # (n, S)
    own: Tensor  # (n,) samples that are a clip's own


@dataclass(frozen=True)
class SpeechEncoder(AudioEncoder):
    """An AudioEncoder around a bare model of the wav2vec 2.0 family."""

    forward: Forward
    shape: Any  # the model's config: kernels, strides, norms
    device: torch.device
    normalise: Callable[[Tensor], Tensor]  # (samples,) -> (samples,), before padding (F18)
    pool: Pool
    padding: Padding
    dim: int
    sample_rate: int
    declared: dict[str, Any]
    axes: Axes | None = None

    def prepare(self, inputs: Sequence[Waveform]) -> list[PaddedBatch]:
        """(B,) waveforms, each normalised by itself; a clip under 400 samples is zero-padded to 400.

        In transformers a group-normalised extractor takes its statistics over all samples, padding too, and a batch
        norm before the positional convolution makes padding of zeros something else: there only clips of one length
        share a batch.
        """
        clips = base.clip_tensors(inputs, receptive_field(self.shape), self.normalise)
        batch_norm = getattr(self.shape, "conv_pos_batch_norm", False)  # of some HuBERTs
        pads_count = isinstance(self.forward, Stock) and (self.shape.feat_extract_norm == "group" or batch_norm)
        by_length: dict[int, list[int]] = {}
        for row, clip in enumerate(clips):
            key = len(clip) if pads_count and self.padding.kind == "masked" else 0
            by_length.setdefault(key, []).append(row)
        batches = []
        for _, rows in sorted(by_length.items()):
            lengths = [len(clips[row]) for row in rows]
            samples = base.padded_batch([clips[row] for row in rows], self.padding.length(max(lengths)))
            own = torch.tensor([samples.shape[1]] * len(rows) if self.padding.kind == "fixed" else lengths)
            batches.append(PaddedBatch(rows, samples.pin_memory() if self.device.type == "cuda" else samples, own))
        return batches

    def compute(self, prepared: list[PaddedBatch]) -> Tensor:
        vectors = torch.empty(sum(len(part.rows) for part in prepared), self.dim)
        with base.exact_inference():
            for part in prepared:
                samples = part.samples.to(self.device, non_blocking=True)
                own = part.own.to(self.device, non_blocking=True)
                padded, counts = self.padding.kind == "masked", frame_counts(own, self.shape)
                mask = frame_mask(counts, int(frame_counts(torch.tensor(samples.shape[1]), self.shape)))
                states = self.forward(samples, own, padded=padded)
                vectors[part.rows] = base.pool_states(states, mask, self.pool, self.axes).cpu()
        return vectors


def forward_of(model: Any, precision: str, device: torch.device, subject: object) -> Forward:
    """A loaded model as a function on `device`: WavLM in this project's forward, the others in transformers' own.

    `precision` is that of WavLM's products (`auto`: float32). Raises UsageError for a lower one of other models.
    """
    if wavlm.supports(model.config):
        dtype = torch.float32 if precision == "auto" else getattr(torch, precision)
        return wavlm.WavLM(model.to(device), dtype)
    require_float32(precision, model.config.model_type, subject)
    return Stock(model.to(device))


def require_float32(precision: str, model_type: str, subject: object) -> None:
    """Raises UsageError for a lower precision than float32, of a model that has none."""
    if in_precision(precision):
        found = f"audio.precision={precision} with model_type {model_type}"
        raise UsageError(subject, found, "float32, or a WavLM", "Leave --precision out.")


def in_precision(precision: str) -> dict[str, str]:
    """The fingerprint's field; float32 goes without saying, as it did before there was a choice."""
    return {} if precision in ("auto", "float32") else {"precision": precision}


def fold_weight_norm(model: nn.Module) -> None:
    """Compute the positional convolution's weight once instead of in every forward; the values are the same.

    A HuBERT with `conv_pos_batch_norm` has no such weight.
    """
    convolution = model.get_submodule("encoder.pos_conv_embed.conv")
    if not nn.utils.parametrize.is_parametrized(convolution, "weight"):
        return
    nn.utils.parametrize.remove_parametrizations(convolution, "weight")


def stop_after(model: Any, layer: int) -> None:
    """Cut the model so that its last hidden state is hidden state `layer` (0: before the first transformer layer).

    The last one is what the model itself returns, after the final LayerNorm where there is one.
    """
    if layer < len(model.encoder.layers):
        model.encoder.layers = model.encoder.layers[:layer]
        if model.config.do_stable_layer_norm:  # there the norm stands at the end, else before the first layer
            model.encoder.layer_norm = nn.Identity()


def frame_counts(samples: Tensor, config: Any) -> Tensor:
    """(B,) samples -> (B,) frames of the convolutional extractor."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def receptive_field(config: Any) -> int:
    """Samples behind one frame: 400, i.e. 25 ms, with the published kernels and strides."""
    field = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        field = (field - 1) * stride + kernel
    return int(field)


def load_speech_model(folder: Path, shape: Any, config: AudioConfig, device: str) -> SpeechEncoder:
    """Hidden state `config.layer` (None: the last) of the model in `folder`, pooled over a clip's own frames.

    `shape` is its config. Raises UsageError for another kind of model, or weights that do not fit it exactly.
    """
    if shape.model_type not in FAMILIES or getattr(shape, "add_adapter", False):
        adapter = " with an adapter" if shape.model_type in FAMILIES else ""
        known = ", ".join((*FAMILIES, "whisper"))
        raise UsageError(folder, f"model_type {shape.model_type}{adapter}", known, "Choose another model.")
    files = model_files.weight_files(folder)
    return build_speech_encoder(folder, shape, model_files.read_state(files), files, config, device)


def build_speech_encoder(
    folder: Path, shape: Any, state: model_files.State, files: Sequence[Path], config: AudioConfig, device: str,
    head: nn.Module | None = None, dim: int | None = None,
) -> SpeechEncoder:  # fmt: skip
    """The encoder of `shape` with the weights `state`, from `files`; a `head` makes `dim` numbers of the pooled ones.

    `folder` holds preprocessor_config.json. Raises UsageError for weights that do not fit exactly.
    """
    model = model_files.bare_model(shape, folder)
    state = model_files.base_weights(state, model.base_model_prefix)
    state = model_files.renamed(state, POSITIONS, folder)
    model_files.load_strictly(model, state, folder, optional="masked_spec_embed")
    fold_weight_norm(model)
    sizes = {"count": shape.num_hidden_layers, "dim": shape.hidden_size}
    layer, axes = base.chosen_states(config, **sizes, subject=folder)
    stop_after(model, max(axes.layers) if axes else layer)
    model.config.output_hidden_states = axes is not None
    forward = forward_of(model, config.precision, torch.device(device), folder)
    features = model_files.feature_settings(folder)
    rate, normalised = model_files.sampling_rate(features, folder), bool(features.get("do_normalize", True))
    if min(shape.conv_stride) < 1 or receptive_field(shape) > rate:  # they show in no weight: no strict load sees them
        found = f"strides {list(shape.conv_stride)!r:.80}"
        raise UsageError(folder, found, "frames of less than a second", "Use the published config.json.")
    declared = {
        "encoder": config.encoder,
        "weights_sha256": model_files.sha256(files),
        "architecture": model_files.architecture(shape),
        **base.layers_declared(axes, {"layer": layer, "pooling": config.pooling}),
        "padding": config.padding,
        "do_normalize": normalised,
        "sample_rate": rate,
        **in_precision(config.precision),
    }
    dim = dim or (sum(axes.sizes) if axes else shape.hidden_size * (2 if config.pooling == "mean_std" else 1))
    normalise = standardise if normalised else (lambda wave: wave)
    pooling = base.plain_pooling(config.pooling, folder)

    def pool(frames: Tensor, mask: Tensor) -> Tensor:
        pooled = pooling(frames, mask)
        return head(pooled) if head is not None else pooled

    padding = Padding(config.padding, round(config.max_seconds * rate))
    return SpeechEncoder(forward, shape, torch.device(device), normalise, pool, padding, dim, rate, declared, axes)


def standardise(wave: Tensor) -> Tensor:
    """(samples,) -> zero mean and unit variance over the clip's own samples, as the published preprocessing does."""
    return (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)


def with_precision(config: AudioConfig, device: torch.device) -> AudioConfig:
    """`config` with `auto` decided: bfloat16 for a WavLM on an accelerator, float32 for all else.

    Only a WavLM runs in this project's forward. Raises UsageError for a model that cannot be found.
    """
    if config.precision != "auto":
        return config
    low = device.type != "cpu" and config.encoder == "wavlm_ser"
    if device.type != "cpu" and config.encoder == "transformers":
        low = wavlm.supports(model_files.read_config(model_files.configured_folder("audio", config)))
    return config.model_copy(update={"precision": "bfloat16" if low else "float32"})


def deviation(encoder: AudioEncoder, exact: AudioEncoder, waves: Sequence[Waveform]) -> dict[str, Any]:
    """How far `encoder`'s vectors of `waves` are from those of `exact`, the same in float32."""
    low, high = (torch.cat([each.encode([wave]) for wave in waves]) for each in (encoder, exact))
    return {
        "clips": len(waves),
        "least_cosine": float(torch.cosine_similarity(low.double(), high.double()).min()),
        "largest_difference": float((low - high).abs().max()),
        "largest_value": float(high.abs().max()),
    }
