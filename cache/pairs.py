"""Pairs of speech and text as tensors on the device: the whole training set, indexed, never loaded row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.captions import Links
from cache.errors import UsageError
from cache.manifest import LABEL_COLUMNS
from cache.stores import Stores


@dataclass(frozen=True)
class CachedPairs:
    """n utterances, each with one or more captions of one style.

    The captions of utterance i are rows `caption[offsets[i]:offsets[i + 1]]` of `text`.
    """

    rows: NDArray[np.int64]  # (n,) manifest rows
    speech: torch.Tensor  # (n, audio width) float32
    text: torch.Tensor  # (T, text width) float32, only texts that these utterances use
    offsets: torch.Tensor  # (n + 1,) int64
    caption: torch.Tensor  # (M,) int64
    labels: torch.Tensor  # (n, 3) float64: valence, arousal, dominance on 1-7
    notes: list[str]  # rows left out and why, to be said aloud

    def __len__(self) -> int:
        return len(self.speech)

    def draw_captions(self, generator: torch.Generator) -> torch.Tensor:
        """(n,) one row of `text` for each utterance, drawn from `generator` (on the CPU)."""
        counts = self.offsets.diff()
        draws = torch.rand(len(self), generator=generator, dtype=torch.float64).to(counts.device)
        return self.caption[self.offsets[:-1] + (draws * counts).long()]


def cached_pairs(stores: Stores, *splits: str, style: str, device: str | torch.device = "cpu") -> CachedPairs:
    """The labelled pairs of `splits` whose speech and captions are done, as tensors on `device`.

    Only rows of `splits` are read. Raises UsageError when nothing is left or `style` has no captions.
    """
    manifest, captions = stores.manifest, stores.captions
    name = f"{stores.folder} ({', '.join(splits)})"
    if style not in captions.styles():
        known = ", ".join(captions.styles()) or "none"
        raise UsageError(stores.folder, f"no captions of style {style}", f"one of: {known}", "Name another style.")
    links = captions.links(style, len(manifest))
    chosen = manifest.rows(*splits)
    labelled = chosen[np.isfinite(manifest.valence[chosen]) & np.isfinite(manifest.arousal[chosen])]
    speech, done = stores.audio.read(labelled)
    owner, caption = _captions_of(links, labelled)
    used, caption = np.unique(caption, return_inverse=True)
    text, text_done = stores.text.read(used)
    usable = done[owner] & text_done[caption]
    keep = np.zeros(len(labelled), dtype=bool)
    keep[owner[usable]] = True
    notes = _left_out(name, len(chosen) - len(labelled), int((~done).sum()), int((done & ~keep).sum()))
    if not keep.any():
        raise UsageError(name, "no labelled pair that is done", "at least one", "See extract-features --status.")
    counts = np.bincount(owner[usable], minlength=len(labelled))[keep]
    rows = labelled[keep]
    labels = np.stack([getattr(manifest, column)[rows] for column in LABEL_COLUMNS], axis=1)
    return CachedPairs(
        rows=rows,
        speech=_tensor(speech[keep], device),
        text=_tensor(text, device),
        offsets=torch.tensor(np.concatenate([[0], np.cumsum(counts)]), device=device),
        caption=torch.tensor(caption[usable], device=device),
        labels=torch.tensor(labels, dtype=torch.float64, device=device),
        notes=notes,
    )


def _captions_of(links: Links, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every caption of `rows`: the position in `rows` it belongs to, ascending, and its text row."""
    starts, counts = links.offsets[rows], links.offsets[rows + 1] - links.offsets[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    first = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return owner, links.text[first + np.arange(len(owner))]


def _tensor(values: NDArray[np.floating[Any]], device: str | torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)  # a copy, aligned by torch


def _left_out(name: str, unlabelled: int, undone: int, captionless: int) -> list[str]:
    reasons = {
        "without valence and arousal": unlabelled,
        "failed or pending (see extract-features --status)": undone,
        "without a caption that is done": captionless,
    }
    return [f"{name}: {count} utterances left out: {why}" for why, count in reasons.items() if count]
