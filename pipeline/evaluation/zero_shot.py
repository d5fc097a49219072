"""Zero-shot recognition of a RUN on any stores of the same encoders, its own test split or another corpus (F29)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.stores import Stores
from pipeline.device import pick_device
from pipeline.errors import UsageError
from pipeline.evaluation.recognition import recognition
from pipeline.run import Run, open_run

TEMPLATE = "this person is feeling {emotion}."


def zero_shot(
    run: Run | str | Path,
    stores: Stores | str | Path | None = None,
    *,
    split: str | None = None,
    template: str = TEMPLATE,
    classes: Sequence[str] | None = None,
    merge: Mapping[str, str] | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """WAR, UAR and confusion of every seed of `run` on the utterances of `split` (of all, when none is named).

    `classes` and `merge` are those of `recognition`, e.g. IEMOCAP's four classes with excited counted as happy (F26).
    `war` and `uar` hold `mean` and `std` over seeds, `confusion` is summed over seeds, `seeds` holds each seed's own.
    Raises StoreMismatch when the stores' encoders are not those of the heads, UsageError when there are no class
    prompts (extract-features with the style `template`) or no utterance has a category.
    """
    run = run if isinstance(run, Run) else open_run(run)
    opened = run.stores(stores)
    chosen = pick_device(device)
    prompts = opened.captions.classes
    row_of = {text: row for row, text in enumerate(opened.captions.texts())}
    vectors, asked = opened.text.read(np.array([row_of[prompt.text] for prompt in prompts], dtype=np.int64))
    if not prompts or not asked.all():
        raise UsageError(
            opened.folder,
            "no class prompts",
            "the style template",
            "extract-features -o captions.styles=[template,...]",
        )
    manifest = opened.manifest
    rows = manifest.rows(split) if split else np.arange(len(manifest))
    speech, done = opened.audio.read(rows)
    emotions = [manifest.emotion[row] for row in rows[done].tolist()]
    tensors = [torch.tensor(values, dtype=torch.float32, device=chosen) for values in (speech[done], vectors)]
    seeds = {}
    for seed in run.seeds:
        heads = run.heads_for(opened, seed).to(chosen)
        with torch.no_grad():
            embedded, named = heads.embed_speech(tensors[0]).cpu(), heads.embed_text(tensors[1]).cpu()
        seeds[str(seed)] = recognition(
            embedded, emotions, prompts=prompts, vectors=named, classes=classes, template=template, merge=merge
        )
    first = next(iter(seeds.values()))
    return {
        "stores": str(opened.folder),
        "split": split or "all",
        **{name: mean_and_std([found[name] for found in seeds.values()]) for name in ("war", "uar")},
        **{name: first[name] for name in ("chance", "majority", "classes", "template", "n", "left_out", "convention")},
        "confusion": np.sum([found["confusion"] for found in seeds.values()], axis=0).tolist(),
        "seeds": seeds,
    }


def mean_and_std(values: Sequence[float]) -> dict[str, float]:
    """Over seeds; the std is the sample's, 0 for one value."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
