"""The trained part: two projection heads and a temperature (F1, F7, F8), and their file.

speech (Da) -> standardise -> Linear -> ReLU -> unit length
text   (Dt) -> standardise -> Linear -> ReLU -> unit length      similarity = cosine / temperature
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cache.disk import write_atomic
from pipeline.core.errors import StoreCorrupt

MAX_SCALE = 100.0  # 1 / temperature is clamped here from above, and nowhere from below (F8)
EPSILON = 1e-8  # a ReLU row can be all zero (F7)
FORMAT = "emotionrankclap-heads/2"  # 1 had no checksum
ACTIVATIONS = ("relu", "identity")
_METADATA, _CHECKSUM = "emotionrankclap", "checksum"
_LENGTH = 8  # bytes of a safetensors file that say how long its header is
_BROKEN = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)  # RecursionError is a RuntimeError


class Heads(nn.Module):
    """Projection heads into one `width`-dimensional space.

    `activation` is "relu" (the paper's; cosines then lie in [0, 1]) or "identity". The standardisation is saved with
    the heads; mean 0 and spread 1 leave the features as they are.
    """

    def __init__(self, audio_width: int, text_width: int, *, width: int = 512, activation: str = "relu") -> None:
        super().__init__()
        self.audio = nn.Linear(audio_width, width)
        self.text = nn.Linear(text_width, width)
        self.log_scale = nn.Parameter(torch.zeros(()))  # log(1 / temperature)
        self.activation = activation
        for name, size in (("audio", audio_width), ("text", text_width)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))

    audio_mean: Tensor
    audio_spread: Tensor
    text_mean: Tensor
    text_spread: Tensor

    def initialise(self, seed: int, temperature: float = 1.0) -> None:
        """torch's default for Linear layers, uniform within 1 / sqrt(inputs), drawn from `seed` alone."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.audio, self.text):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in (layer.weight, layer.bias):
                    parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
            self.log_scale.fill_(-math.log(temperature))

    def standardise(self, speech: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Features as the Linear layers see them; done once for a whole training set."""
        return self.standardised("audio", speech), self.standardised("text", text)

    def standardised(self, side: str, vectors: Tensor) -> Tensor:
        """The features of one `side`, "audio" or "text"; the tensor itself, no copy, where there is nothing to do."""
        mean, spread = getattr(self, f"{side}_mean"), getattr(self, f"{side}_spread")
        return (vectors - mean) / spread if mean.any() or (spread != 1).any() else vectors

    def project(self, speech: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised (..., Da) and (..., Dt) -> unit vectors (..., width)."""
        return self._unit(self.audio(speech)), self._unit(self.text(text))

    def embed_speech(self, speech: Tensor) -> Tensor:
        """(n, Da) encoder vectors -> (n, width) unit vectors."""
        return self._unit(self.audio(self.standardised("audio", speech)))

    def embed_text(self, text: Tensor) -> Tensor:
        """(n, Dt) encoder vectors -> (n, width) unit vectors."""
        return self._unit(self.text(self.standardised("text", text)))

    @property
    def temperature(self) -> float:
        return math.exp(-self.log_scale.item())

    def clamp_scale(self) -> None:
        """Keep 1 / temperature at most MAX_SCALE; called after each step."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def _unit(self, projected: Tensor) -> Tensor:
        if self.activation == "relu":
            projected = projected.relu()
        return nn.functional.normalize(projected, dim=-1, eps=EPSILON)


def save_heads(heads: Heads, path: Path, about: dict[str, Any]) -> None:
    """Write `heads` as safetensors, whole or not at all; `about` (JSON) goes into the file's metadata."""
    sizes = {"audio_width": heads.audio.in_features, "text_width": heads.text.in_features}
    shape = sizes | {"width": heads.audio.out_features, "activation": heads.activation}
    save_tensors(heads.state_dict(), path, {"format": FORMAT, "heads": shape, "about": about})


def load_heads(path: Path) -> tuple[Heads, dict[str, Any]]:
    """Read heads and what was said about them. Nothing is unpickled.

    Raises StoreCorrupt when the file is missing, damaged, or holds anything else.
    """
    tensors, metadata = load_tensors(path)
    try:
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']}")
        heads = _described(metadata["heads"])
        heads.load_state_dict(tensors, strict=True, assign=True)
        _refuse_useless(heads)
        about: dict[str, Any] = dict(metadata["about"])
    except _BROKEN as error:
        raise StoreCorrupt(
            path, f"no heads of this release ({one_line_reason(error)})", "heads.safetensors", "Train them again."
        ) from None
    return heads.eval(), about


def _described(shape: Mapping[str, Any]) -> Heads:
    """Heads without memory: a file's description costs nothing until tensors of that shape are there."""
    sizes = [shape[name] for name in ("audio_width", "text_width", "width")]
    if any(type(size) is not int or size < 1 for size in sizes) or shape["activation"] not in ACTIVATIONS:
        raise ValueError(f"described as {dict(shape)}")
    with torch.device("meta"):
        return Heads(**shape)


def _refuse_useless(heads: Heads) -> None:
    for name, tensor in heads.state_dict().items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}")
        if not tensor.isfinite().all() or (name.endswith("_spread") and not (tensor > 0).all()):
            raise ValueError(f"{name} has values that no training gives")


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write safetensors and JSON `metadata`, whole or not at all. Equal contents give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    said = {**metadata, _CHECKSUM: _checksum(tensors, metadata)}
    # one key: safetensors writes several in a random order. Not its save_file: killed, that leaves files of its own
    contents = save(tensors, {_METADATA: json.dumps(said)})
    write_atomic(path, [contents])


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read safetensors and its metadata. Raises StoreCorrupt when it cannot be read, is not ours, or has changed."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError("no such file")
        contents = path.read_bytes()  # at once: safe_open opens a file twice, and it may be replaced in between
        tensors = load(contents)
        header = json.loads(contents[_LENGTH : _LENGTH + int.from_bytes(contents[:_LENGTH], "little")])
        metadata: dict[str, Any] = json.loads(header["__metadata__"][_METADATA])
        if _CHECKSUM not in metadata:
            raise ValueError("no checksum; of an earlier release?")
        if metadata.pop(_CHECKSUM) != _checksum(tensors, metadata):
            raise ValueError("its bytes do not match their checksum")
    except (OSError, SafetensorError, *_BROKEN) as error:
        raise StoreCorrupt(
            path, f"cannot be read ({one_line_reason(error)})", "a file of train-heads", "Train the heads again."
        ) from None
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> int:
    """CRC-32 of names, types, shapes, values and metadata: 4 ms for a checkpoint of the paper's heads."""
    crc = zlib.crc32(json.dumps(metadata).encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode("utf-8", "surrogatepass"), crc)
        crc = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def one_line_reason(error: BaseException) -> str:
    """What went wrong, on one line that a terminal can be shown."""
    words = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:160]
