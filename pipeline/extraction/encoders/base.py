"""The interface of an encoder; clips as one zero-padded batch; frames pooled to one vector, never over padding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from cache.layers import Axes, chosen_numbers
from pipeline.core.config import AudioConfig, VectorsConfig
from pipeline.core.errors import UsageError

Waveform = NDArray[np.float32]  # (samples,) mono, at the encoder's sample rate, as decoded
Pool = Callable[[Tensor, Tensor], Tensor]  # frames (B, T, D), mask (B, T) -> (B, dim)
T = TypeVar("T", contravariant=True)
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that git checked out without git-lfs


class Encoder(ABC, Generic[T]):
    """A frozen encoder. Threads may share it.

    The vector of an input does not depend on the other inputs of its batch beyond 1e-5 (F32), and is bit-equal for an
    equal batch on one machine at one thread count.
    """

    dim: int  # numbers in one vector, or in one layered row
    axes: Axes | None = None  # what a row of several vectors holds
    declared: dict[str, Any]  # the fingerprint

    def fingerprint(self) -> dict[str, Any]:
        """Everything of the encoder that changes a vector (weights' hash, layer, pooling, normalisation)."""
        return dict(self.declared)

    @abstractmethod
    def prepare(self, inputs: Sequence[T]) -> Any:
        """(B,) inputs -> what `compute` takes. Done by many threads, beside the device's work."""

    @abstractmethod
    def compute(self, prepared: Any) -> Tensor:
        """-> (B, dim) float32 on the CPU. Done by one thread at a time on an accelerator."""

    def encode(self, inputs: Sequence[T]) -> Tensor:
        """Both steps: (B,) inputs -> (B, dim) float32 on the CPU."""
        return self.compute(self.prepare(inputs))


class AudioEncoder(Encoder[Waveform]):
    """A frozen speech encoder: waveforms of any lengths, already cropped.

    A clip too short for one frame is zero-padded to one.
    """

    sample_rate: int  # Hz


TextEncoder: TypeAlias = Encoder[str]


@dataclass(frozen=True)
class Padding:
    """How the clips of a batch become one tensor.

    `masked`: to the batch's longest clip, padding masked. `fixed_masked`: to `samples`, padding masked.
    `fixed`: to `samples`, and the zeros count as the clip's own (F9).
    """

    kind: str
    samples: int

    def length(self, longest: int) -> int:
        """Samples of the padded batch. Raises UsageError if a clip is longer than a fixed length."""
        if self.kind == "masked":
            return longest
        if longest > self.samples:
            expected = f"at most {self.samples} with padding {self.kind}"
            raise UsageError("clip", f"{longest} samples", expected, "Crop it first.")
        return self.samples


def clip_tensors(
    waves: Sequence[Waveform], minimum: int, normalise: Callable[[Tensor], Tensor] | None = None
) -> list[Tensor]:
    """Waveforms, normalised, in torch's own memory: it is aligned, numpy's need not be, and kernels round by that.

    A clip shorter than `minimum`, the samples behind one frame, is zero-padded to it: so every clip has a frame.
    """
    clips = [torch.tensor(np.ascontiguousarray(wave, dtype=np.float32)) for wave in waves]
    clips = [normalise(clip) for clip in clips] if normalise else clips
    return [pad(clip, (0, max(0, minimum - len(clip)))) for clip in clips]


def padded_batch(clips: Sequence[Tensor], length: int) -> Tensor:
    """One or more clips -> (B, length), zero beyond each."""
    return torch.stack([pad(clip, (0, length - len(clip))) for clip in clips])


@contextmanager
def exact_inference() -> Iterator[None]:
    """No gradients, deterministic kernels, and float32 as float32: no TF32 (it keeps 1e-3), no caller's autocast."""
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    no_autocast = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with torch.inference_mode(), cudnn, no_autocast[0], no_autocast[1]:
        yield


def frame_mask(counts: Tensor, frames: int) -> Tensor:
    """(B,) frames each clip has -> (B, frames), True where a frame is the clip's own."""
    return torch.arange(frames, device=counts.device)[None] < counts[:, None]


def uniform(mask: Tensor) -> Tensor:
    """(B, T) weights of the plain mean: 1 / T over a clip's own frames, 0 elsewhere."""
    return mask / mask.sum(1, keepdim=True)


def mean(frames: Tensor, weights: Tensor) -> Tensor:
    """frames (B, T, D), weights (B, T) -> (B, D)."""
    return torch.bmm(weights[:, None], frames)[:, 0]


def mean_std(frames: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean || standard deviation (F19), (B, 2D); variances are clamped at 1e-5 from below."""
    average = mean(frames, weights)
    # sum w (x - mu)^2 is sum w x^2 - mu^2 without its cancellation, which costs digits in outlier channels (F36)
    variance = mean((frames - average[:, None]).square(), weights)
    return torch.cat([average, variance.clamp_min(1e-5).sqrt()], 1)


def layer_number(layer: int | None, count: int, subject: object, setting: str = "audio.layer") -> int:
    """`layer` as a number from 0 to `count`; None is the last, negative numbers count from it. Raises UsageError."""
    number = count if layer is None else layer if layer >= 0 else count + 1 + layer
    if not 0 <= number <= count:
        raise UsageError(subject, f"layer {layer}", f"a hidden state from 0 to {count}", f"Correct {setting}.")
    return number


def layer_axes(
    layers: Literal["auto", "all"] | Sequence[int],
    poolings: Sequence[str],
    *,
    count: int,
    dim: int,
    subject: object,
    layer: int | None = None,
    own: int = 0,
) -> Axes:
    """Rows of the hidden states `layers` of a model of `count` layers and `dim` channels, pooled in each way.

    They stand for layer `layer` where nothing is chosen, or for the last, or for the encoder's `own` numbers ahead of
    them. Raises UsageError for a layer that the model does not have.
    """
    numbers = (
        range(count + 1)
        if isinstance(layers, str)
        else {layer_number(int(each), count, subject, "layers") for each in layers}
    )
    chosen = tuple(sorted(numbers))
    default = chosen[-1] if layer is None or layer not in chosen else layer
    return Axes(chosen, tuple(dict.fromkeys(poolings)), dim, own, None if own else default)


def chosen_states(config: AudioConfig, *, count: int, dim: int, subject: object) -> tuple[int, Axes | None]:
    """The hidden state of a model of `count` layers and `dim` channels that is pooled, and `layer_axes` for several.

    Raises UsageError for a layer that there is not, and for a pooling beside layers, whose poolings have a setting of
    their own.
    """
    layer = layer_number(config.layer, count, subject)
    if config.layers is None:
        return layer, None
    if config.pooling != "mean":
        found = f"audio.pooling={config.pooling} with audio.layers"
        raise UsageError(subject, found, "audio.poolings", "Set -o audio.poolings=[mean,std] in its place.")
    return layer, layer_axes(config.layers, config.poolings, count=count, dim=dim, layer=layer, subject=subject)


def chosen_columns(rows: Tensor, encoder: Encoder[Any], choice: VectorsConfig) -> Tensor:
    """Rows (n, encoder.dim) as they come from `encoder` -> (n, d), the layers and the pooling that heads take."""
    if encoder.axes is None:
        return rows
    return rows[:, chosen_numbers(encoder.axes, *choice.choice, subject="the encoder's rows", dim=encoder.dim)]


def hidden_states_of(output: Any) -> Iterator[Tensor]:
    """The hidden states (B, T, D) in the output of a model of transformers, 0 first; without a list of them, the last.

    That one is the model's result: from version 5 on, transformers lists it as it was before the final norm.
    """
    yield from (output.hidden_states or ())[:-1]
    yield output.last_hidden_state


def layers_declared(axes: Axes | None, single: dict[str, Any]) -> dict[str, Any]:
    """The fields of a fingerprint that say what of the hidden states a row holds; `single` are those of one vector."""
    return single if axes is None else {"layers": list(axes.layers), "poolings": list(axes.poolings)}


def pool_states(states: Iterable[Tensor], mask: Tensor, pool: Pool, axes: Axes | None) -> Tensor:
    """Hidden states (B, T, D) as they come, mask (B, T) -> (B, dim): the last by `pool`, or the row of `axes`.

    With `axes` the states are 0, 1, ..., and `pool` gives the encoder's own vector, where a row begins with one. Each
    column is what one pooling of one state alone gives, to the bit.
    """
    weights, frames = uniform(mask), mask.new_empty(0)
    parts: list[Tensor] = []
    for number, frames in enumerate(states):
        if axes and number in axes.layers:
            both = mean_std(frames, weights) if "std" in axes.poolings else mean(frames, weights)
            pooled = {"mean": both[:, : axes.dim], "std": both[:, axes.dim :], "cls": frames[:, 0]}
            parts += [pooled[name] for name in axes.poolings]
    if axes is None or axes.own:
        parts.insert(0, pool(frames, mask))
    return torch.cat(parts, 1)


def plain_pooling(kind: str, subject: object) -> Pool:
    """`mean` or `mean_std`, every frame alike. Raises UsageError for `hidden`."""
    if kind not in ("mean", "mean_std"):
        raise UsageError(subject, f"pooling {kind}", "mean or mean_std", "Only encoder wavlm_ser has a hidden layer.")
    statistics = mean if kind == "mean" else mean_std
    return lambda frames, mask: statistics(frames, uniform(mask))


class AttentivePooling(nn.Module):
    """The weights of F19, under their published names: softmax(tanh(sap_linear(x)) @ attention) over frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sap_linear = nn.Linear(dim, dim)
        self.attention = nn.Parameter(torch.zeros(dim, 1))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """frames (B, T, D), mask (B, T) -> weights (B, T), zero outside the mask."""
        scores = (torch.tanh(self.sap_linear(frames)) @ self.attention)[..., 0]
        return scores.masked_fill(~mask, -torch.inf).softmax(1)
