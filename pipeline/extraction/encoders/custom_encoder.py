"""A plugin's encoder as an `Encoder`: its fingerprint, with a hash of its weights, and its vectors checked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import FunctionType, MethodType, ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cache.fingerprint import canonical
from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.core.plugins import Plugin, find, translate_errors
from pipeline.extraction.encoders.base import TwoSteps, exact_inference

log = logging.getLogger(__name__)

_PLACES = {"model", "revision", "encoder", "batch_seconds", "batch_size", "max_seconds", "crop"}  # or in the decoding
_MAX_DEPTH = 8  # objects within objects that are searched for weights
_NO_STATE = (type, ModuleType, FunctionType, MethodType, str, bytes, int, float, type(None))
_MAX_RATE = 384_000


@dataclass(frozen=True)
class CustomTextEncoder(TwoSteps):
    """A TextEncoder around an object of a user's class: `encode`, or `prepare` and `compute` as `Encoder` has them."""

    part: Plugin
    inner: Any
    dim: int
    declared: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """Its name, version, settings and weights, and what its own `fingerprint` adds."""
        return dict(self.declared)

    def prepare(self, inputs: Sequence[Any]) -> Any:
        """(B,) inputs as they are, or what its own `prepare` makes of them."""
        lengths = [len(each) for each in inputs]
        with translate_errors(self.part, self.part.source, f"inputs prepared that are {_of(lengths)}"):
            return lengths, self.inner.prepare(list(inputs)) if self._two_steps else list(inputs)

    def compute(self, prepared: Any) -> Tensor:
        """-> (B, dim) float32 on the CPU. Raises EmotionRankError for anything else."""
        lengths, inputs = prepared
        if not lengths:
            return torch.empty(0, self.dim)
        expected = f"vectors ({len(lengths)}, {self.dim}) of inputs {_of(lengths)}"
        with exact_inference(), translate_errors(self.part, self.part.source, expected):
            vectors = self.inner.compute(inputs) if self._two_steps else self.inner.encode(inputs)
            return self._checked(vectors, len(lengths))

    @property
    def _two_steps(self) -> bool:
        return _has(self.inner, "prepare") and _has(self.inner, "compute")

    def encode(self, inputs: Sequence[Any]) -> Tensor:
        """Both steps. Raises EmotionRankError also for vectors that are not finite, which cost a store their row."""
        vectors = self.compute(self.prepare(inputs))
        if not vectors.isfinite().all():
            found = f"{int((~vectors.isfinite()).any(1).sum())} of {len(vectors)} vectors are not finite"
            raise EmotionRankError(self.part, found, "finite ones", "Correct the code, or leave the input out.")
        return vectors

    def _checked(self, vectors: Any, count: int) -> Tensor:
        if isinstance(vectors, np.ndarray):
            vectors = torch.tensor(vectors)
        right = isinstance(vectors, Tensor) and vectors.shape == (count, self.dim) and vectors.is_floating_point()
        if not right:
            shape = f" of shape {tuple(vectors.shape)}, {vectors.dtype}" if isinstance(vectors, Tensor) else ""
            found, wanted = f"it returned a {type(vectors).__name__}{shape}", f"floats of shape ({count}, {self.dim})"
            raise EmotionRankError(self.part, found, wanted, "Correct encode, or dim.")
        checked: Tensor = vectors.detach().to("cpu", torch.float32).contiguous()
        return checked


@dataclass(frozen=True)
class CustomSpeechEncoder(CustomTextEncoder):
    """An AudioEncoder, likewise."""

    sample_rate: int


def load_custom_encoder(
    kind: Literal["audio", "text"], config: AudioConfig | TextConfig, device: str
) -> CustomTextEncoder:
    """The registered encoder that `config` names. Raises UsageError, also for what its own code raises."""
    part = find("audio encoder" if kind == "audio" else "text encoder", config.encoder)
    inner, dim, declared = _loaded(part, config, device)
    if kind == "text":
        return CustomTextEncoder(part, inner, dim, declared)
    rate = _whole(part, inner, "sample_rate", _MAX_RATE)
    return CustomSpeechEncoder(part, inner, dim, declared | {"sample_rate": rate}, rate)


