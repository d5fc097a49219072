"""One step of Adam (Kingma and Ba, 2015) whose parameters and moments are tensors of the caller's.

torch has that function under its optimiser, `torch.optim.adam.adam`, and does not promise to keep it. Where it is gone,
an optimiser is made around the same tensors for each step: the same kernel, so the same bits, and slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_adam: Any
try:
    from torch.optim.adam import adam as _adam
except ImportError:
    _adam = None

Tensors = Mapping[str, list[Tensor]]  # params, grads, exp_avgs, exp_avg_sqs of one shape, and state_steps: () each


def adam_step(tensors: Tensors, rate: Tensor, weight_decay: float) -> None:
    """Change the parameters, moments and counts of steps in place; the learning rate () lies on their device."""
    if _adam is None:
        adam_step_by_optimiser(tensors, rate, weight_decay)
        return
    _adam(
        **tensors, max_exp_avg_sqs=[], lr=rate, weight_decay=weight_decay, fused=True, capturable=rate.is_cuda,
        amsgrad=False, maximize=False, beta1=0.9, beta2=0.999, eps=1e-8,
    )  # fmt: skip


def adam_step_by_optimiser(tensors: Tensors, rate: Tensor, weight_decay: float) -> None:
    """`adam_step` by what torch documents alone."""
    params = tensors["params"]
    optimiser = torch.optim.Adam(params, lr=rate, weight_decay=weight_decay, fused=True, capturable=rate.is_cuda)
    names = ("grads", "state_steps", "exp_avgs", "exp_avg_sqs")
    for param, grad, step, first, second in zip(params, *(tensors[name] for name in names), strict=True):
        param.grad = grad
        optimiser.state[param] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
    optimiser.step()
