"""A trained model on the tasks of mteb 2, which runs MAEB (arXiv 2602.16008). Needs the extra `mteb`.

import mteb
from pipeline import MtebEncoder
mteb.evaluate(MtebEncoder("exported/erc"), mteb.get_tasks(tasks=["RavdessZeroshot", "CREMA_D"]))
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import UsageError, required_library
from pipeline.inference.model import EmotionRankCLAP


class MtebEncoder:
    """What mteb's `EncoderProtocol` asks for. The class is the `loader` of a `ModelMeta` too.

    Attributes:
        model: the `EmotionRankCLAP`.
        mteb_model_meta: mteb's `ModelMeta`: name, revision, embedding dimension, modalities. mteb files results by name
            and revision, so where no revision is given it is a hash of the heads and of both encoders' fingerprints.
    """

    def __init__(
        self, model_name: str | Path | EmotionRankCLAP, revision: str | None = None, *, name: str | None = None,
        device: str | None = None, batch_size: int = 1, **folders: Any,
    ) -> None:  # fmt: skip
        """`model_name` is a folder, a hub name, or a model that is open already.

        Args:
            model_name: as `EmotionRankCLAP.from_pretrained` takes it.
            revision: of a hub's model.
            name: "owner/name" on the board; without it the hub name, or "local/" and the folder's name.
            device: of the encoders.
            batch_size: clips encoded at once: 1 on a CPU, more on a GPU. mteb's own is of what it loads at once.
            folders: `audio_model` and `text_model`, as `from_pretrained` takes them.

        Raises UsageError where mteb is not installed, and as `from_pretrained` does.
        """
        required_library("mteb", "mteb", "MtebEncoder")
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        if isinstance(model_name, EmotionRankCLAP):
            self.model, known_as = model_name, "local/emotionrankclap"
        else:
            self.model = EmotionRankCLAP.from_pretrained(model_name, revision, device or "auto", **folders)
            folder = Path(model_name).expanduser()
            known_as = f"local/{folder.resolve().name}" if folder.is_dir() else str(model_name)
        self.batch_size = batch_size
        about = {
            "name": name or known_as,
            "revision": revision or _digest(self.model),
            "embed_dim": self.model.heads.audio.out_features,
            "modalities": ["audio", "text"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["PyTorch"],
            "use_instructions": False,
        }
        self.mteb_model_meta = ModelMeta.create_empty(about)

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> NDArray[np.float32]:
        """Batches with "audio", "text" or both -> (n, d) unit vectors; of both it is their sum, as with mteb's CLAP.

        The task's own sentences are encoded as they are: prompts are the board's. Raises UsageError that names every
        clip of a batch that cannot be used, by its place there.
        """
        found = []
        for batch in inputs:
            sides = {"audio": self._speech, "text": self._text}
            parts = [encode(batch[side]) for side, encode in sides.items() if side in batch]
            if not parts:
                raise UsageError("mteb", f"a batch of {', '.join(batch)}", "audio or text", "Choose another task.")
            found.append(np.sum(parts, axis=0))
        return np.concatenate(found)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(n, d) or (d,) and (m, d) or (d,) -> (n, m) cosines."""
        first, second = (torch.as_tensor(each).reshape(-1, each.shape[-1]) for each in (embeddings1, embeddings2))
        return torch.nn.functional.normalize(first, dim=-1) @ torch.nn.functional.normalize(second, dim=-1).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(n, d) twice -> (n,) cosines."""
        return torch.cosine_similarity(torch.as_tensor(embeddings1), torch.as_tensor(embeddings2), dim=-1)

    def _speech(self, clips: Sequence[Any]) -> NDArray[np.float32]:
        """`clips` have "array", (samples,) or (channels, samples), and "sampling_rate": dicts, or torchcodec's."""
        waves = [np.atleast_2d(np.asarray(clip["array"], dtype=np.float32)).mean(axis=0) for clip in clips]
        rates = np.array([int(clip["sampling_rate"]) for clip in clips])
        vectors = np.empty((len(clips), self.model.heads.audio.out_features), dtype=np.float32)
        for rate in np.unique(rates).tolist():
            rows = np.flatnonzero(rates == rate)
            vectors[rows] = self.model.encode_speech([waves[row] for row in rows], rate, self.batch_size)
        return vectors

    def _text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(self.model.encode_text(list(sentences)))


def _digest(model: EmotionRankCLAP) -> str:
    """A hash of everything that changes a vector."""
    digest = hashlib.blake2b(model.config.fingerprint.model_dump_json().encode(), digest_size=16)
    for name, tensor in sorted(model.heads.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
