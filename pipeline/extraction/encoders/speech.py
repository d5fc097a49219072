"""Any WavLM, HuBERT or wav2vec 2.0 of transformers, its heads left out: waveforms -> frames -> one vector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import wavlm
from pipeline.extraction.encoders.base import (
    AudioEncoder,
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
    architecture,
    bare_model,
    base_weights,
    feature_settings,
    find_folder,
    load_strictly,
    read_config,
    read_state,
    renamed,
    sampling_rate,
    sha256,
    weight_files,
)
from pipeline.extraction.encoders.pooling import Pool, frame_mask, plain_pooling

# transformers hands WavLM's attention a boolean padding mask beside a float bias, which torch means to refuse one day.
# Set here once: a filter set and restored around each batch would race between the threads that encode.
warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask and attn_mask")
FAMILIES = ("wavlm", "hubert", "wav2vec2")
# torch renamed the two halves of a normalised weight; files carry either (F20)
POSITIONS = (
    ("pos_conv_embed.conv.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    ("pos_conv_embed.conv.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
)


class Forward(Protocol):
    """A model of the family as a function."""

    def __call__(self, samples: Tensor, own: Tensor, *, padded: bool) -> Tensor:
        """samples (B, S), zero beyond the (B,) `own` samples of each -> (B, T, D) float32 frames.

        Without `padded`, the zeros count as the clips' own where statistics are taken over samples.
        """


class Stock:
    """transformers' own forward."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, samples: Tensor, own: Tensor, *, padded: bool) -> Tensor:  # noqa: ARG002 - all samples count
        """See `Forward`. A group-normalised extractor always takes its statistics over all samples."""
        mask = frame_mask(own, samples.shape[1])  # (B, S)
        frames: Tensor = self.model(samples, attention_mask=None if mask.all() else mask.long()).last_hidden_state
        return frames


@dataclass(frozen=True)
class SpeechEncoder(TwoSteps):
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

    def fingerprint(self) -> dict[str, Any]:
        """What was declared at load."""
        return dict(self.declared)

    def prepare(self, inputs: Sequence[Waveform]) -> list[PaddedBatch]:
        """(B,) waveforms, each normalised by itself; a clip under 400 samples is zero-padded to 400."""
        minimum = receptive_field(self.shape)
        rows = [at_least(self.normalise(wave), minimum) for wave in tensors(inputs)]
        return [self._padded(rows, chosen) for chosen in self._together([len(row) for row in rows])]

    def compute(self, prepared: list[PaddedBatch]) -> Tensor:
        """-> (B, dim) float32 on the CPU."""
        vectors = torch.empty(sum(len(part.rows) for part in prepared), self.dim)
        with exact_inference():
            for part in prepared:
                samples = part.samples.to(self.device, non_blocking=True)
                own = part.own.to(self.device, non_blocking=True)
                frames = self.forward(samples, own, padded=self.padding.kind == "masked")
                vectors[part.rows] = self.pool(frames, frame_mask(frame_counts(own, self.shape), frames.shape[1])).cpu()
        return vectors

    def _together(self, lengths: list[int]) -> list[list[int]]:
        """Rows that may share a batch. A group-normalised extractor of transformers takes its statistics over all
        samples, padding too, so that there only clips of one length may.
        """
        apart = isinstance(self.forward, Stock) and self.shape.feat_extract_norm == "group"
        if self.padding.kind != "masked" or not apart:
            return [list(range(len(lengths)))] if lengths else []
        return [[row for row, n in enumerate(lengths) if n == length] for length in sorted(set(lengths))]

    def _padded(self, rows: list[Tensor], chosen: list[int]) -> PaddedBatch:
        lengths = [len(rows[row]) for row in chosen]
        samples = padded_batch([rows[row] for row in chosen], self.padding.length(max(lengths)))
        own = torch.tensor([samples.shape[1]] * len(chosen) if self.padding.kind == "fixed" else lengths)
        return PaddedBatch(chosen, samples.pin_memory() if self.device.type == "cuda" else samples, own)


class PaddedBatch(NamedTuple):
    """Clips that are computed together."""

    rows: list[int]
    samples: Tensor  # (n, S)
    own: Tensor  # (n,) samples that are a clip's own


def forward_of(model: Any, precision: str, device: torch.device, subject: object) -> Forward:
    """A loaded model as a function on `device`: WavLM in this project's forward, the others in transformers' own.

    `precision` is that of WavLM's products (`auto`: float32). Raises UsageError for a lower one of other models.
    """
    exact = precision in ("auto", "float32")
    if wavlm.supports(model.config):
        return wavlm.WavLM(model.to(device), torch.float32 if exact else getattr(torch, precision))
    require_float32(precision, model.config.model_type, subject)
    return Stock(model.to(device))


