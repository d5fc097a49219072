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
from pipeline.extraction.encoders.base import Encoder, exact_inference

log = logging.getLogger(__name__)

_PLACES = {"model", "revision", "encoder", "batch_seconds", "batch_size", "max_seconds", "crop"}  # or in the decoding
_LAYERS = {"layers", "poolings"}  # of built-in encoders alone
_MAX_DEPTH = 8  # objects within objects that are searched for weights
_NO_STATE = (type, ModuleType, FunctionType, MethodType, str, bytes, int, float, type(None))


@dataclass(frozen=True)
class CustomEncoder(Encoder[Any]):
    """An encoder around an object of a user's class: `encode`, or `prepare` and `compute` as `Encoder` has them."""

    part: Plugin
    inner: Any
    dim: int
    declared: dict[str, Any]
    sample_rate: int | None = None  # Hz, of a speech encoder

    def prepare(self, inputs: Sequence[Any]) -> Any:
        """(B,) inputs as they are, or what its own `prepare` makes of them."""
        lengths = [len(each) for each in inputs]
        with translate_errors(self.part, self.part.source, f"inputs prepared that are {_of(lengths)}"):
            return lengths, self.inner.prepare(list(inputs)) if _two_steps(self.inner) else list(inputs)

    def compute(self, prepared: Any) -> Tensor:
        """-> (B, dim) float32 on the CPU. Raises EmotionRankError for anything else."""
        lengths, inputs = prepared
        if not lengths:
            return torch.empty(0, self.dim)
        expected = f"vectors ({len(lengths)}, {self.dim}) of inputs {_of(lengths)}"
        with exact_inference(), translate_errors(self.part, self.part.source, expected):
            vectors = self.inner.compute(inputs) if _two_steps(self.inner) else self.inner.encode(inputs)
            if isinstance(vectors, np.ndarray):
                vectors = torch.tensor(vectors)
            size = (len(lengths), self.dim)
            if not isinstance(vectors, Tensor) or vectors.shape != size or not vectors.is_floating_point():
                shape = f" of shape {tuple(vectors.shape)}, {vectors.dtype}" if isinstance(vectors, Tensor) else ""
                found = f"it returned a {type(vectors).__name__}{shape}"
                raise EmotionRankError(self.part, found, f"floats of shape {size}", "Correct encode, or dim.")
            return vectors.detach().to("cpu", torch.float32).contiguous()

    def encode(self, inputs: Sequence[Any]) -> Tensor:
        """Both steps. Raises EmotionRankError also for vectors that are not finite, which cost a store their row."""
        vectors = super().encode(inputs)
        if not vectors.isfinite().all():
            found = f"{int((~vectors.isfinite()).any(1).sum())} of {len(vectors)} vectors are not finite"
            raise EmotionRankError(self.part, found, "finite ones", "Correct the code, or leave the input out.")
        return vectors


def load_custom_encoder(kind: Literal["audio", "text"], config: AudioConfig | TextConfig, device: str) -> CustomEncoder:
    """The registered encoder that `config` names. Raises UsageError, also for what its own code raises."""
    if config.layers is not None:
        found = f"{kind}.layers with {config.encoder}"
        raise UsageError(f"{kind}.layers", found, "a built-in encoder", "Concatenate them in encode.")
    part = find("audio encoder" if kind == "audio" else "text encoder", config.encoder)
    with translate_errors(part, part.source, "an encoder made of (config, device)", kind=UsageError):
        inner = part.make(config, device)
        size = "width" if hasattr(inner, "width") and not hasattr(inner, "dim") else "dim"  # width: its earlier name
        dim = _whole(part, inner, size, 2**20)
        if not callable(getattr(inner, "encode", None)) and not _two_steps(inner):
            found = f"a {type(inner).__name__} without encode"
            raise UsageError(part, found, "encode(inputs) -> (B, dim)", "Give its class that method.")
        for _, held in _held(inner, "", set(), 0):
            if isinstance(held, nn.Module):
                held.eval()  # a frozen encoder has no dropout
        declared = _declared(part, inner, config)
    if kind == "text":
        return CustomEncoder(part, inner, dim, declared)
    rate = _whole(part, inner, "sample_rate", 384_000)
    return CustomEncoder(part, inner, dim, declared | {"sample_rate": rate}, rate)


def _of(lengths: Sequence[int]) -> str:
    """How long inputs are, so that the odd one is found."""
    least, most = min(lengths, default=0), max(lengths, default=0)
    return f"{least} long" if least == most else f"{least} to {most} long"


def _two_steps(inner: Any) -> bool:
    return callable(getattr(inner, "prepare", None)) and callable(getattr(inner, "compute", None))


def _whole(part: Plugin, inner: Any, name: str, most: int) -> int:
    value = getattr(inner, name, None)
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(part, f"{name} {value!r:.60}", f"a whole number from 1 to {most}", "Set it in its class.")
    return int(value)


def _declared(part: Plugin, inner: Any, config: AudioConfig | TextConfig) -> dict[str, Any]:
    weights = sha256_of(inner)
    if weights is None:
        log.warning(f"{part}: no weights found in it; only its version ({part.version}) tells its code from other code")
    own = inner.fingerprint() if callable(getattr(inner, "fingerprint", None)) else {}
    try:
        canonical(own)
        own = dict(own)
    except (TypeError, ValueError):
        found = f"a fingerprint of {type(own).__name__}"
        raise UsageError(part, found, "a dict that JSON can hold", "Correct fingerprint.") from None
    settings = config.model_dump(mode="json", exclude=_PLACES | _LAYERS)
    named = {"encoder": part.name, "version": part.version}
    return {**named, "weights_sha256": weights, "settings": settings, "own": own}


def sha256_of(encoder: Any) -> str | None:
    """One hash over every tensor and array that an object holds, by name; None where it holds none."""
    digest, count = hashlib.sha256(), 0
    for name, held in _held(encoder, "", set(), 0):
        if isinstance(held, nn.Module):
            tensors = {f"{name}.{key}": value for key, value in held.state_dict().items()}
        elif isinstance(held, Tensor):
            tensors = {name: held}
        else:
            tensors = {name: torch.tensor(np.ascontiguousarray(held))} if held.dtype.kind in "biufc" else {}
        for key, tensor in tensors.items():
            if isinstance(tensor, Tensor):  # a module's state may hold more
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                count += 1
    return digest.hexdigest() if count else None


def _held(thing: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """The modules, tensors and arrays in an object, in its attributes, in containers, each once, by name.

    A module's parameters are in its state dict; only what is outside of it is searched.
    """
    if id(thing) in seen or depth > _MAX_DEPTH or isinstance(thing, _NO_STATE):
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module | Tensor | np.ndarray):
        yield name, thing
    if isinstance(thing, Tensor | np.ndarray):
        return
    if isinstance(thing, Mapping):
        parts = sorted(((str(key), value) for key, value in thing.items()), key=itemgetter(0))
    elif isinstance(thing, list | tuple):
        parts = [(str(place), value) for place, value in enumerate(thing)]
    else:
        attributes = sorted(getattr(thing, "__dict__", {}).items())
        parts = [(key, value) for key, value in attributes if not (isinstance(thing, nn.Module) and key[:1] == "_")]
    for key, inside in parts:
        yield from _held(inside, f"{name}.{key}", seen, depth + 1)
