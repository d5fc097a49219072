"""Matrix products with frozen weights: on a CPU laid out once for oneDNN, with what follows them fused.

On the machine of docs/measurements.md a packed product is 1.1-1.2 times as fast as torch's own linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

_oneDNN: Any = torch.ops.mkldnn  # noqa: N816 - its name


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
    if not backend.is_available() or not hasattr(_oneDNN, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(_oneDNN._is_mkldnn_bf16_supported()))
