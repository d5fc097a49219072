"""Matrix products with frozen weights: on a CPU laid out once for oneDNN, with what follows them fused.

On the machine of docs/measurements.md a packed product is 1.1-1.2 times as fast as torch's own linear layer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, gelu, layer_norm, linear, scaled_dot_product_attention

from pipeline.extraction.encoders.base import exact_inference, frame_mask

log = logging.getLogger(__name__)

PROBE_SHAPES = (1, 99), (2, 49)  # clips, frames: a library may choose its kernel by either
PROBE_TOLERANCE = 4.0  # times the precision's epsilon; right kernels stay below .7
_oneDNN: Any = torch.ops.mkldnn  # noqa: N816 - its name
_PRIVATE = "_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported"  # of it; torch may drop them


class Product:
    """x -> x W^T + b, computed in `dtype`; W is (out, in)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.bias = None if bias is None else bias.detach().to(dtype)
        weight = weight.detach().to(dtype).contiguous()
        self.packed = weight.device.type == "cpu" and _packs(dtype)
        self.weight: Tensor = _oneDNN._reorder_linear_weight(weight) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), of `dtype`."""
        x = x.to(self.dtype)
        if self.packed:
            result: Tensor = _oneDNN._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return result
        return linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(x W^T + b), the exact one."""
        if self.packed:
            result: Tensor = _oneDNN._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "gelu", [], "none")
            return result
        return gelu(self(x))

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + x W^T + b, of the residual's type, which may be wider."""
        if self.packed and residual.dtype == self.dtype:
            result: Tensor = _oneDNN._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
            return result
        return residual + self(x)


def _packs(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's packed products (those that its own compiler uses) for `dtype`."""
    backend: Any = torch.backends.mkldnn
    if not backend.is_available() or not all(hasattr(_oneDNN, name) for name in _PRIVATE):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(_oneDNN._is_mkldnn_bf16_supported()))


class Norm:
    """A LayerNorm, always in float32."""

    def __init__(self, module: nn.LayerNorm) -> None:
        self.weight, self.bias, self.eps = module.weight.detach().float(), module.bias.detach().float(), module.eps

    def __call__(self, x: Tensor) -> Tensor:
        return layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps)


