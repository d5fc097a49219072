"""A sentence in, the utterances that sound like it out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.stores import CONFIG, Stores
from pipeline.config import ExtractConfig, validate
from pipeline.device import pick_device
from pipeline.encoders import load_text_encoder
from pipeline.errors import StoreMismatch
from pipeline.run import Run, open_run
from pipeline.yaml_tree import read_yaml


def search(
    run: Run | str | Path,
    sentences: Sequence[str],
    *,
    stores: Stores | None = None,
    split: str | None = None,
    top: int = 5,
    device: str = "auto",
) -> list[list[dict[str, Any]]]:
    """For each sentence the `top` nearest utterances by cosine (of `split`, or of all), nearest first.

    A hit has id, audio, similarity, valence, arousal and emotion. Raises StoreMismatch when the text encoder named by
    the stores' config no longer has the weights the stores were made with.
    """
    run = run if isinstance(run, Run) else open_run(run)
    stores = run.stores(stores)
    config = validate(ExtractConfig, read_yaml(stores.folder / CONFIG), subject=str(stores.folder / CONFIG))
    encoder = load_text_encoder(config.text, str(pick_device(device)))
    if encoder.fingerprint() != stores.text.fingerprint["encoder"]:
        raise StoreMismatch(
            stores.text.path, "another text encoder", "the one the stores were made with", "Restore it."
        )
    manifest, heads = stores.manifest, run.heads_for(stores)
    rows = manifest.rows(split) if split else np.arange(len(manifest))
    speech, done = stores.audio.read(rows)
    rows = rows[done]
    with torch.no_grad():
        asked = heads.embed_text(encoder.encode(list(sentences)))
        found = heads.embed_speech(torch.tensor(speech[done], dtype=torch.float32))
    nearest = (asked @ found.T).topk(min(top, len(rows)))
    return [
        [
            {
                "id": manifest.id[row],
                "audio": str(config.corpus.root / manifest.audio[row]) if config.corpus.root else manifest.audio[row],
                "similarity": similarity,
                "valence": float(manifest.valence[row]),
                "arousal": float(manifest.arousal[row]),
                "emotion": manifest.emotion[row],
            }
            for row, similarity in zip(rows[places].tolist(), values, strict=True)
        ]
        for places, values in zip(nearest.indices.numpy(), nearest.values.tolist(), strict=True)
    ]