def _loaded(part: Plugin, config: AudioConfig | TextConfig, device: str) -> tuple[Any, int, dict[str, Any]]:
    """The object, its dim and its fingerprint."""
    with translate_errors(part, part.source, "an encoder made of (config, device)", kind=UsageError):
        inner = part.make(config, device)
        size = "width" if hasattr(inner, "width") and not hasattr(inner, "dim") else "dim"  # width: its earlier name
        dim = _whole(part, inner, size, 2**20)
        if not _has(inner, "encode") and not (_has(inner, "prepare") and _has(inner, "compute")):
            found = f"a {type(inner).__name__} without encode"
            raise UsageError(part, found, "encode(inputs) -> (B, dim)", "Give its class that method.")
        for _, held in _held(inner, "", set(), 0):
            if isinstance(held, nn.Module):
                held.eval()  # a frozen encoder has no dropout
        declared = _declared(part, inner, config)
    return inner, dim, declared


def _of(lengths: Sequence[int]) -> str:
    """How long inputs are, so that the odd one is found."""
    least, most = min(lengths, default=0), max(lengths, default=0)
    return f"{least} long" if least == most else f"{least} to {most} long"


def _has(inner: Any, method: str) -> bool:
    return callable(getattr(inner, method, None))


def _whole(part: Plugin, inner: Any, name: str, most: int) -> int:
    value = getattr(inner, name, None)
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(part, f"{name} {value!r:.60}", f"a whole number from 1 to {most}", "Set it in its class.")
    return int(value)


def _declared(part: Plugin, inner: Any, config: AudioConfig | TextConfig) -> dict[str, Any]:
    weights = sha256_of(inner)
    if weights is None:
        log.warning(f"{part}: no weights found in it; only its version ({part.version}) tells its code from other code")
    own = getattr(inner, "fingerprint", None)
    return {
        "encoder": part.name,
        "version": part.version,
        "weights_sha256": weights,
        "settings": config.model_dump(mode="json", exclude=_PLACES),
        "own": _plain(part, own()) if callable(own) else {},
    }


def _plain(part: Plugin, fields: Any) -> dict[str, Any]:
    try:
        canonical(fields)
        return dict(fields)
    except (TypeError, ValueError):
        raise UsageError(
            part, f"a fingerprint of {type(fields).__name__}", "a dict that JSON can hold", "Correct fingerprint."
        ) from None


def sha256_of(encoder: Any) -> str | None:
    """One hash over every tensor and array that an object holds, by name; None where it holds none."""
    digest, count = hashlib.sha256(), 0
    for name, tensor in _tensors(encoder):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
        count += 1
    return digest.hexdigest() if count else None


def _tensors(encoder: Any) -> Iterator[tuple[str, Tensor]]:
    for name, held in _held(encoder, "", set(), 0):
        if isinstance(held, nn.Module):
            state = held.state_dict()
            yield from ((f"{name}.{key}", value) for key, value in state.items() if isinstance(value, Tensor))
        elif isinstance(held, Tensor):
            yield name, held
        elif held.dtype.kind in "biufc":
            yield name, torch.tensor(np.ascontiguousarray(held))


def _held(thing: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """The modules, tensors and arrays in an object, in its attributes, in containers, each once, by name."""
    if id(thing) in seen or depth > _MAX_DEPTH or isinstance(thing, _NO_STATE):
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module | Tensor | np.ndarray):
        yield name, thing
    for key, inside in _inside(thing):
        yield from _held(inside, f"{name}.{key}", seen, depth + 1)


def _inside(thing: Any) -> list[tuple[str, Any]]:
    """What an object holds, by name. A module's parts are its own business, but for what it does not know of."""
    if isinstance(thing, Mapping):
        return sorted(((str(key), value) for key, value in thing.items()), key=itemgetter(0))
    if isinstance(thing, list | tuple):
        return [(str(place), value) for place, value in enumerate(thing)]
    if isinstance(thing, Tensor | np.ndarray):
        return []
    own = sorted(getattr(thing, "__dict__", {}).items())
    return [(key, value) for key, value in own if not (isinstance(thing, nn.Module) and key.startswith("_"))]
