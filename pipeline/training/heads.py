"""What stage two trains: two projection heads and a temperature (F1, F7, F8), and their file.

speech (Da) -> standardise -> Linear -> ReLU -> unit length
text   (Dt) -> standardise -> Linear -> ReLU -> unit length      similarity = cosine / temperature

Where a side's layers are weighted, its L layers lie one after the other in a vector, (L * D), and are summed to (D)
after standardising.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cache.disk import write_atomic
from pipeline.core.errors import StoreCorrupt, UsageError
from pipeline.core.files import require_short_header
from pipeline.objectives.space import EPSILON

BLOCK_ROWS = 2**13  # of vectors that are standardised and projected at once
MAX_SCALE = 100.0  # 1 / temperature is clamped here from above, and nowhere from below (F8)
HEADS_FORMAT = "emotionrankclap-heads/2"  # 1 had no checksum
_FILE_NAMES = {"audio_std": "audio_spread", "text_std": "text_spread"}  # of the state dict -> of the file
_LAYERS = "audio_layers", "text_layers"  # of the file's description, where there are several
_METADATA, _CHECKSUM = "emotionrankclap", "checksum"
_LENGTH_BYTES = 8  # bytes of a safetensors file that hold the length of its header
_INVALID = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)  # RecursionError is a RuntimeError


class LayerSum(nn.Module):
    """scale * sum of softmax(logits)_l x_l over the L layers of a vector: SUPERB's weighted sum, s3prl's `Featurizer`.

    s3prl starts from zeros, as here, and has no scale; with one (ELMo's gamma) the sum may be of any size.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(layers))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., L * D) -> (..., D)."""
        summed: Tensor = self.scale * (self.logits.softmax(0) @ by_layer(vectors, len(self.logits)))
        return summed


def by_layer(vectors: Tensor, layers: int) -> Tensor:
    """(..., L * D) -> (..., L, D)."""
    return vectors.reshape(*vectors.shape[:-1], layers, vectors.shape[-1] // layers)  # -1 has no meaning for no rows


class Heads(nn.Module):
    """Projection heads into one space of `dim` dimensions, from `audio_dim` and `text_dim` numbers.

    `activation` is "relu" (the paper's; cosines then lie in [0, 1]) or "identity". The standardisation is saved with
    the heads; mean 0 and standard deviation 1 leave the features as they are. `audio_layers` and `text_layers` are how
    many layers in a vector are summed with weights; 1 is a vector as it is.
    """

    audio_mean: Tensor
    audio_std: Tensor
    text_mean: Tensor
    text_std: Tensor

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        *,
        dim: int = 512,
        activation: str = "relu",
        audio_layers: int = 1,
        text_layers: int = 1,
    ) -> None:
        super().__init__()
        self.audio = nn.Linear(audio_dim // audio_layers, dim)
        self.text = nn.Linear(text_dim // text_layers, dim)
        self.audio_sum = LayerSum(audio_layers) if audio_layers > 1 else None
        self.text_sum = LayerSum(text_layers) if text_layers > 1 else None
        self.log_scale = nn.Parameter(torch.zeros(()))  # log(1 / temperature)
        self.activation = activation
        for side, size in (("audio", audio_dim), ("text", text_dim)):
            self.register_buffer(f"{side}_mean", torch.zeros(size))
            self.register_buffer(f"{side}_std", torch.ones(size))

    def initialise(self, seed: int, temperature: float = 1.0) -> None:
        """torch's default for Linear layers, uniform within 1 / sqrt(inputs), drawn from `seed` alone."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.audio, self.text):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in (layer.weight, layer.bias):
                    parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
            self.log_scale.fill_(-math.log(temperature))
            for layer_sum in filter(None, (self.audio_sum, self.text_sum)):
                layer_sum.logits.zero_()
                layer_sum.scale.fill_(1.0)

    def standardise(self, speech: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Features as the Linear layers take them."""
        return self.standardise_side("audio", speech), self.standardise_side("text", text)

    def standardise_side(self, side: str, vectors: Tensor) -> Tensor:
        """The features of a `side`, "audio" or "text"; the tensor itself, no copy, where there is nothing to do."""
        if not self.standardises(side):
            return vectors
        changed: Tensor = (vectors - getattr(self, f"{side}_mean")).div_(getattr(self, f"{side}_std"))
        return changed

    def standardises(self, side: str) -> bool:
        """Whether the mean and std of a `side` change its features."""
        return bool(getattr(self, f"{side}_mean").any() or (getattr(self, f"{side}_std") != 1).any())

    def project(self, speech: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised (..., Da) and (..., Dt) -> unit vectors (..., dim)."""
        return self._project_side("audio", speech), self._project_side("text", text)

    def embed_speech(self, speech: Tensor) -> Tensor:
        """(n, Da) encoder vectors -> (n, dim) unit vectors."""
        return self._embed_side("audio", speech)

    def embed_text(self, text: Tensor) -> Tensor:
        """(n, Dt) encoder vectors -> (n, dim) unit vectors."""
        return self._embed_side("text", text)

    def _embed_side(self, side: str, vectors: Tensor) -> Tensor:
        """Of many rows block by block: a standardised copy of all would take the memory of the vectors again."""
        if vectors.dim() != 2 or len(vectors) <= BLOCK_ROWS:
            return self._project_side(side, self.standardise_side(side, vectors))
        embedded = vectors.new_empty(len(vectors), self.audio.out_features)
        blocks = -(-len(vectors) // BLOCK_ROWS)  # as equal as can be: one row alone is rounded otherwise
        bounds = [len(vectors) * block // blocks for block in range(blocks + 1)]
        for start, stop in pairwise(bounds):
            embedded[start:stop] = self._project_side(side, self.standardise_side(side, vectors[start:stop]))
        return embedded

    def sum_layers(self, side: str, vectors: Tensor) -> Tensor:
        """Standardised vectors as the Linear layer of `side` takes them: where they have several layers, their sum."""
        layer_sum = getattr(self, f"{side}_sum")
        summed: Tensor = vectors if layer_sum is None else layer_sum(vectors)
        return summed

    def _project_side(self, side: str, vectors: Tensor) -> Tensor:
        return self._normalise(getattr(self, side)(self.sum_layers(side, vectors)))

    @property
    def input_dims(self) -> tuple[int, int]:
        """Numbers in a vector of speech and of text, all layers."""
        return len(self.audio_mean), len(self.text_mean)

    @property
    def layers(self) -> tuple[int, int]:
        """Layers that are summed in a vector of speech and of text."""
        sums = self.audio_sum, self.text_sum
        return tuple(1 if each is None else len(each.logits) for each in sums)  # type: ignore[return-value]

    def untrained(self, dim: int, activation: str) -> Heads:
        """Heads for the same vectors, with their standardisation."""
        audio_layers, text_layers = self.layers
        like: dict[str, Any] = {"audio_layers": audio_layers, "text_layers": text_layers}
        heads = Heads(*self.input_dims, dim=dim, activation=activation, **like)
        heads.load_state_dict(dict(self.named_buffers()), strict=False)
        return heads

    def unchanged(self) -> Heads:
        """Heads for the same vectors whose embeddings are these, standardised as here, at unit length.

        Raises UsageError where speech and text have other dimensions: two encoders that share no space.
        """
        speech, text = self.input_dims
        if speech != text:
            found = f"vectors of {speech} numbers for speech and of {text} for text"
            action = "Extract with both encoders of one model, or train heads."
            raise UsageError("objective no_heads", found, "one space for both", action)
        heads = self.untrained(speech, "identity")
        with torch.no_grad():
            for layer in (heads.audio, heads.text):
                layer.weight.copy_(torch.eye(speech))
                layer.bias.zero_()
        return heads

    @property
    def temperature(self) -> float:
        return math.exp(-self.log_scale.item())

    def clamp_scale(self) -> None:
        """Keep 1 / temperature at most MAX_SCALE; called after each step."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def _normalise(self, projected: Tensor) -> Tensor:
        if self.activation == "relu":
            projected = projected.relu()
        return nn.functional.normalize(projected, dim=-1, eps=EPSILON)


def file_tensors(heads: Heads) -> dict[str, Tensor]:
    """The state dict of `heads` under the names that heads.safetensors has for it."""
    return {_FILE_NAMES.get(name, name): tensor for name, tensor in heads.state_dict().items()}


def save_heads(heads: Heads, path: Path, about: dict[str, Any]) -> None:
    """Write `heads` as safetensors, whole or not at all; `about` (JSON) goes into the file's metadata."""
    sizes = dict(zip(("audio_width", "text_width"), heads.input_dims, strict=True))
    shape = sizes | {"width": heads.audio.out_features, "activation": heads.activation}
    shape |= {name: count for name, count in zip(_LAYERS, heads.layers, strict=True) if count > 1}
    save_tensors(file_tensors(heads), path, {"format": HEADS_FORMAT, "heads": shape, "about": about})


def load_heads(path: Path) -> tuple[Heads, dict[str, Any]]:
    """Read heads and the `about` they were saved with. Nothing is unpickled.

    Raises StoreCorrupt where the file is missing or corrupt, or holds anything else.
    """
    tensors, metadata = load_tensors(path, short_header=True)
    try:
        if metadata["format"] != HEADS_FORMAT:
            raise ValueError(f"format {metadata['format']}")
        shape = metadata["heads"]
        sizes = [shape[name] for name in ("audio_width", "text_width", "width")]
        layers = {name: shape[name] for name in _LAYERS if name in shape}
        whole = all(type(size) is int and size >= 1 for size in (*sizes, *layers.values()))
        if not whole or len(shape) > len(sizes) + 1 + len(layers) or shape["activation"] not in ("relu", "identity"):
            raise ValueError(f"described as {dict(shape)}")
        if any(size % layers.get(name, 1) for size, name in zip(sizes, _LAYERS, strict=False)):
            raise ValueError(f"layers of unequal size: {dict(shape)}")
        with torch.device("meta"):  # without memory: a description costs nothing until tensors of that shape are there
            heads = Heads(*sizes[:2], dim=sizes[2], activation=shape["activation"], **layers)
        names = {file_name: name for name, file_name in _FILE_NAMES.items()}
        heads.load_state_dict({names.get(name, name): tensor for name, tensor in tensors.items()}, assign=True)
        for name, tensor in heads.state_dict().items():
            if tensor.dtype != torch.float32:
                raise ValueError(f"{name} is {tensor.dtype}")
            if not tensor.isfinite().all() or (name in _FILE_NAMES and not (tensor > 0).all()):
                raise ValueError(f"{name} has values that no training gives")
        about: dict[str, Any] = dict(metadata["about"])
    except _INVALID as error:
        found = f"not heads of this release ({one_line_reason(error)})"
        raise StoreCorrupt(path, found, "heads.safetensors", "Train them again.") from None
    return heads.eval(), about


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write safetensors and JSON `metadata`, whole or not at all. Equal contents give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**metadata, _CHECKSUM: _checksum(tensors, metadata)})
    # one key: safetensors writes several in a random order. Not its save_file: killed, that leaves files of its own
    write_atomic(path, [save(tensors, {_METADATA: text})])


def load_tensors(path: Path, *, short_header: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read safetensors and its metadata. Raises StoreCorrupt when it cannot be read, is not ours, or has changed.

    Checkpoints have headers of many MB. With `short_header` such a file is refused unread.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError("no such file")
        with open(path, "rb") as file:
            if short_header:
                require_short_header(file)
            contents = file.read()  # at once: safe_open opens a file twice, and it may be replaced in between
        tensors = load(contents)
        header_end = _LENGTH_BYTES + int.from_bytes(contents[:_LENGTH_BYTES], "little")
        header = json.loads(contents[_LENGTH_BYTES:header_end])
        metadata: dict[str, Any] = json.loads(header["__metadata__"][_METADATA])
        if _CHECKSUM not in metadata:
            raise ValueError("no checksum; of an earlier release?")
        if metadata.pop(_CHECKSUM) != _checksum(tensors, metadata):
            raise ValueError("its bytes do not match their checksum")
    except (OSError, SafetensorError, *_INVALID) as error:
        found = f"cannot be read ({one_line_reason(error)})"
        raise StoreCorrupt(path, found, "a file of train-heads", "Train the heads again.") from None
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
