"""WavLM, HuBERT and wav2vec 2.0: waveforms -> frames -> one vector. transformers' own forward, our batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.encoders.base import TwoSteps, Waveform
from pipeline.encoders.batches import Padding, at_least, exact_inference, rectangle, tensors
from pipeline.encoders.pooling import Pool, frame_mask
from pipeline.encoders.weights import State, load_strictly, renamed
from pipeline.errors import UsageError

# transformers hands WavLM's attention a boolean padding mask beside a float bias, which torch means to refuse one day.
# Set here once: a filter set and restored around each batch would race between the threads that encode.
warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask and attn_mask")

# torch renamed the two halves of a normalised weight; files carry either (F20)
POSITIONS = (
    ("pos_conv_embed.conv.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    ("pos_conv_embed.conv.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
)


@dataclass(frozen=True)
class SpeechEncoder(TwoSteps):
    """An AudioEncoder around a bare model of the wav2vec 2.0 family."""

    model: Any  # WavLMModel, HubertModel or Wav2Vec2Model
    normalise: Callable[[Tensor], Tensor]  # (samples,) -> (samples,), before padding (F18)
    pool: Pool
    padding: Padding
    width: int
    sample_rate: int
    declared: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """What was declared at load."""
        return dict(self.declared)

    def prepare(self, inputs: Sequence[Waveform]) -> list[Tensor]:
        """(B,) waveforms, each normalised by itself; a clip under 400 samples is zero-padded to 400."""
        minimum = receptive_field(self.model.config)
        return [at_least(self.normalise(wave), minimum) for wave in tensors(inputs)]

    def compute(self, prepared: list[Tensor]) -> Tensor:
        """-> (B, width) float32 on the CPU."""
        with exact_inference():
            vectors = torch.empty(len(prepared), self.width)
            for rows in self._together([len(x) for x in prepared]):
                vectors[rows] = self._encode([prepared[row] for row in rows]).cpu()
        return vectors

    def _together(self, lengths: list[int]) -> list[list[int]]:
        """Rows that may share a batch. A group-normalised extractor takes its statistics over all samples, padding
        too, so that there only clips of one length may."""
        if self.padding.kind != "masked" or self.model.config.feat_extract_norm != "group":
            return [list(range(len(lengths)))] if lengths else []
        return [[row for row, n in enumerate(lengths) if n == length] for length in sorted(set(lengths))]

    def _encode(self, rows: list[Tensor]) -> Tensor:
        longest = max(len(row) for row in rows)
        samples = rectangle(rows, self.padding.length(longest)).to(self.model.device)
        own = torch.tensor([len(row) for row in rows], device=samples.device)
        if self.padding.kind == "fixed":
            own = torch.full_like(own, samples.shape[1])
        mask = frame_mask(own, samples.shape[1])  # (B, samples)
        frames = self.model(samples, attention_mask=None if mask.all() else mask.long()).last_hidden_state
        return self.pool(frames, frame_mask(frame_counts(own, self.model.config), frames.shape[1]))


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
