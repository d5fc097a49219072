"""On CUDA, the whole step recorded once as a graph and replayed: at batch 64 the launches, not the work, take the time.

Written for a GPU and never run on one yet; on a CPU the tests replay through a stand-in for the recorder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from pipeline.training.batched_heads import BatchedHeads

log = logging.getLogger(__name__)

Launch = Callable[[], None]


class ReplayedStep:
    """`BatchedHeads.step` for batches of one shape: inputs are copied into place, then the recorded work is replayed.

    `record` makes of work a function that replays it, without leaving a trace in the stack.
    """

    def __init__(
        self,
        stack: BatchedHeads,
        speech: Tensor,
        text: Tensor,
        prepared: Sequence[Any],
        record: Callable[[Launch], Launch],
    ) -> None:
        self.stack = stack
        self._speech, self._text = speech.clone(), text.clone()
        self._prepared = [_mapped(torch.clone, each) for each in prepared]
        self._losses = torch.zeros(stack.count, device=speech.device, dtype=speech.dtype)
        before = {name: tensor.clone() for name, tensor in stack.checkpoint().items()}
        stack.set_rates()
        try:
            self._replay = record(self._work)
        finally:
            stack.restore(before)

    def step(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        """As `BatchedHeads.step`; the losses are a copy. Raises ValueError for a batch of another shape."""
        if speech.shape != self._speech.shape or text.shape != self._text.shape:
            raise ValueError(f"a batch of {tuple(speech.shape)} for a step of {tuple(self._speech.shape)}")
        self._speech.copy_(speech)
        self._text.copy_(text)
        for mine, new in zip(self._prepared, prepared, strict=True):
            _copy(mine, new)
        self.stack.set_rates()
        self._replay()
        self.stack.steps_done += 1
        return self._losses.clone()

    def _work(self) -> None:
        self._losses.copy_(self.stack.step_at_rates(self._speech, self._text, self._prepared))


def recorded_on_cuda(work: Launch) -> Launch:
    """Warm `work` up on a stream of its own, record it as a CUDA graph, and return the graph's replay."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    replay: Launch = graph.replay
    return replay


def replayed_step(
    stack: BatchedHeads, speech: Tensor, text: Tensor, prepared: Sequence[Any]
) -> Callable[[Tensor, Tensor, Sequence[Any]], Tensor]:
    """`stack.step` as a replay of CUDA's; where that cannot be recorded, `stack.step`, and the reason is said."""
    try:
        return ReplayedStep(stack, speech, text, prepared, recorded_on_cuda).step
    except RuntimeError as error:
        log.warning(
            f"CUDA graph: not recorded ({' '.join(str(error).split())[:120]}); every step is launched kernel by kernel"
        )
        return stack.step


def _mapped(change: Callable[[Tensor], Tensor], prepared: Any) -> Any:
    """A copy of a dataclass of tensors with `change` applied to each."""
    return type(prepared)(**{f.name: change(getattr(prepared, f.name)) for f in fields(prepared)})


def _copy(mine: Any, new: Any) -> None:
    for f in fields(mine):
        getattr(mine, f.name).copy_(getattr(new, f.name))
