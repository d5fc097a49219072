"""A small extraction, whole but for its encoders, which are quick: what the faults are tried on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import pipeline.extraction.extract
import pipeline.extraction.plan
from cache.header import DONE
from cache.layers import Axes
from cache.reader import Store
from pipeline.core.config import ExtractConfig
from pipeline.extraction.extract import extract
from tests.speech import QUICK, QUICK_OPTIONS, write_corpus

STYLE = "captions.styles=[template]"
OPTIONS = [*QUICK_OPTIONS, "-o", STYLE]
WIDTH = 8


class QuickEncoder:
    """A vector of a clip or a text that depends on all of it."""

    dim = WIDTH
    axes: Axes | None = None
    sample_rate = 16_000

    def __init__(self, slow_below: int = 0, weights: str = "sha256:0") -> None:
        self.slow_below = slow_below  # samples; a clip of less takes a minute
        self.weights = weights

    def fingerprint(self) -> dict[str, Any]:
        return {"name": "quick", "weights": self.weights}

    def prepare(self, inputs: Any) -> Any:
        return inputs

    def compute(self, prepared: Any) -> torch.Tensor:
        if min(map(len, prepared)) < self.slow_below:
            time.sleep(60)
        numbers = [np.frombuffer(x.encode(), np.uint8) if isinstance(x, str) else np.asarray(x) for x in prepared]
        rows = [[float(n.astype(np.float64)[k::WIDTH].sum()) + 0.5 for k in range(WIDTH)] for n in numbers]
        return torch.tensor(rows, dtype=torch.float32)

    def encode(self, inputs: Any) -> torch.Tensor:
        return self.compute(self.prepare(inputs))


def quick_encoders(patch: pytest.MonkeyPatch, **options: Any) -> None:
    """Let stage one use quick encoders; `options` are the speech encoder's."""

    def one_vector(config: ExtractConfig, *_: object, **__: object) -> ExtractConfig:
        return config.model_copy(update={"audio": config.audio.model_copy(update={"layers": None})})

    def load_encoder(kind: str, *_: object) -> QuickEncoder:
        return QuickEncoder(**options) if kind == "audio" else QuickEncoder()

    for module in (pipeline.extraction.extract, pipeline.extraction.plan):
        patch.setattr(module, "load_encoder", load_encoder)
        patch.setattr(module, "with_layers", one_vector)
    patch.setenv("EMOTIONRANKCLAP_CACHE", "")  # so that a second run does what the first did


def small_corpus(folder: Path) -> Path:
    """Six clips, of which two are spoiled."""
    manifest = write_corpus(folder, 6)
    audio = folder / "audio"
    (audio / "u01.wav").write_bytes(b"this is no audio")
    (audio / "u05.wav").write_bytes(b"")
    return manifest


def run_small(manifest: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Extract it."""
    return extract(manifest, out=out, overrides=[*QUICK, STYLE], **options)


def check_rows(out: Path, whole: Path) -> None:
    """The stores of `out` open, in plain HDF5 too, and no row that counts as done is another than in `whole`."""
    for name in ("audio.h5", "text.h5"):
        if (out / name).exists():
            store, right = Store.open(out / name), Store.open(whole / name)
            done = np.flatnonzero(store.scan() == DONE)
            with h5py.File(store.path) as file:
                assert file["vectors"].shape == (len(store), store.dim)
                seen = file["vectors"][:][done]
            rows = np.array([right.ids.index(store.ids[row]) for row in done], dtype=np.int64)
            vectors, known = right.read(rows)
            assert known.all()
            assert np.array_equal(seen, vectors)
            assert store.checksum_matches()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".writer.lock"}