class Convolution:
    """A convolution over time without padding, as a product of its windows."""

    def __init__(self, module: nn.Conv1d, dtype: torch.dtype) -> None:
        self.kernel, self.stride = module.kernel_size[0], module.stride[0]
        self.product = Product(module.weight.permute(0, 2, 1).flatten(1), module.bias, dtype)  # (out, kernel * in)

    def windows(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, frames, kernel * C)."""
        batch, length, channels = x.shape
        frames = (length - self.kernel) // self.stride + 1
        if self.kernel == self.stride:
            return x[:, : frames * self.stride].reshape(batch, frames, -1)
        x = x.contiguous()
        shape = (batch, frames, self.kernel * channels)
        return x.as_strided(shape, (length * channels, self.stride * channels, 1)).contiguous()

    def counts(self, own: Tensor) -> Tensor:
        """(B,) lengths -> (B,) frames."""
        return (own - self.kernel) // self.stride + 1


class WavLM:
    """The hidden states of a batch of waveforms, equal to a WavLMModel's to 1e-5 in float32.

    Takes over the weights of `model`, a WavLMModel of any size that was loaded, folded and cut (speech.py).
    Products are computed in `dtype`, residuals and norms always in float32. Threads may share it.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        encoder, extractor = model.encoder, model.feature_extractor
        self.stable = bool(model.config.do_stable_layer_norm)  # norms before the sublayers, not after
        self.convolutions = [Convolution(block.conv, dtype) for block in extractor.conv_layers]
        norms = [getattr(block, "layer_norm", None) for block in extractor.conv_layers]
        self.norms = [Norm(norm) if isinstance(norm, nn.LayerNorm) else None for norm in norms]
        self.group = extractor.conv_layers[0].layer_norm if model.config.feat_extract_norm == "group" else None
        self.features = Norm(model.feature_projection.layer_norm)
        projection = model.feature_projection.projection
        self.projection = Product(projection.weight, projection.bias, dtype)
        self.positions = PositionalConvolution(encoder.pos_conv_embed.conv, dtype)
        self.norm = Norm(encoder.layer_norm) if isinstance(encoder.layer_norm, nn.LayerNorm) else None
        self.bias = PositionBias(encoder.layers[0].attention) if len(encoder.layers) else None
        self.layers = [Layer(layer, dtype) for layer in encoder.layers]

    def __call__(self, samples: Tensor, own: Tensor, *, padded: bool = True) -> Iterator[Tensor]:
        """samples (B, S), zero beyond the (B,) `own` samples of each -> each hidden state (B, T, D) float32, 0 first.

        Only own frames mean anything. Without `padded`, what lies beyond is the clips' own sound: `own` is not looked
        at but for masks. The last is taken after the final norm, where there is one.
        """
        x, counts = self._extract(samples, own, padded)
        x = self.projection(self.features(x)).float()  # (B, T, D)
        mask = frame_mask(counts, x.shape[1])
        keys = None if mask.all() else mask
        if keys is not None:
            x = x * keys[..., None]
        x = x + self.positions(x)
        if self.norm and (not self.stable or not self.layers):
            x = self.norm(x)
        yield x
        if self.bias:
            table = self.bias(x.shape[1])  # (H, T, T)
            if keys is not None:
                outside = torch.zeros(keys.shape, device=x.device).masked_fill(~keys, -torch.inf)[:, None, None]
            for number, layer in enumerate(self.layers, 1):
                x = layer(x, table, None if keys is None else outside, self.stable)
                yield self.norm(x) if self.norm and self.stable and number == len(self.layers) else x

    def _extract(self, samples: Tensor, own: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
        """(B, S) -> (B, T, C), and the (B,) frames of each."""
        x, counts = samples[..., None], own
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            windows, counts = convolution.windows(x), convolution.counts(counts)
            if norm:
                x = norm(convolution.product(windows))
            elif i == 0 and self.group is not None:
                x = self._group_norm(convolution.product(windows).float(), counts if padded else None)
            else:
                x = convolution.product.gelu(windows)
                continue
            x = torch.ops.aten.gelu_(x)  # in place: these are the largest tensors of all
        return x, counts

    def _group_norm(self, x: Tensor, counts: Tensor | None) -> Tensor:
        """Each channel by its own mean and deviation, over a clip's own frames: no other clip's length counts."""
        norm: Any = self.group
        if counts is None or bool((counts == x.shape[1]).all()):
            count = torch.tensor(float(x.shape[1]), device=x.device)
            x = x - x.sum(1, keepdim=True) / count
        else:
            mask, count = frame_mask(counts, x.shape[1])[..., None], counts[:, None, None]
            x = (x - (x * mask).sum(1, keepdim=True) / count) * mask
        scale = norm.weight * torch.rsqrt(x.square().sum(1, keepdim=True) / count + norm.eps)  # (B, 1, C)
        return torch.addcmul(norm.bias, x, scale)


class PositionalConvolution:
    """The convolutional position embedding, computed in `dtype` where this machine's kernel for it is right.

    oneDNN 3.12 computes bfloat16 convolutions of few channels a group wrongly on CPUs with AMX (F52), so a lower
    precision is compared with float32 on a probe. Where they part, float32 is used: torch's own kernel, with oneDNN
    switched off, is 20 times as slow, and the switch is one for all threads of a process.
    """

    def __init__(self, module: nn.Conv1d, dtype: torch.dtype) -> None:
        assert module.bias is not None  # as in every WavLM of transformers
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        self.padding, self.groups = module.padding[0], module.groups
        if dtype == torch.float32:
            return
        error, largest = self._deviation(dtype)
        if error <= PROBE_TOLERANCE * torch.finfo(dtype).eps * largest:
            self.weight, self.bias = self.weight.to(dtype), self.bias.to(dtype)
        else:
            log.warning(
                f"WavLM's positional convolution: computed in float32, because this machine's {str(dtype)[6:]} kernel "
                f"for {self.weight.shape[1]} channels a group is wrong (largest error {error:.1e} in values up to "
                f"{largest:.1e})"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D) float32."""
        return gelu(self._convolve(x, self.weight, self.bias)).transpose(1, 2).float()

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D) -> (B, D, T), in the weight's type; an even kernel gives one frame more, which is cut."""
        x = x.transpose(1, 2).to(weight.dtype)
        return conv1d(x, weight, bias, padding=self.padding, groups=self.groups)[..., : x.shape[-1]]

    def _deviation(self, dtype: torch.dtype) -> tuple[float, float]:
        """The largest error of `dtype` against float32 over random frames, infinite for NaN, and the largest value."""
        generator, error, largest = torch.Generator().manual_seed(0), 0.0, 0.0
        with exact_inference():
            weight, bias = self.weight.to(dtype), self.bias.to(dtype)
            for shape in PROBE_SHAPES:
                x = torch.randn(*shape, len(weight), generator=generator).to(weight.device)
                exact = self._convolve(x, self.weight, self.bias)
                difference = (self._convolve(x, weight, bias).float() - exact).abs().nan_to_num(math.inf)
                error, largest = max(error, float(difference.max())), max(largest, float(exact.abs().max()))
        return error, largest


class PositionBias:
    """The bias by relative position of layer 0, which all layers share."""

    def __init__(self, attention: Any) -> None:
        self.weight = attention.rel_attn_embed.weight.detach().float()  # (buckets, H)
        self.farthest = attention.max_distance

    def __call__(self, length: int) -> Tensor:
        """-> (H, T, T): row i, column j is the bias of key j for query i."""
        offsets = torch.arange(1 - length, length, device=self.weight.device)
        line = self.weight[self.bucket(offsets)].T  # (H, 2T - 1), by j - i
        table: Tensor = line.unfold(1, length, 1).flip(1)
        return table.contiguous()

    def bucket(self, offsets: Tensor) -> Tensor:
        """Offsets j - i -> rows of the weight: half for either side, of which half exact and half logarithmic."""
        count = len(self.weight) // 2
        exact = count // 2
        distance = offsets.abs()
        scale = torch.log(distance.float() / exact) / math.log(self.farthest / exact) * (count - exact)
        far = (exact + scale.clamp_min(0)).long().clamp_max(count - 1)
        return (offsets > 0) * count + torch.where(distance < exact, distance, far)


class Layer:
    """One transformer layer."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention = layer.attention
        self.heads, self.dim, self.dtype = attention.num_heads, attention.head_dim, dtype
        self.constant = attention.gru_rel_pos_const.detach().float().reshape(-1)  # (H,)
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        scales = [attention.scaling, 1.0, 1.0]
        gate, gate_bias = _gate(attention)
        self.inward = Product(
            torch.cat([*(part.weight * scale for part, scale in zip(parts, scales, strict=True)), gate]),
            torch.cat([*(part.bias * scale for part, scale in zip(parts, scales, strict=True)), gate_bias]),
            dtype,
        )
        self.outward = Product(attention.out_proj.weight, attention.out_proj.bias, dtype)
        dense = layer.feed_forward
        self.up = Product(dense.intermediate_dense.weight, dense.intermediate_dense.bias, dtype)
        self.down = Product(dense.output_dense.weight, dense.output_dense.bias, dtype)
        self.first, self.second = Norm(layer.layer_norm), Norm(layer.final_layer_norm)

    def __call__(self, x: Tensor, table: Tensor, outside: Tensor | None, stable: bool) -> Tensor:
        """x (B, T, D), table (H, T, T), outside (B, 1, 1, T) with -inf for keys that are padding -> (B, T, D)."""
        if stable:
            x = self.outward.onto(x, self.attend(self.first(x), table, outside))
            return self.down.onto(x, self.up.gelu(self.second(x)))
        x = self.first(self.outward.onto(x, self.attend(x, table, outside)))
        return self.second(self.down.onto(x, self.up.gelu(x)))

    def attend(self, x: Tensor, table: Tensor, outside: Tensor | None) -> Tensor:
        """Attention with the gated position bias, before its output's projection: (B, T, D) -> (B, T, D)."""
        sizes = [*3 * [self.heads * self.dim], 2 * self.heads]
        query, key, value, gate = torch.split_with_sizes(self.inward(x), sizes, -1)
        reset, update = torch.sigmoid(gate.float()).chunk(2, -1)  # (B, T, H)
        gate = (reset * (update * self.constant - 1.0) + 2.0).transpose(1, 2)[..., None]  # (B, H, T, 1)
        bias = gate * table if outside is None else torch.addcmul(outside, gate, table)
        query, key, value = (part.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in (query, key, value))
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(self.dtype), scale=1.0)
        return mixed.transpose(1, 2).flatten(2)


def supports(config: Any) -> bool:
    """Whether the forward here is that of a model with this config."""
    return bool(config.model_type == "wavlm" and config.hidden_act == config.feat_extract_activation == "gelu")


def _gate(attention: Any) -> tuple[Tensor, Tensor]:
    """The gate's linear layer as 2H more columns of the common product: (2H, D), (2H,).

    Each head's 8 outputs are summed by fours into two, which is a sum of their weights; a head sees its own channels.
    """
    linear, heads = attention.gru_rel_pos_linear, attention.num_heads
    weight = linear.weight.detach().reshape(2, 4, -1).sum(1)  # (2, D / H)
    blocks = torch.kron(torch.eye(heads, device=weight.device), weight[:, None])  # (2, H, D)
    bias = linear.bias.detach().reshape(2, 4).sum(1)  # (2,)
    return blocks.flatten(0, 1), bias.repeat_interleave(heads)
