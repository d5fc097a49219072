"""WavLM, HuBERT and wav2vec 2.0: waveforms -> frames -> one vector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pipeline.core.errors import UsageError
from pipeline.extraction.encoders.base import Padding, TwoSteps, Waveform, at_least, exact_inference, rectangle, tensors
from pipeline.extraction.encoders.pooling import Pool, frame_mask
from pipeline.extraction.encoders.weights import State, load_strictly, renamed

# transformers hands WavLM's attention a boolean padding mask beside a float bias, which torch means to refuse one day.
# Set here once: a filter set and restored around each batch would race between the threads that encode.
warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask and attn_mask")
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
    width: int
    sample_rate: int
    declared: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """What was declared at load."""
        return dict(self.declared)

    def prepare(self, inputs: Sequence[Waveform]) -> list[Rectangle]:
        """(B,) waveforms, each normalised by itself; a clip under 400 samples is zero-padded to 400."""
        minimum = receptive_field(self.shape)
        rows = [at_least(self.normalise(wave), minimum) for wave in tensors(inputs)]
        return [self._rectangle(rows, chosen) for chosen in self._together([len(row) for row in rows])]

    def compute(self, prepared: list[Rectangle]) -> Tensor:
        """-> (B, width) float32 on the CPU."""
        vectors = torch.empty(sum(len(part.rows) for part in prepared), self.width)
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

    def _rectangle(self, rows: list[Tensor], chosen: list[int]) -> Rectangle:
        lengths = [len(rows[row]) for row in chosen]
        samples = rectangle([rows[row] for row in chosen], self.padding.length(max(lengths)))
        own = torch.tensor([samples.shape[1]] * len(chosen) if self.padding.kind == "fixed" else lengths)
        return Rectangle(chosen, samples.pin_memory() if self.device.type == "cuda" else samples, own)


class Rectangle(NamedTuple):
    """Clips that are computed together."""

    rows: list[int]
    samples: Tensor  # (n, S)
    own: Tensor  # (n,) samples that are a clip's own


def forward_of(model: Any, precision: str, device: torch.device, subject: object) -> Forward:
    """A loaded model as a function on `device`: WavLM in this project's forward, the others in transformers' own.

    `precision` is that of WavLM's products (`auto`: float32). Raises UsageError for a lower one of other models.
    """
    from pipeline.extraction.encoders import wavlm

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
    load_strictly(model, state, subject, may_lack=["masked_spec_embed"])
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
