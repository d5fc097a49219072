"""Speech and text in one plane, before the heads and after, and the gap between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.heads import Heads
from pipeline.report.exhibit import Exhibit

NAME = "planes"
SHOWN = 400  # utterances drawn; components, shares and gaps are of all
_PANELS = ("speech before", "text before", "both after")
_MARKERS = {"speech": "o", "text": "^"}
GAP = (
    "distance between the centroids of the L2-normalised embeddings of speech and of text (Liang et al. 2022, Mind the "
    "gap), over utterances with the first caption of each; 0 is none, and for embeddings without negative entries "
    "(ReLU heads) √2 is the largest"
)


@dataclass(frozen=True)
class Plane:
    """(n, 2) coordinates on the first two principal components, and the share of the variance that each holds."""

    points: Tensor
    shares: tuple[float, float]


def modality_gap(speech: Tensor, text: Tensor) -> float:
    """Distance between the centroids of unit vectors (n, d) and (m, d)."""
    return float(torch.linalg.vector_norm(speech.double().mean(0) - text.double().mean(0)))


def first_captions(pairs: CachedPairs) -> Tensor:
    """(n, Dt) the vector of each utterance's first caption."""
    return pairs.text[pairs.caption[pairs.offsets[:-1]]]


def plane(vectors: Tensor) -> Plane:
    """The first two principal components of (n, d). The entry of a component that is largest by size is positive."""
    centred = vectors - vectors.mean(0)
    spread, axes = torch.linalg.eigh((centred.T @ centred).double().cpu())  # d x d: n may be 35,000
    chosen = axes[:, -2:].flip(1)
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()
    points = centred.double().cpu() @ chosen
    held = (spread.clamp(min=0) / spread.clamp(min=0).sum().clamp(min=1e-30)).flip(0)[:2].tolist()
    lacking = 2 - points.shape[1]  # heads of one dimension
    first, second = held + [0.0] * lacking
    return Plane(torch.nn.functional.pad(points, (0, lacking)), (first, second))


def planes(heads: Heads, pairs: CachedPairs) -> Exhibit:
    """Each modality on components of its own before the heads, and both on shared ones after them."""
    text = first_captions(pairs)
    with torch.no_grad():
        before = heads.standardise(pairs.speech, text)
        after = torch.cat([heads.embed_speech(pairs.speech), heads.embed_text(text)])
    found = dict(zip(_PANELS, map(plane, (*before, after)), strict=True))
    rows = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:SHOWN].sort().values
    return Exhibit(
        NAME,
        "Speech and text in the plane",
        "Principal components of the test split. Before the heads the modalities have spaces of their own, so each has "
        "its own components (standardised encoder vectors); after them both are in one space, on shared components. "
        f"Circles are speech, triangles text; {len(rows)} of {len(pairs)} utterances are drawn.",
        ("row", "panel", "modality", "first", "second", "valence", "arousal"),
        list(_lines(found, rows, pairs)),
        lambda figure: _draw(figure, found, rows, pairs.labels.cpu()),
        (10.5, 7.0),
    )


def _series(panel: str, found: Plane, rows: Tensor) -> list[tuple[str, Tensor]]:
    """The modalities of a panel and their points."""
    if panel != _PANELS[2]:
        return [(panel.split()[0], found.points[rows])]
    return [("speech", found.points[rows]), ("text", found.points[rows + len(found.points) // 2])]


def _lines(found: Mapping[str, Plane], rows: Tensor, pairs: CachedPairs) -> Sequence[tuple[Any, ...]]:
    utterances, labels = pairs.rows[rows.numpy()].tolist(), pairs.labels.cpu()[rows, :2].tolist()
    return [
        (utterance, panel, modality, *point, *label)
        for panel, of in found.items()
        for modality, points in _series(panel, of, rows)
        for utterance, point, label in zip(utterances, points.tolist(), labels, strict=True)
    ]


def _draw(figure: Any, found: Mapping[str, Plane], rows: Tensor, labels: Tensor) -> None:
    grid = figure.subplots(2, len(found))
    for modality, marker in _MARKERS.items():
        grid[0, 0].scatter([], [], facecolor="0.7", edgecolors="black", marker=marker, label=modality)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    for line, (name, colours) in enumerate((("valence", "viridis"), ("arousal", "plasma"))):
        for axes, (panel, of) in zip(grid[line], found.items(), strict=True):
            drawn = None
            for modality, points in _series(panel, of, rows):
                look = {"c": labels[rows, line].numpy(), "cmap": colours, "vmin": 1, "vmax": 7, "plotnonfinite": True}
                look |= {"marker": _MARKERS[modality], "s": 18, "edgecolors": "black", "linewidths": 0.3}
                drawn = axes.scatter(*points.T.numpy(), **look)
            first, second = (f"{share:.0%}" for share in of.shares)
            axes.set(xlabel=f"first component ({first})", ylabel=f"second ({second})")
            axes.set_title(panel if line == 0 else "")
        figure.colorbar(drawn, ax=list(grid[line]), label=f"{name} (1-7)", pad=0.01)
