"""What stage one would do, and what a person should check before it does: nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions
from cache.manifest import LABEL_COLUMNS, Manifest
from pipeline.core.config import ExtractConfig
from pipeline.core.errors import MissingEncoder
from pipeline.core.resources import pick_device, torch_defaults
from pipeline.data.corpora.data_tables import DataTable
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.audio.praat import load_praat
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.probe import refuse_equal_vectors
from pipeline.extraction.encoders.speech import with_precision
from pipeline.extraction.extract import (
    DTYPES,
    Inputs,
    audio_plan,
    wants_acoustic,
)
from pipeline.extraction.settings import read_labels, resolve_extraction, with_layers, with_table_written
from pipeline.extraction.status import sources_of

SAMPLES = 3  # captions
DEFAULT_RATE = 16_000  # Hz, of a speech encoder that is not at hand
T = TypeVar("T")


@torch_defaults()
def plan_extraction(
    config: str | Path | ExtractConfig | DataTable,
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

    Encoders that are not on this machine are named in `missing_encoders`; what needs both encoders is
    None then. Raises what `extract` would raise over the config, the corpus and the encoders that are there.
    """
    with TemporaryDirectory() as folder:  # of a table in memory, which `extract` writes into `out`
        config, audio_root = with_table_written(config, Path(folder), audio_root)
        config = resolve_extraction(config, audio_root=audio_root, encoders=encoders, overrides=overrides)
        return _planned(config, Path(out), device, strict=strict)


def _planned(config: ExtractConfig, out: Path, device: str, *, strict: bool) -> dict[str, Any]:
    config = with_layers(config, out)
    manifest, captions = read_labels(config, strict=strict)
    missing: list[str] = []
    chosen = pick_device(device)
    audio = _at_hand(lambda: load_encoder("audio", with_precision(config.audio, chosen), str(chosen)), missing)
    text = _at_hand(lambda: load_encoder("text", config.text, str(chosen)), missing)
    if wants_acoustic(config, out):
        _at_hand(load_praat, missing)
    refuse_equal_vectors(audio, text)
    inputs = Inputs(config, manifest, chosen, audio, text, None) if audio and text else None
    rate = audio.sample_rate if audio else DEFAULT_RATE
    rows = sources_of(manifest, Decoding(rate, config.audio.max_seconds, config.audio.crop), out / "audio.h5")
    texts, spoken = len(captions.texts()), len(manifest.transcript or ())
    size = np.dtype(DTYPES[config.store_dtype]).itemsize
    return {
        "stores": str(out),
        "utterances": dict(Counter(manifest.split)),
        "speakers": len(set(manifest.speaker) - {""}),
        "emotions": dict(Counter(filter(None, manifest.emotion)).most_common()),
        "labels": {name: summary for name in LABEL_COLUMNS if (summary := _summary(getattr(manifest, name)))},
        "leaks": len(manifest.leaks),
        "audio_hours": round(float(rows.lengths.sum()) / rate / 3600, 3),
        "headers_unreadable": int((rows.lengths == 0).sum()),
        "batches": len(audio_plan(inputs, rows.lengths)) if inputs else None,
        "captions": _samples(captions, manifest),
        "texts": texts,  # acoustic captions are not known before the features are
        "audio_encoder": inputs.speech_fingerprint(inputs.audio) if inputs else None,
        "text_encoder": inputs.text_fingerprint(inputs.text) if inputs else None,
        "bytes": size * (len(rows) * inputs.audio.dim + (texts + spoken) * inputs.text.dim) if inputs else None,
        "missing_encoders": missing,
    }


def _at_hand(load: Callable[[], T], missing: list[str]) -> T | None:
    """The encoder that `load` gives; None where it is not on this machine, and why among `missing`."""
    try:
        return load()
    except MissingEncoder as error:
        missing.append(str(error))
        return None


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
