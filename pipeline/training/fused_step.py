"""The training step in reduced precision on a CPU: `fused_step.cpp`, compiled on first use.

    train-heads STORES -o step=fused

Products take vectors, weights and slopes rounded to bfloat16 (8 bits of precision) and sum in float32; weights, Adam's
moments, unit vectors and losses are as in `BatchedHeads`, which trains where this cannot. Its bits do not depend on the
number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.core.objective_config import RankingConfig
from pipeline.core.resources import threads_restored
from pipeline.objectives.label_order import RankOrder, label_order
from pipeline.objectives.rank_n_contrast import Denominator, Ranking
from pipeline.objectives.space import EPSILON, SharedSpace, Slopes
from pipeline.training.batched_heads import Batch, BatchedHeads
from pipeline.training.fused_library import Unavailable, load_library
from pipeline.training.heads import Heads
from pipeline.training.heads_config import HeadsConfig

log = logging.getLogger(__name__)

_PROBES, _LIMIT = (64, 7), 0.05  # batches; of a gradient's length, which rounding moves by .003, of small ones .012
_ROWS = 16  # ROWS of the source
_DENOMINATORS: tuple[Denominator, ...] = ("at_least", "beyond", "beyond_and_self")  # in the order of the source
_MAX_THREADS = os.cpu_count() or 1
_NUMBERS = ("dim", "inputs", "batch", "relu", "threads")
_POINTERS: tuple[str, ...] = ("across", "down", "weight", "first", "second", "copy", "bias")
_POINTERS += ("bias_first", "bias_second", "outputs", "unit", "length", "slopes", "gradient")


class _Side(ctypes.Structure):
    """`Side` of the source."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _NUMBERS),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


class _Adam(ctypes.Structure):
    """`Adam` of the source."""

    _fields_ = [(name, ctypes.c_float) for name in ("rate", "root", "decay", "epsilon")]


class _Order(ctypes.Structure):
    """`Order` of the source."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("candidates", "since", "until")),
        ("denominator", ctypes.c_int64),
        ("weight", ctypes.c_double),
    ]


class _Slopes(ctypes.Structure):
    """`Slopes` of the source."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("losses", "scales", "speech", "text", "gradient", "mirrored")]


@dataclass(frozen=True)
class _Batch:
    """One side of batches of one size: what the source reads and writes."""

    arguments: _Side
    tensors: Mapping[str, Tensor]  # that the arguments point to

    @property
    def unit(self) -> Tensor:
        """(1, B, dim)."""
        return self.tensors["unit"]

    @property
    def length(self) -> Tensor:
        """(1, B, 1)."""
        return self.tensors["length"]


