"""A stack's checkpoint taken apart into its members and put together from them: what halving does to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, cat

Tensors = dict[str, Tensor]


def taken_out(checkpoint: Mapping[str, Tensor], c: int, width: int) -> Tensors:
    """A copy of all that is member c's in `Stack.checkpoint()`: parameters, Adam's moments, counts of steps.

    Wide tensors are (C * width, ...), so rows c * width to (c + 1) * width are its own; of `log_scale` (C,) and
    `steps` (C, 5) it is row c.
    """
    sizes = {name: 1 if name == "steps" or name.endswith("log_scale") else width for name in checkpoint}
    return {name: tensor[c * sizes[name] : (c + 1) * sizes[name]].clone() for name, tensor in checkpoint.items()}


def joined(members: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """The checkpoint of a stack of `members`, in their order; for `Stack.restore`."""
    return {name: cat([member[name] for member in members]) for name in members[0]}