def require_float32(precision: str, model_type: str, subject: object) -> None:
    """Raises UsageError for a lower precision than float32, of a model that has none."""
    if precision not in ("auto", "float32"):
        found = f"audio.precision={precision} with model_type {model_type}"
        raise UsageError(subject, found, "float32, or a WavLM", "Leave --precision out.")


def in_precision(precision: str) -> dict[str, str]:
    """The fingerprint's field; float32 goes without saying, as it did before there was a choice."""
    return {} if precision in ("auto", "float32") else {"precision": precision}


def load_speech(model: Any, state: State, subject: object) -> None:
    """Load a bare model strictly, accept both names of the positional convolution, fold its weight norm."""
    state = renamed(state, POSITIONS, subject)
    load_strictly(model, state, subject, optional="masked_spec_embed")
    fold_weight_norm(model)


def fold_weight_norm(model: nn.Module) -> None:
    """Compute the positional convolution's weight once instead of in every forward; the values are the same."""
    convolution = model.get_submodule("encoder.pos_conv_embed.conv")
    nn.utils.parametrize.remove_parametrizations(convolution, "weight")


def stop_after(model: Any, layer: int | None, subject: object) -> int:
    """Cut the model so that its last hidden state is hidden state `layer` (0: before the first transformer layer).

    The last one is what the model itself returns, after the final LayerNorm where there is one. -> its number.
    """
    count = len(model.encoder.layers)
    number = layer_number(layer, count, subject)
    if number < count:
        model.encoder.layers = model.encoder.layers[:number]
        if model.config.do_stable_layer_norm:  # there the norm stands at the end, else before the first layer
            model.encoder.layer_norm = nn.Identity()
    return number


def layer_number(layer: int | None, count: int, subject: object) -> int:
    """`layer` as a number from 0 to `count`; None is the last, negative numbers count from it. Raises UsageError."""
    number = count if layer is None else layer if layer >= 0 else count + 1 + layer
    if not 0 <= number <= count:
        raise UsageError(subject, f"layer {layer}", f"a hidden state from 0 to {count}", "Correct audio.layer.")
    return number


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
    model = bare_model(shape, folder)
    files = weight_files(folder)
    load_speech(model, base_weights(read_state(files), model.base_model_prefix), folder)
    layer = stop_after(model, config.layer, folder)
    forward = forward_of(model, config.precision, torch.device(device), folder)
    features = feature_settings(folder)
    rate, normalised = sampling_rate(features, folder), bool(features.get("do_normalize", True))
    check_strides(shape, rate, folder)
    declared = {
        "encoder": config.encoder,
        "weights_sha256": sha256(files),
        "architecture": architecture(shape),
        "layer": layer,
        "pooling": config.pooling,
        "padding": config.padding,
        "do_normalize": normalised,
        "sample_rate": rate,
        **in_precision(config.precision),
    }
    dim = shape.hidden_size * (2 if config.pooling == "mean_std" else 1)
    prepare = standardise if normalised else unchanged
    pool = plain_pooling(config.pooling, folder)
    padding = Padding.of(config, rate)
    return SpeechEncoder(forward, shape, torch.device(device), prepare, pool, padding, dim, rate, declared)


def check_strides(shape: Any, rate: int, subject: object) -> None:
    """Raises UsageError for strides that cannot be meant: they show in no weight, so that no strict load sees them."""
    if min(shape.conv_stride) < 1 or receptive_field(shape) > rate:
        found = f"strides {list(shape.conv_stride)!r:.80}"
        raise UsageError(subject, found, "frames of less than a second", "Use the published config.json.")


def standardise(wave: Tensor) -> Tensor:
    """(samples,) -> zero mean and unit variance over the clip's own samples, as the published preprocessing does."""
    return (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)


def unchanged(wave: Tensor) -> Tensor:
    """`wave` as it is, for models that normalise nothing."""
    return wave


def with_precision(config: AudioConfig, device: torch.device) -> AudioConfig:
    """`config` with `auto` decided: bfloat16 for a WavLM on an accelerator, float32 for all else.

    Raises UsageError for a model that cannot be found.
    """
    if config.precision != "auto":
        return config
    low = device.type != "cpu" and _can_be_lowered(config)
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


def _can_be_lowered(config: AudioConfig) -> bool:
    """Whether the model that `config` names runs in this project's forward, the only one below float32."""
    if config.encoder == "transformers":
        return wavlm.supports(read_config(find_folder(config.model, config.revision)))
    return config.encoder == "wavlm_ser"
