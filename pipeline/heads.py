"""The trained part: two projection heads and a temperature (F1, F7, F8), and their file.

speech (Da) -> standardise -> Linear -> ReLU -> unit length
text   (Dt) -> standardise -> Linear -> ReLU -> unit length      similarity = cosine / temperature
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import StoreCorrupt

MAX_SCALE = 100.0  # 1 / temperature is clamped here from above, and nowhere from below (F8)
EPSILON = 1e-8  # a ReLU row can be all zero (F7)
FORMAT = "emotionrankclap-heads/1"
_METADATA = "emotionrankclap"


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
        heads = Heads(**metadata["heads"])
        heads.load_state_dict(tensors, strict=True)
        about: dict[str, Any] = dict(metadata["about"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        found = " ".join(str(error).split())[:160]
        raise StoreCorrupt(
            path, f"no heads of this release ({found})", "heads.safetensors", "Train them again."
        ) from None
    return heads.eval(), about


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> None:
    """Write safetensors and JSON `metadata`, whole or not at all. Equal contents give equal bytes."""
    partial = path.with_name(path.name + ".partial")
    said = {_METADATA: json.dumps(metadata)}  # one key: safetensors writes several in a random order
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial, said)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read safetensors and its metadata. Raises StoreCorrupt when it cannot be read or is not ours."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})[_METADATA])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        found = " ".join(str(error).split())[:160]
        raise StoreCorrupt(
            path, f"cannot be read ({found})", "a file of train-heads", "Train the heads again."
        ) from None
