"""Stores of which everything that only the test splits have is rubbish: what reads it, shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py

from cache.stores import open_stores


def with_rubbish_in_the_test_splits(stores: Path, out: Path) -> Path:
    """A copy of `stores` at `out` in which every vector, label and caption's vector of test rows alone is replaced."""
    shutil.copytree(stores, out)
    opened = open_stores(out)
    test = [row for row, split in enumerate(opened.manifest.split) if split.startswith("test")]
    seen = {caption.text for caption in opened.captions.captions if set(caption.rows) - set(test)}
    seen |= {text for part in (opened.captions.prompts, opened.captions.grid) for text in part.columns["text"]}
    unseen = [row for row, text in enumerate(opened.captions.texts()) if text not in seen]
    for store, rows in (("audio.h5", test), ("acoustic.h5", test), ("text.h5", unseen)):
        assert rows
        if (out / store).exists():
            with h5py.File(out / store, "r+") as file:
                vectors = file["vectors"][:]
                vectors[rows] = 1e30
                file["vectors"][:] = vectors
    lines = (out / "manifest.csv").read_text().splitlines()
    fields = lines[0].split(",")
    for row in test:
        values = lines[row + 1].split(",")
        values[fields.index("valence")] = values[fields.index("arousal")] = "1"
        values[fields.index("emotion")] = "neutral"
        lines[row + 1] = ",".join(values)
    (out / "manifest.csv").write_text("\n".join(lines) + "\n")
    (out / "digests.json").unlink()
    return out
