"""On CUDA, the whole step recorded once as a graph and replayed: at batch 64 the launches, not the work, take the time.

Written for a GPU and never run on one yet; on a CPU the tests replay through a placeholder for the recorder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.training.batched_heads import BatchedHeads, Step

log = logging.getLogger(__name__)

Launch = Callable[[], None]
_CHECKED_STEPS = 3  # of a recorded graph, before it is trusted


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
    heads: BatchedHeads,
    batch: tuple[Tensor, Tensor, Sequence[Any]],
    *,
    record: Callable[[Launch], Launch] = recorded_on_cuda,
) -> Step:
    """`heads.step` for batches shaped as `batch`: inputs are copied into place, then the recorded work is replayed.

    `record` turns work into a function that replays it. Where it raises RuntimeError, or the first steps replayed are
    not those launched, the reason is logged and `heads.step` itself returned.
    """
    speech, text = batch[0].clone(), batch[1].clone()
    prepared = [_cloned(each) for each in batch[2]]
    losses = torch.zeros(heads.count, device=speech.device, dtype=speech.dtype)

    def work() -> None:
        losses.copy_(heads.update(speech, text, prepared))

    before = _copied(heads)
    heads.set_learning_rates()
    try:
        replay = record(work)
        heads.restore(before)
        reason = _difference(heads, work, replay)
    except RuntimeError as error:
        reason = f"not recorded ({' '.join(str(error).split())[:120]})"
    finally:
        heads.restore(before)
    if reason:
        log.warning(f"CUDA graph: {reason}; every step is launched kernel by kernel")
        return heads.step

    def step(new_speech: Tensor, new_text: Tensor, new_prepared: Sequence[Any]) -> Tensor:
        """Raises ValueError for a batch of another shape."""
        if new_speech.shape != speech.shape or new_text.shape != text.shape:
            raise ValueError(f"a batch of {tuple(new_speech.shape)} for a step of {tuple(speech.shape)}")
        speech.copy_(new_speech)
        text.copy_(new_text)
        for static, new in zip(prepared, new_prepared, strict=True):
            _copy_into(static, new)
        heads.set_learning_rates()
        replay()
        heads.steps_done += 1
        return losses.clone()

    return step


def _difference(heads: BatchedHeads, work: Launch, replay: Launch) -> str:
    """Where some replayed steps end elsewhere than launched ones from the same start; empty where they do not."""
    before, ends = _copied(heads), []
    for launch in (work, replay):
        heads.restore(before)
        for _ in range(_CHECKED_STEPS):
            launch()
        ends.append(_copied(heads))
    for name, expected in ends[0].items():
        if not torch.allclose(ends[1][name], expected, rtol=1e-4, atol=1e-6):  # atomics may add in another order
            return f"{name} differs after {_CHECKED_STEPS} replayed steps"
    return ""


def _copied(heads: BatchedHeads) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in heads.checkpoint().items()}


def _cloned(prepared: Any) -> Any:
    """A copy of what an objective prepared: a tensor, or a dataclass of such."""
    if isinstance(prepared, Tensor):
        return prepared.clone()
    return type(prepared)(**{name: _cloned(part) for name, part in vars(prepared).items()})


def _copy_into(static: Any, new: Any) -> None:
    if isinstance(static, Tensor):
        static.copy_(new)
        return
    for name, part in vars(static).items():
        _copy_into(part, getattr(new, name))