class FusedHeads(BatchedHeads):
    """One configuration whose products are in bfloat16. Raises Unavailable for what the source does not compute."""

    def __init__(self, configs: Sequence[HeadsConfig], library: ctypes.CDLL | None = None) -> None:
        (config,), heads = configs, configs[0].heads
        if heads.audio.weight.device.type != "cpu" or heads.audio.weight.dtype != torch.float32:
            raise Unavailable("it is for float32 on a CPU")
        if config.norm != "none" or max(heads.layers) > 1:
            raise Unavailable("it has neither norm nor weighted layers")
        if heads.audio.out_features % _ROWS or any(inputs % 2 for inputs in heads.input_dims):
            raise Unavailable(f"it is for a width that {_ROWS} divides and vectors of an even number of dimensions")
        self.compiled = library or load_library()
        if library is None:
            _probe(self.compiled, heads.input_dims, heads.audio.out_features)
        super().__init__(configs)
        self.threads = 0  # torch's
        self._copies: dict[str, Tensor] = {}
        self._batches: dict[tuple[str, int], _Batch] = {}
        self.take(self.stacked, self._first_moments, self._second_moments)
        ranking = config.objective.config if type(config.objective) is Ranking else None
        self._ranking = ranking if ranking is not None and not ranking.symmetric else None

    def update(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        self._set_scheduled_scales()
        audio, words = self._project_batch("audio", speech), self._project_batch("text", text)
        if self._ranking is not None and isinstance(prepared[0], RankOrder):
            losses, slopes = self._rank_n_contrast(audio, words, prepared[0], self._ranking.denominator)
        else:
            log_scale = self.stacked["log_scale"]
            space = SharedSpace(audio.unit, words.unit, audio.length, words.length, log_scale, self.states)
            losses, slopes = self._losses(space, prepared)
        adam = self._adam()
        for batch, slope in ((audio, slopes.speech), (words, slopes.text)):
            self._call("descend", batch.arguments, slope.float().contiguous(), adam)
        of_scale = [of["log_scale"] for of in (self.stacked, self._first_moments, self._second_moments)]
        of_scale.append(slopes.log_scale.float())
        self.compiled.descend_scale(*map(_pointer, of_scale), _pointer(adam))
        self._limit_scales()
        self._adam_steps.fill_(self.steps_done + 1)
        return losses

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self.take(self.stacked, self._first_moments, self._second_moments)

    def take(self, stacked: dict[str, Tensor], first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
        """Train these parameters and moments, in place."""
        self.stacked, self._first_moments, self._second_moments = stacked, first, second
        self._copies = {side: stacked[f"{side}.weight"].bfloat16() for side in ("audio", "text")}
        self._batches = {}

    def _adam(self) -> _Adam:
        (config,), step = self._configs, self.steps_done + 1
        rate = config.learning_rate * config.schedule.factor(self.steps_done)
        return _Adam(rate / (1 - 0.9**step), (1 - 0.999**step) ** -0.5, config.weight_decay, 1e-8)

    def _project_batch(self, side: str, vectors: Tensor) -> _Batch:
        """Unit vectors of standardised `vectors` (B, D), in buffers that the next batch of as many writes again."""
        key = side, len(vectors)
        if key not in self._batches:
            self._batches[key] = self._buffers(side, len(vectors))
        batch = self._batches[key]
        self._call("pack", batch.arguments, vectors.float().contiguous())
        self._call("project", batch.arguments)
        return batch

    def _rank_n_contrast(
        self, audio: _Batch, words: _Batch, order: RankOrder, denominator: Denominator
    ) -> tuple[Tensor, Slopes]:
        """`Ranking.space_gradient`, by the source."""
        each = (order.candidates.long(), order.since.long(), order.until.long())
        batch = len(each[0])
        sums = torch.empty(2, 1, batch, dtype=torch.float64)
        slopes = torch.empty(2, 1, batch, self.dim)
        gradients = torch.empty(2, batch, batch)
        out = _Slopes(*(pair[side].data_ptr() for pair in (sums, slopes, gradients) for side in (0, 1)))
        counted = max(1, int(order.kept())) if denominator == "beyond" else batch**2
        pointers = (tensor.data_ptr() for tensor in each)
        named = _Order(*pointers, _DENOMINATORS.index(denominator), 1 / counted)
        self._call("rank_n_contrast", audio.arguments, words.arguments, self.stacked["log_scale"], named, out)
        losses, of_scales = sums.sum(-1).float()
        return losses, Slopes(slopes[0], slopes[1], of_scales)

    def _buffers(self, side: str, batch: int) -> _Batch:
        weight, bias = self.stacked[f"{side}.weight"], self.stacked[f"{side}.bias"]
        inputs, filled = weight.shape[1], batch + batch % 2
        half = torch.bfloat16
        tensors = {
            "across": torch.empty(inputs * batch, dtype=half),
            "down": torch.empty(inputs * filled, dtype=half),
            "weight": weight,
            "first": self._first_moments[f"{side}.weight"],
            "second": self._second_moments[f"{side}.weight"],
            "copy": self._copies[side],
            "bias": bias,
            "bias_first": self._first_moments[f"{side}.bias"],
            "bias_second": self._second_moments[f"{side}.bias"],
            "outputs": torch.empty(self.dim, batch),
            "unit": torch.empty(1, batch, self.dim),
            "length": torch.empty(1, batch, 1),
            "slopes": torch.zeros(self.dim, filled, dtype=half),
            "gradient": torch.empty(_MAX_THREADS, _ROWS * inputs),
        }
        numbers = self.dim, inputs, batch, self.activation == "relu", 1
        return _Batch(_Side(*numbers, EPSILON, *(tensors[name].data_ptr() for name in _POINTERS)), tensors)

    def _call(self, name: str, arguments: _Side, *rest: Any) -> None:
        arguments.threads = self.threads or min(torch.get_num_threads(), _MAX_THREADS)
        if not getattr(self.compiled, name)(ctypes.byref(arguments), *map(_pointer, rest)):
            raise Unavailable("PyTorch has no bfloat16 product for this CPU")


def _pointer(value: Any) -> Any:
    return ctypes.c_void_p(value.data_ptr()) if isinstance(value, Tensor) else ctypes.byref(value)


class FusedStack(BatchedHeads):
    """C configurations, each by `FusedHeads` on a core of its own.

    Each takes all the batches that `steps` is given before the next one does, so that its weights stay in the cache.
    """

    def __init__(self, configs: Sequence[HeadsConfig]) -> None:
        members = [FusedHeads([config]) for config in configs]
        super().__init__(configs)
        self._members = members
        self._share()

    def _share(self) -> None:
        """The members' parameters and moments are rows of the stacked ones."""
        for c, member in enumerate(self._members):
            member.threads, member.steps_done = 1, self.steps_done
            member.take(*(self._rows(of, c) for of in (self.stacked, self._first_moments, self._second_moments)))
            member._adam_steps, member.states = self._adam_steps[c : c + 1], [self.states[c]]

    def steps(self, batches: Sequence[Batch]) -> list[Tensor]:
        """`step` on each batch in turn."""

        def train(member: FusedHeads, objective: int) -> Tensor:
            torch.set_num_threads(1)  # of this thread
            losses = [member.step(speech, text, [each[objective]]) for speech, text, each in batches]
            return torch.cat(losses)

        with threads_restored(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            losses = torch.stack(list(pool.map(train, self._members, self._objective_of)), 1)
        self.steps_done += len(batches)
        return list(losses)

    def step(self, speech: Tensor, text: Tensor, prepared: Sequence[Any]) -> Tensor:
        return self.steps([(speech, text, prepared)])[0]

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self._share()


def fused_heads(configs: Sequence[HeadsConfig]) -> BatchedHeads:
    """`FusedHeads` or, of several, a `FusedStack`; `BatchedHeads`, with a line that says why, where it cannot be."""
    try:
        return FusedHeads(configs) if len(configs) == 1 else FusedStack(configs)
    except Unavailable as error:
        log.warning(f"step=fused: {error}; trained in float32 instead")
        return BatchedHeads(configs)


@functools.cache
def _probe(library: ctypes.CDLL, inputs: tuple[int, int], dim: int) -> None:
    """One step of each form on batches made up: a wrong product of a library must never train heads (F52)."""
    generator = torch.Generator().manual_seed(0)
    heads = Heads(*inputs, dim=dim, activation="identity")  # a ReLU that rounding turns moves a gradient by a tenth
    heads.initialise(0)
    config = HeadsConfig(heads, Ranking(RankingConfig()), 1e-3)
    for size in _PROBES:
        speech, text = (torch.randn(size, width, generator=generator) for width in inputs)
        order = [label_order(torch.rand(size, 2, generator=generator, dtype=torch.float64))]
        forms = [BatchedHeads([config]), FusedHeads([config], library)]
        (loss,), (found_loss,) = (form.step(speech, text, order) for form in forms)
        off = {"the loss": float((found_loss - loss).abs() / loss)}
        for name in forms[0].trained:
            expected, found = (form.checkpoint()[f"first.{name}"] for form in forms)  # a tenth of the gradient
            if name != "log_scale":  # one number, of terms that cancel
                off[f"the gradient of {name}"] = float((found - expected).norm() / expected.norm())
        if wrong := [f"{name} is {difference:.1%} off" for name, difference in off.items() if not difference < _LIMIT]:
            raise Unavailable(f"its products are wrong on this CPU ({', '.join(wrong)})")
