"""Planted stores: embeddings generated from known valence and arousal plus noise, at the real corpus's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.captions import write_captions
from cache.carry import Plan, open_for_writing
from cache.layout import Rows
from cache.manifest import Manifest, write_manifest
from cache.stores import Stores, open_stores
from cache.writer import StoreWriter
from pipeline.captions import Source, plan_captions
from pipeline.config import CaptionsConfig

MSP_PODCAST = {"train": 90_022, "dev": 25_258, "test1": 34_963}  # F10


def plant(
    folder: Path,
    splits: dict[str, int],
    *,
    audio_width: int = 1024,
    text_width: int = 768,
    noise: float = 1.0,
    seed: int = 0,
) -> Stores:
    """Write stores whose speech and text vectors are a fixed random map of (valence, arousal) plus unit `noise`."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    split = [name for name, count in splits.items() for _ in range(count)]
    count = len(split)
    truth = np.clip(draw.normal(4.0, 1.1, (count, 2)), 1, 7)
    ratings = np.clip(np.rint(truth[:, None, :] + draw.normal(0, 0.8, (count, 5, 2))), 1, 7)
    labels = ratings.mean(1)  # five raters
    blank = [""] * count
    manifest = Manifest(
        root=folder, id=[f"u{i}" for i in range(count)], audio=[f"{i}.wav" for i in range(count)], split=split,
        valence=labels[:, 0], arousal=labels[:, 1], dominance=np.full(count, np.nan), emotion=blank, speaker=blank,
        gender=blank, intensity=blank, caption=blank,
    )  # fmt: skip
    captions = plan_captions(Source(manifest), CaptionsConfig())
    texts = captions.texts()
    meant = np.full((len(texts), 2), np.nan)
    row_of = {text: row for row, text in enumerate(texts)}
    for caption in captions.captions:
        meant[row_of[caption.text]] = labels[caption.rows].mean(0)
    for prompt in captions.prompts:
        meant[row_of[prompt.text]] = prompt.valence, prompt.arousal
    speech = _vectors(truth, audio_width, noise, np.random.default_rng(1))
    write_manifest(manifest, folder / "manifest.csv")
    write_captions(captions, folder / "captions.jsonl")
    _store(folder / "audio.h5", "audio", manifest.id, speech)
    _store(folder / "text.h5", "text", texts, _vectors(meant, text_width, noise / 2, np.random.default_rng(2)))
    return open_stores(folder)


def _vectors(points: np.ndarray, width: int, noise: float, draw: np.random.Generator) -> np.ndarray:
    hidden = np.tanh((points - 4) / 3 @ draw.normal(0, 1, (2, 64)) + draw.normal(0, 1, 64))
    signal = hidden @ draw.normal(0, 1 / 8, (64, width))
    return (signal + noise * draw.standard_normal((len(points), width))).astype(np.float32)


def _store(path: Path, kind: str, ids: list[str], vectors: np.ndarray) -> None:
    rows = Rows(ids, np.zeros((len(ids), 2), np.int64), np.zeros(len(ids), np.int64))
    fingerprint = {"store_version": 1, "encoder": {"encoder": "planted"}}
    store, _ = open_for_writing(Plan(path, kind, rows, width=vectors.shape[1], dtype="<f4", fingerprint=fingerprint))
    with StoreWriter(store) as writer:
        for row, vector in enumerate(vectors):
            writer.commit(row, vector, row.to_bytes(16, "little"))
