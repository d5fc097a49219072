"""What stage one would do, and what a person should check before it does: nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.config import ExtractConfig
from pipeline.core.resources import torch_defaults
from pipeline.extraction.extract import DTYPES, audio_plan, plan_captions, read_inputs, resolve_extraction
from pipeline.extraction.status import sources_of


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
    inputs = read_inputs(config, device=device, out=Path(out), strict=strict)
    rows = sources_of(inputs.manifest, inputs.decoding(inputs.audio), Path(out) / "audio.h5")
    texts = len(plan_captions(inputs.manifest, inputs.config).texts())
    size = np.dtype(DTYPES[inputs.config.store_dtype]).itemsize
    return {
        "stores": str(out),
        "utterances": dict(Counter(inputs.manifest.split)),
        "audio_hours": round(float(rows.lengths.sum()) / inputs.audio.sample_rate / 3600, 3),
        "headers_unreadable": int((rows.lengths == 0).sum()),
        "batches": len(audio_plan(inputs, rows.lengths)),
        "texts": texts,  # acoustic captions are not known before the features are
        "audio_encoder": inputs.speech_fingerprint(inputs.audio),
        "text_encoder": inputs.text_fingerprint(inputs.text),
        "bytes": size * (len(rows) * inputs.audio.dim + texts * inputs.text.dim),
    }
