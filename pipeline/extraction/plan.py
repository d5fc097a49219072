"""What stage one would do, and what a person should check before it does: nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions
from cache.manifest import LABEL_COLUMNS, Manifest
from pipeline.core.config import ExtractConfig
from pipeline.core.resources import torch_defaults
from pipeline.extraction.encoders.probe import refuse_equal_vectors
from pipeline.extraction.extract import DTYPES, audio_plan, plan_captions, read_inputs, resolve_extraction, with_layers
from pipeline.extraction.status import sources_of

SAMPLES = 3  # captions


@torch_defaults()
def plan_extraction(
    config: str | Path | ExtractConfig,
    *,
    out: str | Path,
    audio_root: str | Path | None = None,
    encoders: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    strict: bool = False,
) -> dict[str, Any]:
    """What `extract` would do with the same arguments; nothing is written.

        plan_extraction("my/manifest.csv", out="stores/mine")["utterances"]    # {"train": 120, "dev": 40, "test": 40}

    Raises what `extract` would raise over the config, the corpus and the encoders.
    """
    config = resolve_extraction(config, audio_root=audio_root, encoders=encoders, overrides=overrides)
    config = with_layers(config, Path(out))
    inputs = read_inputs(config, device=device, out=Path(out), strict=strict)
    refuse_equal_vectors(inputs.audio, inputs.text)
    rows = sources_of(inputs.manifest, inputs.decoding(inputs.audio), Path(out) / "audio.h5")
    manifest, captions = inputs.manifest, plan_captions(inputs.manifest, inputs.config)
    texts = len(captions.texts())
    size = np.dtype(DTYPES[inputs.config.store_dtype]).itemsize
    return {
        "stores": str(out),
        "utterances": dict(Counter(manifest.split)),
        "speakers": len(set(manifest.speaker) - {""}),
        "emotions": dict(Counter(filter(None, manifest.emotion)).most_common()),
        "labels": {name: summary for name in LABEL_COLUMNS if (summary := _summary(getattr(manifest, name)))},
        "leaks": len(manifest.leaks),
        "audio_hours": round(float(rows.lengths.sum()) / inputs.audio.sample_rate / 3600, 3),
        "headers_unreadable": int((rows.lengths == 0).sum()),
        "batches": len(audio_plan(inputs, rows.lengths)),
        "captions": _samples(captions, manifest),
        "texts": texts,  # acoustic captions are not known before the features are
        "audio_encoder": inputs.speech_fingerprint(inputs.audio),
        "text_encoder": inputs.text_fingerprint(inputs.text),
        "bytes": size * (len(rows) * inputs.audio.dim + texts * inputs.text.dim),
    }


def _summary(values: NDArray[np.float64]) -> dict[str, float]:
    """Of a label on 1-7, as it will be trained on; empty where no utterance has it."""
    present = values[~np.isnan(values)]
    if not len(present):
        return {}
    figures = {"min": present.min(), "max": present.max(), "mean": present.mean(), "std": present.std()}
    return {"count": len(present)} | {name: round(float(value), 3) for name, value in figures.items()}


def _samples(captions: Captions, manifest: Manifest) -> dict[str, str]:
    """A caption of each of a few utterances, spread over the captions, by the utterance's id."""
    all_captions = captions.captions
    places = np.linspace(0, len(all_captions) - 1, min(SAMPLES, len(all_captions))).astype(int).tolist()
    return {manifest.id[all_captions[place].rows[0]]: all_captions[place].text for place in places}
